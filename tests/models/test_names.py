"""Any text is a valid modality name and works everywhere; other names are refused with an error of the kit.

The models of all other properties have such names too: see ``any_name``.
"""

from __future__ import annotations

import inspect
import io
import json
import keyword
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit import checks, modalities, registry
from perceiver_kit.cli import main

from ..strategies import NAMES
from ..test_draw import check
from .properties import MODELS

# Names with a meaning in Python, torch, the kit's functions, JSON, file systems or terminals.
CONTAINERS = [kit.Inputs, kit.Queries, kit.Outputs, kit.PerceiverIO]
OWNERS = [nn.Module(), nn.ModuleDict(), modalities.ByModality({}), *CONTAINERS]
FUNCTIONS = [value for module in (checks, modalities) for value in vars(module).values() if inspect.isfunction(value)]
FUNCTIONS += [kit.Inputs.__init__, kit.Queries.__init__, kit.Outputs.__init__, kit.PerceiverIO.forward]
ANY = {*NAMES, *keyword.kwlist, *(name for owner in OWNERS for name in dir(owner))}
ANY |= {argument for function in FUNCTIONS for argument in inspect.signature(function).parameters}
ANY |= {
    "perceiver_kit",
    "model",
    "block",
    "arguments",
    "id",
    "dict",
    "recipe",
    "__metadata__",
    "_extra_state",
    "vector",
}
ANY |= {
    "/",
    "\\",
    "..",
    "~",
    "C:\\x",
    "*",
    "?",
    "[a]",
    "a/b",
    "a\\b",
    " ",
    "\t",
    "\0",
    "\r\n",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
}
ANY |= {"0", "-1", "1e9", "nan", "None", "True", "%s", "{}", "{0}", "$x", "%(x)s", "%%", "%25", "%2", "a%b", "%.", ".%"}
ANY |= {"é", "e\u0301", "名", "🙂", "\U0010ffff", "\uffff", "w" * 5000, "ﬁ", "İ"}


def model_of(*names: Any) -> kit.PerceiverIO:
    """A model whose inputs, queries and outputs have these names."""
    torch.manual_seed(0)
    inputs = kit.Inputs(
        {name: kit.inputs.Features(2 + i % 2, grid=(2,)) for i, name in enumerate(names)},
        hide=dict.fromkeys(names, 0.0),
    )
    queries = kit.Queries(
        {
            name: kit.queries.ContentQuery(name, content_channels=2)
            if i % 2 == 0
            else kit.queries.InputQuery(name, channels=inputs.channels)
            for i, name in enumerate(names)
        }
    )
    return kit.PerceiverIO(
        inputs,
        kit.Encoder(inputs.channels, num_latents=2, latent_dim=4, layers=0),
        queries,
        kit.Decoder(queries.channels, 4),
        kit.Outputs({name: kit.outputs.Project(2, in_channels=queries.channels) for name in names}),
    ).eval()


def holds_for_names(model: kit.PerceiverIO, folder: Path) -> None:
    names = [*model.inputs.blocks]
    raw = {name: torch.randn(1, 2, model.inputs.blocks[name].channels) for name in names}
    wanted = model(raw)
    assert [*wanted] == names == sorted(names)
    index, keep = torch.tensor([1]), torch.ones(1, 2) > 0
    subset = model(
        raw, at=dict.fromkeys(names, index), mask=dict.fromkeys(names, keep), size=dict.fromkeys(names, (2,))
    )
    tokens = model.inputs(raw)[0]
    others = [kit.load(kit.save(model, folder)), kit.build(json.loads(json.dumps(kit.spec(model)))).eval()]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    others[1].load_state_dict(torch.load(file, weights_only=True))
    results = [other(raw) for other in others]
    for name in names:
        assert torch.allclose(subset[name], wanted[name][:, 1:], atol=1e-5)
        assert tokens[name].shape == (1, 2, model.inputs.channels)
        assert all(torch.equal(found[name], wanted[name]) for found in results)
    rest = {name: raw[name] for name in names[1:]} or raw
    assert model.encode(rest).given == tuple(rest)
    text = kit.describe(model)
    assert all(name in text for name in names)
    check(model)


def test_all_names_work_together(tmp_path: Path) -> None:
    """A fifth of them; all under `make fuzz`."""
    names = sorted(ANY) if MODELS > 8 else sorted(ANY)[::5]
    assert len(names) > 50
    holds_for_names(model_of(*names), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_works_alone(name: str, tmp_path: Path) -> None:
    holds_for_names(model_of(name), tmp_path)


def test_a_recipe_may_use_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._entries, "recipes", dict(registry._entries["recipes"]))

    @kit.recipe()
    def of_any_name(*, names: tuple[str, ...] = (*sorted(ANY)[::3],)) -> kit.PerceiverIO:
        return model_of(*names)

    assert main(["describe", "of_any_name"]) == 0
    printed = capsys.readouterr().out
    assert all(name.encode(errors="replace").decode() in printed for name in sorted(ANY)[::3] if "\r" not in name)
    assert main(["draw", "of_any_name", "--out", str(tmp_path / "any.svg")]) == 0
    with torch.device("meta"):
        assert (tmp_path / "any.svg").read_text() == kit.draw(kit.build("of_any_name")).svg
    model = kit.build("of_any_name", names=("a.b", "\n"))
    assert kit.load(kit.save(model, tmp_path / "model")).recipe == model.recipe


@pytest.mark.parametrize("name", ["", None, 3, b"x", ("a",), 1.5, True, "\ud800", "a\udfffb"])
@pytest.mark.parametrize("container", ["Inputs", "Queries", "Outputs"])
def test_names_must_be_text(name: Any, container: str) -> None:
    block = {
        "Inputs": kit.inputs.OneHot(2),
        "Queries": kit.queries.LearnedQuery(1, 2),
        "Outputs": kit.outputs.Rows(2),
    }
    with pytest.raises(kit.AssemblyError, match=f"{container}: a modality's name must be ") as caught:
        getattr(kit, container)({name: block[container]})
    assert repr(name) in str(caught.value)
