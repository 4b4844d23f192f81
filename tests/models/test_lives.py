"""Whatever is done to a model, in whatever order, leaves nothing behind but its weights."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from safetensors.torch import load_file
from torch import Tensor

import perceiver_kit as kit

from ..assemblies import Assembly, assemblies
from ..counting import counts
from ..strategies import assert_close
from .holding import loss
from .properties import DOUBLE, MODELS, WHOLE


class Life(RuleBasedStateMachine):
    """A model and, of it, weights alone: a model made anew of its spec and these weights says what it must compute."""

    asked = Bundle("asked")

    @initialize(case=assemblies())
    def begin(self, case: Assembly) -> None:
        self.case, self.model = case, case.model
        self.folder = tempfile.TemporaryDirectory()
        self.saved: dict[str, Tensor] | None = None
        self.learned()

    def learned(self) -> None:
        """The weights are others now."""
        self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        anew = kit.build(json.loads(json.dumps(kit.spec(self.model)))).double().eval()
        anew.load_state_dict(self.weights)
        self.wanted = {name: value.detach() for name, value in anew(self.case.raw).items()}
        self.latents = anew.encode(self.case.raw).latents.detach()

    def computes(self, found: dict[str, Tensor]) -> None:
        assert found.keys() == self.wanted.keys()
        for name, value in found.items():
            assert_close(value, self.wanted[name], DOUBLE)

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "model"

    # ---- what changes nothing

    @rule(gradients=st.booleans(), chunk=st.none() | st.integers(1, 5))
    def run(self, gradients: bool, chunk: int | None) -> None:
        with torch.set_grad_enabled(gradients):
            self.computes(self.model(self.case.raw, chunk=chunk))

    @rule(target=asked)
    def encode(self) -> tuple[kit.Encoded, dict[str, Tensor], Any]:
        with torch.no_grad():
            encoded = self.model.encode(self.case.raw)
        assert_close(encoded.latents, self.latents, DOUBLE)
        return encoded, self.wanted, self.weights

    @rule(question=asked)
    def answer_later(self, question: tuple[kit.Encoded, dict[str, Tensor], Any]) -> None:
        """What was encoded stays as it is; weights that have changed answer it otherwise, with no error."""
        encoded, wanted, weights = question
        found = self.model.decode(encoded)
        assert found.keys() == wanted.keys()
        if weights is self.weights:
            for name, value in found.items():
                assert_close(value, wanted[name], DOUBLE)

    @rule(stopped=st.booleans())
    def look_inside(self, stopped: bool) -> None:
        with contextlib.suppress(KeyboardInterrupt), kit.capture_attention(self.model), kit.capture_hidden(self.model):
            self.computes(self.model(self.case.raw))
            if stopped:
                raise KeyboardInterrupt

    @rule()
    def describe(self) -> None:
        assert kit.describe(self.model)
        assert kit.draw(self.model).svg

    @rule(name=st.sampled_from(["nobody", "", "encoder"]))
    def ask_wrongly(self, name: str) -> None:
        with pytest.raises(kit.PerceiverKitError):
            self.model(self.case.raw, at={f"{name}?": None})
        with pytest.raises(kit.PerceiverKitError):
            self.model({**self.case.raw, f"{name}?": torch.zeros(1)})

    @rule()
    def copy(self) -> None:
        self.model = copy.deepcopy(self.model)

    @rule()
    def make_anew(self) -> None:
        state = self.model.state_dict()
        self.model = kit.build(kit.spec(self.model)).double().eval()
        self.model.load_state_dict(state)

    @rule(frozen=st.booleans())
    def freeze(self, frozen: bool) -> None:
        self.model.requires_grad_(not frozen)

    @rule()
    def save(self) -> None:
        kit.save(self.model, self.path)
        self.saved = self.weights

    @rule()
    def fail_to_save(self) -> None:
        """Where a file stands in the way of the folder."""
        blocked = Path(self.folder.name) / "blocked"
        blocked.write_bytes(b"")
        with pytest.raises((kit.PerceiverKitError, OSError)):
            kit.save(self.model, blocked / "model")
        assert blocked.read_bytes() == b""

    # ---- what changes its weights

    @rule()
    def train(self) -> None:
        self.model.requires_grad_().train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        loss(self.model(self.case.raw)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        self.model.eval()
        self.learned()

    @rule()
    def load(self) -> None:
        if self.saved is None:
            with pytest.raises(kit.PerceiverKitError):
                kit.load(str(self.path))
            return
        self.model = kit.load(str(self.path))
        self.learned()
        assert all(torch.equal(self.weights[name], tensor) for name, tensor in self.saved.items())

    # ---- what always holds

    @invariant()
    def is_its_weights(self) -> None:
        if not hasattr(self, "model"):
            return
        assert not self.model.training
        assert self.model.state_dict().keys() == self.weights.keys()
        assert all(torch.equal(self.weights[name], tensor) for name, tensor in self.model.state_dict().items())
        self.computes(self.model(self.case.raw))
        assert "decode" not in vars(self.model)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    @invariant()
    def what_was_saved_stays(self) -> None:
        if getattr(self, "saved", None) is not None:
            held = load_file(self.path / "model.safetensors")
            assert all(torch.equal(self.saved[name], tensor) for name, tensor in held.items())

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
            counts["models/lives: steps_in_any_order"] += 1


def test_nothing_stays_of_what_is_done_but_the_weights() -> None:
    run_state_machine_as_test(Life, settings=settings(WHOLE, max_examples=max(3, MODELS // 2), stateful_step_count=12))
