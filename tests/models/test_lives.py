"""A model's state is its weights only, whatever is called in whatever order (a Hypothesis state machine)."""

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

pytestmark = pytest.mark.usefixtures("checked")


class Life(RuleBasedStateMachine):
    """A model and its weights; a model rebuilt from its spec with these weights computes the expected outputs."""

    encodings = Bundle("encodings")

    @initialize(case=assemblies())
    def begin(self, case: Assembly) -> None:
        self.case, self.model = case, case.model
        self.folder = tempfile.TemporaryDirectory()
        self.saved: dict[str, Tensor] | None = None
        self.update_expected()

    def update_expected(self) -> None:
        """Expected outputs after a change of the weights."""
        self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        rebuilt = kit.build(json.loads(json.dumps(kit.spec(self.model)))).double().eval()
        rebuilt.load_state_dict(self.weights)
        self.expected = {name: value.detach() for name, value in rebuilt(self.case.raw).items()}
        self.latents = rebuilt.encode(self.case.raw).latents.detach()

    def check(self, found: dict[str, Tensor]) -> None:
        assert found.keys() == self.expected.keys()
        for name, value in found.items():
            assert_close(value, self.expected[name], DOUBLE)

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "model"

    # ---- calls that leave the weights alone

    @rule(gradients=st.booleans(), chunk=st.none() | st.integers(1, 5))
    def run(self, gradients: bool, chunk: int | None) -> None:
        chunk = None if getattr(self.model.decoder, "mixes_rows", False) else chunk
        with torch.set_grad_enabled(gradients):
            self.check(self.model(self.case.raw, chunk=chunk))

    @rule(target=encodings)
    def encode(self) -> tuple[kit.Encoded, dict[str, Tensor], Any]:
        with torch.no_grad():
            encoded = self.model.encode(self.case.raw)
        assert_close(encoded.latents, self.latents, DOUBLE)
        return encoded, self.expected, self.weights

    @rule(encoding=encodings)
    def decode_later(self, encoding: tuple[kit.Encoded, dict[str, Tensor], Any]) -> None:
        """Old encodings can be decoded, with the same result as long as the weights are the same."""
        encoded, expected, weights = encoding
        found = self.model.decode(encoded)
        assert found.keys() == expected.keys()
        if weights is self.weights:
            self.check(found)

    @rule(interrupted=st.booleans())
    def capture(self, interrupted: bool) -> None:
        with contextlib.suppress(KeyboardInterrupt), kit.capture_attention(self.model), kit.capture_hidden(self.model):
            self.check(self.model(self.case.raw))
            if interrupted:
                raise KeyboardInterrupt

    @rule()
    def describe(self) -> None:
        assert kit.describe(self.model)
        assert kit.draw(self.model).svg

    @rule(name=st.sampled_from(["unknown", "", "encoder"]))
    def use_a_wrong_name(self, name: str) -> None:
        with pytest.raises(kit.PerceiverKitError):
            self.model(self.case.raw, at={f"{name}?": None})
        with pytest.raises(kit.PerceiverKitError):
            self.model({**self.case.raw, f"{name}?": torch.zeros(1)})

    @rule()
    def copy(self) -> None:
        self.model = copy.deepcopy(self.model)

    @rule()
    def rebuild(self) -> None:
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
        """A file is where a folder is needed."""
        blocked = Path(self.folder.name) / "blocked"
        blocked.write_bytes(b"")
        with pytest.raises((kit.PerceiverKitError, OSError)):
            kit.save(self.model, blocked / "model")
        assert blocked.read_bytes() == b""

    # ---- calls that change the weights

    @rule()
    def train(self) -> None:
        self.model.requires_grad_().train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        loss(self.model(self.case.raw)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        self.model.eval()
        self.update_expected()

    @rule()
    def load(self) -> None:
        if self.saved is None:
            with pytest.raises(kit.PerceiverKitError):
                kit.load(str(self.path))
            return
        self.model = kit.load(str(self.path))
        self.update_expected()
        assert all(torch.equal(self.weights[name], tensor) for name, tensor in self.saved.items())

    # ---- invariants

    @invariant()
    def state_is_the_weights(self) -> None:
        if not hasattr(self, "model"):
            return
        assert not self.model.training
        assert self.model.state_dict().keys() == self.weights.keys()
        assert all(torch.equal(self.weights[name], tensor) for name, tensor in self.model.state_dict().items())
        self.check(self.model(self.case.raw))
        assert "decode" not in vars(self.model)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    @invariant()
    def saved_files_stay(self) -> None:
        if getattr(self, "saved", None) is not None:
            tensors = load_file(self.path / "model.safetensors")
            assert all(torch.equal(self.saved[name], tensor) for name, tensor in tensors.items())

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
            counts["models/lives: steps_in_any_order"] += 1


def test_a_models_state_is_its_weights() -> None:
    run_state_machine_as_test(Life, settings=settings(WHOLE, max_examples=max(3, MODELS // 2), stateful_step_count=12))
