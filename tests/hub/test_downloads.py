"""The hub on this machine: one download, missing repositories, no connection."""

from __future__ import annotations

import dataclasses
import http.server
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

import perceiver_kit as kit

from .reference import refused


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An empty cache, and the hub wherever a test says it is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    template = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"

    def move(endpoint: str) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template[10:])

    return move


@dataclasses.dataclass
class Server:
    """The part of the hub that serves files, on this machine."""

    folder: Path
    address: str = ""
    asked: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture
def server(saved: Path) -> Iterator[Server]:
    state = Server(saved)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            owner, _, file = self.path.strip("/").partition("/resolve/main/")
            path = state.folder / file
            found = owner == "somebody/perceiver" and path.is_file()
            content = path.read_bytes() if found else b"Entry not found"
            self.send_response(200 if found else 404)
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound" if owner == "somebody/perceiver" else "RepoNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{len(content)}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None: ...

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{serving.server_port}"
    yield state
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_a_hub_id_is_downloaded_once(server: Server, hub: Callable[[str], None]) -> None:
    hub(server.address)
    first = kit.load("somebody/perceiver")
    assert kit.spec(first) == kit.spec(kit.load(server.folder))
    before = len(server.asked)
    shutil.rmtree(server.folder)
    again = kit.load("somebody/perceiver")
    assert len(server.asked) == before, "the cache was not enough"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_hub_repository_that_does_not_exist_or_has_only_a_pickle(server: Server, hub: Callable[[str], None]) -> None:
    hub(server.address)
    refused("somebody/else", "somebody/else")
    (server.folder / "model.safetensors").rename(server.folder / "pytorch_model.bin")
    refused("somebody/perceiver", "pytorch_model.bin", "convert")


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers", "no such host"])
def test_a_hub_that_cannot_be_reached_is_one_sentence_soon(kind: str, hub: Callable[[str], None]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "nobody answers":
            listening.listen()
        host = "no-such-host.invalid" if kind == "no such host" else "127.0.0.1"
        hub(f"http://{host}:{listening.getsockname()[1]}")
        start = time.monotonic()
        message = refused("somebody/perceiver", "somebody/perceiver", "cannot be reached")
    assert time.monotonic() - start < 10
    assert "\n" not in message


def test_a_hub_id_of_the_kit_s_own_format(server: Server, hub: Callable[[str], None]) -> None:
    model = kit.assemble(
        dict(x=kit.inputs.Features(3)), dict(y=kit.outputs.Classify(2)), num_latents=4, latent_dim=8, layers=1
    )
    shutil.rmtree(server.folder)
    kit.save(model, server.folder, card={})
    hub(server.address)
    assert kit.spec(kit.load("somebody/perceiver")) == kit.spec(model)
