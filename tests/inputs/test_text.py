"""Text as rows, compared with the reference, and the embedding that input and output share."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers.models.perceiver import modeling_perceiver as theirs

import perceiver_kit as kit
from perceiver_kit import inputs, outputs
from perceiver_kit.errors import AssemblyError
from perceiver_kit.positions import Fourier, Learned, Projected

from ..hub.reference import randomised, relative
from ..strategies import tiny


@pytest.mark.parametrize("rows", [1, 7, 24])
@torch.no_grad()
def test_rows_equal_the_reference(rows: int) -> None:
    reference = randomised(
        theirs.PerceiverTextPreprocessor(transformers.PerceiverConfig(d_model=8, max_position_embeddings=24))
    )
    ours = inputs.TextTokens(262, 8, positions=Learned((24,), 8))
    ours.embedding.load_state_dict(reference.embeddings.state_dict())
    ours.positions.table.copy_(reference.position_embeddings.weight)
    ids = torch.randint(262, (3, rows))
    assert torch.equal(ours(ids).rows, reference(ids)[0])
    assert torch.equal(ours.embed(ids, "text"), reference(ids)[2])


@torch.no_grad()
def test_positions_may_be_of_any_kind() -> None:
    ids = torch.randint(11, (2, 5))
    fourier = Fourier(bands=3, max_resolution=(9,))
    joined = inputs.TextTokens(11, 4, positions=fourier, combine="concat")
    assert relative(joined(ids).rows, torch.cat([joined.embedding(ids), fourier((5,)).expand(2, -1, -1)], -1)) == 0
    projected = Projected(Fourier(bands=3, max_resolution=(9,)), 4)
    added = inputs.TextTokens(11, 4, positions=projected)
    assert relative(added(ids).rows, added.embedding(ids) + projected((5,))) == 0


@pytest.mark.parametrize("rows", [1, 5, 256])
@torch.no_grad()
def test_short_texts_give_the_same_rows_alone_and_padded(rows: int) -> None:
    model = randomised(copy.deepcopy(tiny("masked_lm")))
    ids = torch.randint(262, (2, rows))
    found = model(ids)["text"]
    assert found.shape == (2, rows, 262)
    padded, keep = torch.zeros(2, 256, dtype=torch.int64), torch.zeros(2, 256, dtype=torch.bool)
    padded[:, :rows], keep[:, :rows] = ids, True
    assert relative(model(padded, mask=keep)["text"][:, :rows], found) < 1e-5
    assert rows == 256 or relative(model(padded)["text"][:, :rows], found) > 0.01


def through_save(model: nn.Module, directory: Path) -> nn.Module:
    return kit.load(kit.save(model, directory))


def through_empty(model: nn.Module, directory: Path) -> nn.Module:
    numbers = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        made = kit.build(kit.spec(model))
    made.to_empty(device="cpu")
    made.load_state_dict(numbers)
    return made


def through_assign(model: nn.Module, directory: Path) -> nn.Module:
    """Separate tensors for tied names, as in a file without ties."""
    with torch.device("meta"):
        made = kit.build(kit.spec(model))
    made.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return made


WAYS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "build": lambda model, directory: model,
    "save": through_save,
    "Hugging Face": lambda model, directory: kit.load(kit.to_huggingface(model, directory)),
    "spec": lambda model, directory: kit.build(kit.spec(model)),
    "deepcopy": lambda model, directory: copy.deepcopy(model),
    "pickle": lambda model, directory: pickle.loads(pickle.dumps(model)),
    "to_empty": through_empty,
    "assign": through_assign,
    "double": lambda model, directory: copy.deepcopy(model).double(),
    "functional": lambda model, directory: copy.deepcopy(model)._apply(lambda tensor: tensor.clone()),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_embedding_stays_tied(way: str, tmp_path: Path) -> None:
    sizes = dict(num_latents=4, latent_dim=16, layers=1, channels=16, max_length=12, qk_channels=8, v_channels=16)
    model = randomised(kit.build("masked_lm", **sizes))
    made = WAYS[way](model, tmp_path)
    names = [name for name, p in made.named_parameters(remove_duplicate=False) if p.shape == (262, 16)]
    assert names == ["inputs.blocks.text.embedding.weight", "outputs.blocks.text.text.embedding.weight"]
    assert len({id(p) for p in made.parameters()}) == len({id(p) for p in model.parameters()})
    table = made.inputs.blocks["text"].embedding.weight
    assert table is made.outputs.blocks["text"].text.embedding.weight
    if way != "spec":  # new weights
        assert torch.equal(table.float(), model.inputs.blocks["text"].embedding.weight)
    # One step on it changes input and output.
    ids = torch.randint(262, (2, 5))
    made(ids)["text"].square().mean().backward()
    before = made(ids)["text"]
    with torch.no_grad():
        table -= 0.1 * table.grad
    assert bool((table.grad.abs().sum(1) > 0).all()), "every id is an output"
    assert relative(made(ids)["text"], before) > 0


def test_only_text_tokens_can_be_tied() -> None:
    with pytest.raises(AssemblyError, match="must be the model's TextTokens block, got an Embedding"):
        outputs.TiedText(nn.Embedding(262, 8))


def test_text_is_tied_under_any_name() -> None:
    text = inputs.TextTokens(11, 8)
    model = kit.PerceiverIO(
        kit.Inputs({"a.b": text}),
        kit.Encoder(8, num_latents=3, latent_dim=16, layers=1),
        kit.Queries({"type": kit.queries.PositionQuery(Learned((9,), 8), follows="a.b")}),
        kit.Decoder(8, 16),
        kit.Outputs({"type": outputs.TiedText(text)}),
    )
    assert model(torch.zeros(2, 5, dtype=torch.int64))["type"].shape == (2, 5, 11)
    again = kit.build(kit.spec(model))
    assert again.inputs.blocks["a.b"] is again.outputs.blocks["type"].text
