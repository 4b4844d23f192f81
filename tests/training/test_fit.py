"""``fit`` takes any model that a script may hold, and gives Lightning's callbacks and loggers their place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import perceiver_kit as kit
from perceiver_kit.objectives import Classification, Objective, combine
from perceiver_kit.training import Data, Training, fit, parameter_groups

from .toys import Toys, alone, batch, prepared, small

CONV = "image_classification_conv"


def conv(tmp_path: Path | None = None) -> nn.Module:
    """A model with dropout and batch statistics; loaded, if a path is given."""
    model = small(CONV, dropout=0.5, residual_dropout=0.5)
    return model if tmp_path is None else kit.load(kit.save(model, tmp_path / "model"))


def trained(model: nn.Module, directory: Path, **options) -> dict[str, float]:
    data = Data(Toys(CONV), Toys(CONV, 4), batch=4, steps=2)
    return fit(Training(model, Classification(), steps=2), data, directory, progress=False, **options)


class Modes(Callback):
    """Whether each module trains, at every training and validation batch."""

    def __init__(self) -> None:
        self.training: list[dict[str, bool]] = []
        self.validation: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer, module, *_) -> None:
        self.training.append({name: part.training for name, part in module.model.named_modules()})

    def on_validation_batch_start(self, trainer, module, *_) -> None:
        self.validation.append({name: part.training for name, part in module.model.named_modules()})


# ---- what a model may bring


def test_a_loaded_model_trains_in_training_mode(tmp_path: Path) -> None:
    model, modes = conv(tmp_path), Modes()
    statistics = model.inputs.blocks["image"].norms[0].running_mean
    before, rows = statistics.clone(), model.state_dict()
    assert not model.training
    trained(model, tmp_path / "run", callbacks=[modes], validate_every=1)
    assert len(modes.training) == 2
    assert all(all(step.values()) for step in modes.training), "after a validation too"
    assert modes.validation
    assert not any(any(step.values()) for step in modes.validation)
    assert not torch.equal(statistics, before)
    assert rows.keys() == model.state_dict().keys()


def test_a_callback_may_keep_a_part_in_evaluation_mode(tmp_path: Path) -> None:
    class Hold(Callback):
        def on_train_start(self, trainer, module) -> None:
            module.model.inputs.eval()

    model = conv(tmp_path)
    before = model.inputs.blocks["image"].norms[0].running_mean.clone()
    trained(model, tmp_path / "run", callbacks=[Hold()], validate_every=1)
    assert torch.equal(model.inputs.blocks["image"].norms[0].running_mean, before)


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    model = conv()
    model.requires_grad_(False).outputs.requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained(model, tmp_path / "run")
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert all(name.startswith("outputs") for name in moved)


def test_gradients_left_by_an_earlier_backward_are_not_used(tmp_path: Path) -> None:
    models = [conv(), conv()]
    for parameter in models[1].parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    for i, model in enumerate(models):
        torch.manual_seed(0)  # dropout
        trained(model, tmp_path / str(i))
    for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_trains_where_gradients_are_disabled(mode, tmp_path: Path) -> None:
    training, data = prepared(CONV, steps=1, held_out=False)
    weight = training.model.outputs.blocks["label"].project.weight
    before = weight.detach().clone()
    with mode():
        fit(training, data, tmp_path / "run", progress=False)
        assert not torch.is_grad_enabled()
    assert not torch.equal(weight, before)


def broken(kind: str) -> nn.Module:
    if kind == "inference":
        with torch.inference_mode():
            return conv()
    if kind == "meta":
        with torch.device("meta"):
            return conv()
    return conv().requires_grad_(False) if kind == "frozen" else conv().bfloat16()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("frozen", r"requires_grad=True, got a model that is frozen as a whole; unfreeze"),
        ("meta", r"some on the meta device"),
        ("inference", r"made under torch\.inference_mode"),
        ("bfloat16", r"precision '32-true' needs float32 weights, got torch\.bfloat16; call model\.float\(\)"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        trained(broken(kind), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_lightnings_own_trainer_refuses_a_frozen_model_too() -> None:
    training = alone(CONV)
    training.model.requires_grad_(False)
    with pytest.raises(kit.AssemblyError, match="frozen as a whole"):
        training.configure_optimizers()
    training.model.outputs.requires_grad_(True)
    groups = parameter_groups(training.model, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len([*training.model.outputs.parameters()])


def test_arguments_of_another_kind_are_refused(tmp_path: Path) -> None:
    model, training = conv(), Training(conv(), Classification(), steps=2)
    encoder = kit.PerceiverIO(model.inputs, model.encoder)
    data = Data(Toys(CONV), None, batch=4, steps=2)
    for make, message in (
        (lambda: Training(nn.Linear(2, 2), Classification(), steps=2), "model must be a PerceiverIO, got a Linear"),
        (lambda: Training(nn.DataParallel(model), Classification(), steps=2), "got a DataParallel; of a wrapper give"),
        (lambda: Training(encoder, Classification(), steps=2), "model must have outputs"),
        (lambda: Training(model, nn.CrossEntropyLoss(), steps=2), "objective must be .*, got a CrossEntropyLoss; der"),
        (lambda: Training(model, Classification(), steps=2, decay_learned="no"), "decay_learned must be True or False"),
        (lambda: Training(model, Classification(), steps=2, compile_model=1), "compile_model must be True or False"),
        (lambda: fit(model, data, tmp_path / "run"), "training must be a Training, got a PerceiverIO"),
        (lambda: fit(training, DataLoader([1]), tmp_path / "run"), "data must be a Data, got a DataLoader"),
        (lambda: fit(training, data, tmp_path / "run", resume="no"), "resume must be True or False, got 'no'"),
        (lambda: fit(training, data, tmp_path / "run", progress=None), "progress must be True or False"),
        (lambda: fit(training, data, tmp_path / "run", callbacks=["x"]), "callbacks must be a list of .* Callback"),
        (lambda: fit(training, data, tmp_path / "run", logger=True), "logger must be a list of .* Logger, got True"),
    ):
        with pytest.raises(kit.PerceiverKitError, match=message):
            make()
    assert not (tmp_path / "run").exists()


# ---- adapters


class Adapter(nn.Module):
    """A linear layer with a low-rank update."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.update = base, nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.base(rows) + self.update(rows)


def test_adapters_are_trained_and_checkpointed_but_not_saved(tmp_path: Path) -> None:
    model = conv()
    model.requires_grad_(False)
    mlp = model.decoder.cross.mlp
    adapter = mlp[0] = Adapter(mlp[0])
    adapter.update.weight.requires_grad_(True)
    before = adapter.update.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"will not save the model: .* or merge adapters first"):
        trained(model, tmp_path / "run")
    assert not torch.equal(adapter.update.weight, before)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with torch.no_grad():
        adapter.base.weight += adapter.update.weight
    mlp[0] = adapter.base
    kit.save(model, tmp_path / "merged")


# ---- callbacks, loggers, messages


def test_callbacks_and_loggers_run_beside_the_kits_own(tmp_path: Path) -> None:
    stop = EarlyStopping("held_out/loss", patience=9)
    trained(conv(), tmp_path / "run", callbacks=[stop], logger=CSVLogger(tmp_path, name="", version="mine"))
    assert stop.best_score.isfinite()
    assert (tmp_path / "mine" / "metrics.csv").exists()
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert "metrics.csv" in files
    assert "tensorboard" not in files
    trained(conv(), tmp_path / "other", logger=[])
    assert {path.name for path in (tmp_path / "other").iterdir()} == files
    trained(conv(), tmp_path / "third")
    assert (tmp_path / "third" / "tensorboard").exists()


def test_a_progress_bar_of_the_users_replaces_the_kits(tmp_path: Path) -> None:
    class Bar(TQDMProgressBar):
        steps = 0

        def on_train_batch_end(self, *args) -> None:
            self.steps += 1
            super().on_train_batch_end(*args)

    bar = Bar()
    training, data = prepared(CONV, steps=2, held_out=False)
    fit(training, data, tmp_path / "run", callbacks=[bar])
    assert bar.steps == 2


@pytest.mark.parametrize("progress", [False, True])
def test_without_progress_nothing_is_printed(
    progress: bool, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    for name in ("pytorch_lightning", "lightning_fabric"):
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    training, data = prepared(CONV, steps=1)
    fit(training, data, tmp_path / "run", progress=progress)
    assert bool(messages) is progress
    assert bool("".join(capfd.readouterr())) is progress
    assert logging.getLogger("pytorch_lightning").level == logging.INFO, "restored"


# ---- objectives of the user's


def wrong_objective(kind: str) -> Objective:
    class Wrong(Classification):
        def loss_sum(self, output: Tensor, target: Tensor, targets):
            return {"mean": output.mean(), "shaped": (output.sum(0), 4), "three": (output.sum(), 4, 1)}[kind]

    class Nameless(Objective):
        pass

    class Bare(Objective):
        output = "label"

    return Classification("lable") if kind == "name" else {"nameless": Nameless, "bare": Bare}.get(kind, Wrong)()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mean", r"^Wrong: loss_sum must return a tensor without axes, and its number of elements, got float32 \(\)"),
        ("shaped", r"loss_sum must return .*, got \(float32 \(4,\), an int\)"),
        ("three", r"loss_sum must return"),
        ("nameless", r"^Nameless: __init__ must set self\.output"),
        ("bare", r"^Bare must define loss_sum\(output, target, targets\)"),
        ("name", r"outputs has no 'lable'; did you mean 'label'\?"),
    ],
)
def test_a_wrong_objective_is_explained(kind: str, message: str) -> None:
    training = alone(CONV)
    training.objective = wrong_objective(kind)
    with pytest.raises(kit.PerceiverKitError, match=message):
        training.training_step(batch(CONV, [(i, 0) for i in range(2)]), 0)


def test_terms_of_another_kind_are_refused() -> None:
    with pytest.raises(kit.AssemblyError, match=r"terms must map names to Term\(total, count\), got a tuple"):
        combine((torch.zeros(()), 1))
    with pytest.raises(kit.AssemblyError, match=r"terms must map names to Term\(total, count\), got 'label': float32"):
        combine({"label": torch.zeros(())})
