"""Hugging Face's checkpoints there and back without a changed bit, and refusals that say what is wrong."""

from __future__ import annotations

import dataclasses
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import perceiver_kit as kit
from perceiver_kit.errors import CheckpointError
from perceiver_kit.hub.huggingface import convertible, read_config, write_config

from . import reference
from .reference import ask, relative
from .test_parity import CASES, Case, at, models, raw

SMALL = {case.recipe: case for case in reversed(CASES)}
CONVERSIONS = convertible()
each_recipe = pytest.mark.parametrize("recipe", CONVERSIONS)


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the reference of a recipe saves; sequence_classification unless a test asks for another."""
    case = SMALL[getattr(request, "param", "sequence_classification")]
    models(case)[0].save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(directory: Path, **changes: object) -> Path:
    """A config.json with some keys changed; None takes one away."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory


# ---- there and back


@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back_is_the_same_model(case: Case, tmp_path: Path) -> None:
    theirs, ours = models(case)
    kit.to_huggingface(ours, tmp_path)
    back = reference.architecture(case.recipe).from_pretrained(tmp_path).eval()
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    # What the code reads of a config must survive; what it never does (layer_norm_eps) need not.
    written = json.loads((tmp_path / "config.json").read_text())
    for key, value in theirs.config.to_dict().items():
        if key in written and key not in ("id2label", "label2id"):
            assert written[key] == (list(value) if isinstance(value, tuple) else value), key
    given, options = raw(case, torch.float32), at(case)
    with torch.no_grad():
        found, wanted = (ask(case.recipe, model, given, **options)[0] for model in (back, theirs))
        assert relative(found, wanted) < 1e-6  # theirs compute on tensors as they lie in the file: rounding differs
        again = kit.load(tmp_path)
        assert not again.training
        for name, value in again(given, **options).items():
            assert torch.equal(value, ours(given, **options)[name])


@each_recipe
def test_names_are_a_bijection_and_shapes_agree_at_published_size(recipe: str) -> None:
    with torch.device("meta"):
        ours = kit.build(recipe)
        config = write_config(recipe, ours.recipe["parameters"])
        theirs = reference.architecture(recipe)(transformers.PerceiverConfig.from_dict(config))
    names = reference.parameters(recipe, ours)
    assert len(set(names.values())) == len(names)
    wanted = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {names[name]: tuple(ours.state_dict()[name].shape) for name in names} == wanted
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@each_recipe
def test_numbers_of_a_config_survive_both_ways(recipe: str) -> None:
    with torch.device("meta"):
        parameters = kit.build(recipe).recipe["parameters"]
    name, again = read_config(write_config(recipe, parameters), "config.json")
    differing = {key for key in again if again[key] != parameters[key]}
    assert name == recipe and all(
        (again[key], parameters[key]) in [((224, 224), 224), (30720, None)] for key in differing
    )


def test_what_a_config_leaves_out_has_the_references_value() -> None:
    defaults = transformers.PerceiverConfig()
    for conversion in CONVERSIONS.values():
        for ours, (theirs, default) in conversion.sizes.items():
            assert default == getattr(defaults, theirs), ours


@pytest.mark.parametrize("saved", CONVERSIONS, indirect=True)
def test_a_config_may_leave_out_what_is_default(saved: Path) -> None:
    wanted = kit.load(saved)
    config = json.loads((saved / "config.json").read_text())
    defaults = transformers.PerceiverConfig().to_dict() | {"_label_trainable_num_channels": 1024}
    kept = {"model_type", "architectures", "id2label"}
    left = {key: value for key, value in config.items() if key in kept or (key in defaults and value != defaults[key])}
    assert len(left) < len(config) - 10
    (saved / "config.json").write_text(json.dumps(left))
    assert kit.spec(kit.load(saved)) == kit.spec(wanted)


@pytest.mark.parametrize("labels", [1, 2, 3, 40])
def test_labels_are_counted_where_they_are_not_stored(labels: int, tmp_path: Path) -> None:
    theirs = reference.configured(
        "sequence_classification", **SMALL["sequence_classification"].config | {"num_labels": labels}
    )
    ours = reference.converted(theirs, tmp_path)
    assert ("id2label" in json.loads((tmp_path / "config.json").read_text())) == (labels != 2)
    assert ours(torch.zeros(1, 4, dtype=torch.int64))["label"].shape == (1, labels)
    back = reference.architecture("sequence_classification").from_pretrained(
        kit.to_huggingface(ours, tmp_path / "back")
    )
    assert back.config.num_labels == labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_survive(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = reference.configured("masked_lm", **SMALL["masked_lm"].config).to(dtype)
    ours = reference.converted(theirs, tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}


# ---- refusals


def refused(source: object, *words: str) -> str:
    """``load`` refuses in one line that has these words."""
    with pytest.raises(CheckpointError) as caught:
        kit.load(source)
    message = str(caught.value)
    assert all(word in message for word in words), message
    return message


def rewrite(directory: Path, change: Callable[[dict], object]) -> Path:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


LATENTS = "perceiver.embeddings.latents"


def test_tensors_that_do_not_fit(saved: Path) -> None:
    latents = load_file(saved / "model.safetensors")[LATENTS]
    refused(rewrite(saved, lambda t: t.pop(LATENTS)), "lacks", LATENTS)
    refused(rewrite(saved, lambda t: t.update({LATENTS: latents[1:].clone(), "more": latents})), "unexpected more")
    refused(rewrite(saved, lambda t: t.pop("more")), "mis-shaped", LATENTS, str(tuple(latents.shape)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, ["model_type", "bert", "perceiver"]),
        ({"model_type": None}, ["model_type"]),
        (
            {"architectures": ["PerceiverForMaskedLLM"]},
            ["PerceiverForMaskedLLM", "did you mean 'PerceiverForMaskedLM'"],
        ),
        ({"architectures": ["PerceiverModel"]}, ["architecture", "PerceiverModel"]),
        ({"architectures": None}, ["architecture"]),
        ({"hidden_act": "relu"}, ["hidden_act", "relu", "gelu"]),
        ({"cross_attention_shape_for_attention": "q"}, ["cross_attention_shape_for_attention", "kv"]),
        ({"num_latents": "many"}, ["num_latents"]),
        ({"architectures": 3}, ["config.json is not a Perceiver's: ", "'int' object"]),
        ({"id2label": 3}, ["config.json is not a Perceiver's: ", "'int'"]),
        ({"num_self_attention_heads": 5}, ["divisible", "5 heads"]),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_of_something_else(saved: Path, changes: dict, words: list[str]) -> None:
    refused(edit(saved, **changes), *words)


@pytest.mark.parametrize("saved", ["multimodal_autoencoding"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_frames": 7}, ["num_frames 7", "output_shape"]),
        ({"image_size": 5}, ["output_shape", "image_size"]),
        ({"output_shape": [1, 2]}, ["config.json"]),
    ],
)
def test_video_sizes_that_contradict_each_other(saved: Path, changes: dict, words: list[str]) -> None:
    refused(edit(saved, **changes), *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model_type": "perceiver"'])
def test_a_damaged_config(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    refused(saved, "config.json")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_damaged_weights(saved: Path, keep: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(saved, "model.safetensors", "damaged")


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere")
    refused("three/part/name", "three/part/name", "neither a directory nor the id of a hub repository")
    (saved / "model.safetensors").unlink()
    refused(saved, "model.safetensors")
    (saved / "config.json").unlink()
    refused(saved, "config.json")


def test_a_pickle_is_never_opened_and_the_refusal_converts_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    message = refused(saved, "pytorch_model.bin", "convert")
    monkeypatch.undo()
    command = message.partition('python -c "')[2].rpartition('"')[0]
    monkeypatch.chdir(saved.parent)
    exec(command)
    assert isinstance(kit.load(saved.parent / "converted"), kit.PerceiverIO)


@each_recipe
def test_nothing_is_written_that_hugging_face_has_no_place_for(recipe: str, tmp_path: Path) -> None:
    fixed = {"masked_lm": dict(decoder_heads=4), "sequence_classification": None}.get(recipe, {})
    if fixed is None:
        return  # any of its sizes has a place
    with pytest.raises(CheckpointError, match="to_huggingface") as caught:
        kit.to_huggingface(kit.build(recipe, preset="tiny", **fixed), tmp_path / "written")
    assert any(key in str(caught.value) for key in CONVERSIONS[recipe].fixed), caught.value
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("image_classification_learned", dict(image_size=(8, 9), channels=256), "square"),
        ("image_classification_learned", dict(decoder_residual=False, channels=256), "decoder_residual"),
        ("multimodal_autoencoding", dict(image_size=(32, 48), image_bands=32, audio_bands=192), "square"),
        ("multimodal_autoencoding", dict(audio_samples=4000, num_frames=3, image_bands=32, audio_bands=192), "audio"),
        ("multimodal_autoencoding", dict(hide_label=(0.0, 0.0), image_bands=32, audio_bands=192), "hide_label"),
        ("multimodal_autoencoding", dict(hide_label=(1.0, 0.0), image_bands=32, audio_bands=192), "hide_label"),
        ("optical_flow", dict(bands=64, channels=64, flow_scale=1.0), "flow_scale"),
        ("sequence_classification", dict(v_channels=64), "v_channels"),
        ("sequence_classification", dict(v_channels=None, qk_channels=64), "v_channels"),
        ("image_classification_fourier", dict(bands=64, max_resolution=(224, 224), cross_heads=3), "cross_heads"),
    ],
)
def test_nor_what_it_would_compute_differently(recipe: str, overrides: dict, words: str, tmp_path: Path) -> None:
    model = kit.build(recipe, preset="tiny", **overrides)
    with pytest.raises(CheckpointError, match=words):
        kit.to_huggingface(model, tmp_path)


def test_only_models_of_recipes_are_written(tmp_path: Path) -> None:
    model = kit.build("sequence_classification", preset="tiny")
    by_hand = kit.PerceiverIO(model.inputs, model.encoder, model.queries, model.decoder, model.outputs)
    for other in (by_hand, nn.Linear(2, 2)):
        with pytest.raises(CheckpointError, match="recipe"):
            kit.to_huggingface(other, tmp_path)
    kit.to_huggingface(model, tmp_path)
    model.decoder = kit.Decoder(128, 128, heads=2, query_residual=True)
    with pytest.raises(CheckpointError, match="changed"):
        kit.to_huggingface(model, tmp_path)


def test_where_nothing_can_be_written_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot save to .*file: File exists"):
        kit.to_huggingface(kit.build("sequence_classification", preset="tiny"), tmp_path / "file")


# ---- the hub


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
