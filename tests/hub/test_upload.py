"""Uploads with huggingface_hub's own client, to a server on this machine that answers like the hub."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import perceiver_kit as kit

from ..strategies import tiny

REPOSITORY = "somebody/digits"


@dataclasses.dataclass
class Hub:
    """What was committed, and which step the hub refuses or breaks off."""

    address: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    created: list[dict] = dataclasses.field(default_factory=list)
    commits: list[str] = dataclasses.field(default_factory=list)
    tokens: set[str | None] = dataclasses.field(default_factory=set)
    refused: str = ""
    broken: str = ""

    def post(self, path: str, body: bytes) -> dict:
        """The answer to a request of the client."""
        if path.endswith("/create"):
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/{REPOSITORY}"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if path.endswith("/validate-yaml"):
            return {"warnings": [], "errors": []}
        header, *lines = [json.loads(line) for line in body.splitlines()]
        self.commits.append(header["value"]["summary"])
        self.files |= {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines}
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.address}/{REPOSITORY}/commit/{'0' * 40}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.tokens.add(self.headers["Authorization"])
            if state.broken and state.broken in self.path:
                self.close_connection = True
                return
            refused = bool(state.refused) and state.refused in self.path
            answer = json.dumps({"error": "no"} if refused else state.post(self.path, body)).encode()
            self.send_response(403 if refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    state.address = f"http://127.0.0.1:{serving.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.address)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer after each failure
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    yield state
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_what_is_uploaded_loads_in_one_commit(hub: Hub, tmp_path: Path) -> None:
    model = tiny("sequence_classification")
    card = {"text": "Reads digits.", "license": "cc0-1.0"}
    address = kit.push_to_hub(model, REPOSITORY, card=card, private=True, message="First")
    assert address.endswith(f"{REPOSITORY}/commit/{'0' * 40}")
    assert hub.commits == ["First"]
    [made] = hub.created
    assert (made["organization"], made["name"]) == ("somebody", "digits")
    assert made.get("private") or made.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_of_the_environment"}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    loaded = kit.load(tmp_path)
    assert kit.spec(loaded) == kit.spec(model)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    written = ModelCard(hub.files["README.md"].decode())
    assert written.data.license == "cc0-1.0"
    assert f'kit.load("{REPOSITORY}")' in written.text


def test_without_a_card_the_repository_s_stays_and_a_given_token_is_used(hub: Hub) -> None:
    kit.push_to_hub(tiny("sequence_classification"), REPOSITORY, token="hf_given")
    assert sorted(hub.files) == ["config.json", "model.safetensors"]
    assert hub.tokens == {"Bearer hf_given"}


@pytest.mark.parametrize("step", ["/create", "/preupload/", "/commit/"])
@pytest.mark.parametrize(("fault", "words"), [("refused", "the hub refuses"), ("broken", "no upload to")])
def test_a_failing_upload_is_one_line_and_commits_nothing(hub: Hub, step: str, fault: str, words: str) -> None:
    setattr(hub, fault, step)
    with pytest.raises(kit.CheckpointError, match=words) as caught:
        kit.push_to_hub(tiny("sequence_classification"), REPOSITORY)
    assert REPOSITORY in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not hub.files


def test_without_a_token_or_with_a_wrong_name_the_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sequence_classification")
    for wrong in ("digits", "a/b/c", "", "a b/c", 3):
        with pytest.raises(kit.CheckpointError, match="repo_id must be owner/name, got"):
            kit.push_to_hub(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(kit.UnknownName, match="did you mean 'license'"):
        kit.push_to_hub(model, REPOSITORY, card={"licence": "mit"})
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(kit.CheckpointError, match="it needs a token that may write: run `hf auth login`"):
        kit.push_to_hub(model, REPOSITORY)
    assert not hub.tokens
