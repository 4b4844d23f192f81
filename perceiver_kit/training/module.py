"""A model and its objective as a Lightning module.

All randomness of a step is a function of seed, step and sample: queries, hidden labels and augmentation are the same
for any number of processes, and after a resume.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
import torch.distributed as dist
from torch import Tensor

from ..checking import check_choice, check_number, check_positive, check_seed, checks_values, describe_value
from ..data.sampling import generator
from ..errors import AssemblyError
from ..flags import checked_flags
from ..freezing import check_stages
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..modalities import ByModality, check_names
from ..model import PerceiverIO
from ..muon import Muon
from ..objectives import Objective, Term, combine
from ..specs import assembly
from ..tokens import take_rows
from .lamb import Lamb
from .optimisation import check_trainable, checkpoint_layers, parameter_groups, rate_at

Batch = Mapping[str, Any]


class Training(lightning.LightningModule):
    """A model and its objective, as Lightning trains them.

    ``queries`` maps outputs to the number of rows that a training step decodes per sample, drawn for each sample and
    step; of other outputs, the rows that the objective needs are decoded. Evaluation decodes everything. Modalities
    that the model hides with a probability are hidden sample by sample.

    The optimizer is AdamW, or LAMB as in the original on ImageNet, or Muon with ``muon_rate`` for the matrices of
    attention and MLPs and AdamW with ``rate`` for the rest. Norms, biases, latents, positions, padding and mask tokens
    have no weight decay; with ``decay_learned`` all but norms and biases have it, as in the original. The learning
    rates warm up over ``warmup`` steps, then follow half a cosine to zero; ``constant_then_cosine`` keeps them constant
    for the first half of the steps.

    ``rates`` are factors of the rate by stage: ``{"encoder": 0.1}`` trains the encoder at a tenth of it. ``kit.freeze``
    leaves a stage as it is.

    A batch is a dict of ``inputs``, ``targets``, ``draw`` (b, 2) = (step, sample), and optionally ``mask``,
    ``query_mask``, ``queries``, and ``rows``, those of ``needed_rows``, which ``Data`` adds.

    Fitting switches the whole model to training mode, whatever mode it was in (``kit.load`` returns evaluation mode).
    Frozen parameters stay frozen, and adapters inside the model are trained like any other parameter.
    """

    @checked_flags
    def __init__(
        self,
        model: PerceiverIO,
        objective: Objective,
        *,
        steps: int,
        rate: float = 1e-3,
        weight_decay: float = 0.1,
        decay_learned: bool = False,
        optimizer: Literal["adamw", "lamb", "muon"] = "adamw",
        muon_rate: float = 0.02,
        schedule: Literal["cosine", "constant_then_cosine"] = "cosine",
        warmup: int = 0,
        rates: Mapping[str, float] | None = None,
        queries: Mapping[str, int] | None = None,
        seed: int = 0,
        checkpoint_activations: bool = False,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        _check_parts(model, objective)
        check_positive("Training", steps=steps)
        check_positive("Training", warmup=warmup, least=0)
        check_number("Training", rate=rate, muon_rate=muon_rate, weight_decay=weight_decay)
        check_seed("Training", seed)
        check_choice("Training", "optimizer", optimizer, ("adamw", "lamb", "muon"))
        check_choice("Training", "schedule", schedule, ("cosine", "constant_then_cosine"))
        check_names("Training: queries", queries or {}, model.outputs.blocks if model.outputs else ())
        for name, count in (queries or {}).items():
            check_positive("Training: queries", **{name: count})
        self.model, self.objective = model, objective
        self.steps, self.rate, self.weight_decay, self.decay_learned = steps, rate, weight_decay, decay_learned
        self.optimizer, self.muon_rate, self.schedule, self.warmup = optimizer, muon_rate, schedule, warmup
        check_stages("Training: rates", model, rates or {})
        check_number("Training: rates", **{f"of {stage}": factor for stage, factor in (rates or {}).items()})
        self.rates = dict(rates or {})
        self.queries, self.seed = dict(queries or {}), seed
        self.meters = ByModality(objective.meters())  # a ModuleDict would refuse some names of the user's
        self.spec = assembly(model)
        if checkpoint_activations:
            checkpoint_layers(model)
        if compile_model:
            model.compile()  # in place: parameters keep their names

    def forward(self, batch: Batch, *, at: Any = None, hidden: Any = None, chunk: int | None = None) -> dict:
        given = {name: batch[name] for name in ("mask", "query_mask", "queries") if name in batch}
        return self.model(batch["inputs"], at=at, hidden=hidden, chunk=chunk, **given)

    def on_fit_start(self) -> None:
        self.train()  # a loaded model is in evaluation mode, and Lightning keeps the mode

    def check_values(self, batch: Batch) -> None:
        """Raise InputError for ids or classes that the model does not have."""
        blocks, outputs = self.model.inputs.blocks, self.model.outputs.blocks  # type: ignore[union-attr]
        for name, raw in batch["inputs"].items():
            if name in blocks and isinstance(raw, Tensor) and checks_values(raw):
                blocks[name].check_values(raw, name)
        widths = {name: outputs[name].width for name in outputs}
        self.objective.check_values(batch["targets"], widths)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        draws = [(int(step), int(sample)) for step, sample in batch["draw"].tolist()]
        at, targets = self._draw_rows(batch, draws)
        outputs = self(batch, at=at, hidden=self._hidden(draws))
        terms = {name: _over_processes(term) for name, term in self.objective.terms(outputs, targets).items()}
        loss, parts = combine(terms)
        # Each process holds its share of the global mean, times the number of processes: the mean over them is global.
        shown = {f"train/{name}": value for name, value in parts.items()} if len(parts) > 1 else {}
        self.log_dict({"train/loss": loss.detach()} | shown, sync_dist=True)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the rate, and the gradient norm before clipping."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = getattr(norm, "full_tensor", lambda: norm)()  # of sharded gradients
        rates = {"train/rate": optimizer.param_groups[-1]["lr"]}
        if self.optimizer == "muon":
            rates["train/muon_rate"] = optimizer.param_groups[0]["lr"]
        self.log_dict(rates | {"train/gradient_norm": norm})

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        outputs, targets = self(batch), batch["targets"]
        for name, term in self.objective.terms(outputs, targets).items():
            total, count = term.total.detach().cpu().double(), term.count.cpu().double()
            before = self._held_out.get(name, Term(torch.zeros(()), torch.zeros(())))
            self._held_out[name] = Term(before.total + total, before.count + count, term.weight)
        meters: Any = {name: self.meters[name] for name in self.meters}
        self.objective.measure(meters, outputs, targets)
        self.log_dict({f"held_out/{name}": meter for name, meter in meters.items()}, batch_size=len(batch["draw"]))

    def on_validation_start(self) -> None:
        self._held_out: dict[str, Term] = {}
        for name in self.meters:  # "bf16-true" makes them bfloat16, in which sums stop growing at 256
            self.meters[name].set_dtype(torch.float32)  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Held-out losses are means over all elements: batches and processes hold different numbers of them."""
        sums = torch.tensor([[*term[:2]] for term in self._held_out.values()], dtype=torch.float64)
        if dist.is_available() and dist.is_initialized():
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        terms = {
            name: term._replace(total=total, count=count)
            for (name, term), (total, count) in zip(self._held_out.items(), sums, strict=True)
        }
        loss, parts = combine(terms)
        shown = {f"held_out/{name}": value.float() for name, value in parts.items()} if len(parts) > 1 else {}
        self.log_dict({"held_out/loss": loss.float()} | shown)

    def configure_model(self) -> None:
        """Shard under FSDP2: each layer is a group; weights that several modules read stay with the root."""
        mesh = self.device_mesh
        if mesh is None or getattr(self, "_sharded", False):
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for layer in self.model.modules():
            if isinstance(layer, CrossAttentionLayer | SelfAttentionLayer):
                fully_shard(layer, mesh=mesh["data_parallel"])
        fully_shard(self.model, mesh=mesh["data_parallel"])
        for method in ("encode", "decode"):
            register_fsdp_forward_method(self.model, method)
        self._sharded = True

    def configure_optimizers(self) -> Any:
        check_trainable(self.model)
        decay: dict[str, Any] = dict(weight_decay=self.weight_decay, decay_learned=self.decay_learned)
        groups = parameter_groups(self.model, **decay, rate=self.rate, rates=self.rates)
        # One kernel for all weights: 6 instead of 39 ms for the 4.5 million of a table of n-grams, on a CPU.
        fused = True if self.device.type in ("cpu", "cuda") and self.device_mesh is None else None
        if self.optimizer == "lamb":
            optimizer: Any = Lamb(groups, lr=self.rate)
        elif self.optimizer == "muon":
            optimizer = Muon(self.model, groups, rate=self.rate, muon_rate=self.muon_rate, fused=fused)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.95), fused=fused)
        # Lightning clips no gradients of an optimizer that could unscale them itself; these need not.
        optimizer._step_supports_amp_scaling = False
        share = partial(rate_at, steps=self.steps, warmup=self.warmup, schedule=self.schedule)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["perceiver_kit"] = self.spec

    def _draw_rows(self, batch: Batch, draws: list[tuple[int, int]]) -> tuple[dict | None, dict[str, Tensor]]:
        """The rows of each output that this step decodes, as flat indices (b, k) or None for all, and the targets."""
        targets, needed = dict(batch["targets"]), batch.get("rows", {})
        if not self.queries and not needed:
            return None, targets
        blocks = self.model.outputs.blocks  # type: ignore[union-attr]
        at: dict[str, Tensor | None] = dict.fromkeys(blocks) | needed
        for name, index in needed.items():
            targets[name] = take_rows(targets[name], index)
        for name, count in self.queries.items():
            rows = blocks[name].rows_of(targets[name])
            total = rows.shape[1]
            count = min(count, total)
            picks = [
                torch.randperm(total, generator=self._generator(draw, name))[:count]
                if total < 8 * count
                else torch.randint(total, (count,), generator=self._generator(draw, name))
                for draw in draws
            ]
            index = self._moved(torch.stack(picks))
            at[name], targets[name] = index, take_rows(rows, index)
        return at, targets

    def needed_rows(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Flat indices (b, k) of the rows that the objective needs, for outputs of which it does not need all.

        k is the largest number of a sample; the others have rows without a target too.
        """
        blocks, found = self.model.outputs.blocks, {}  # type: ignore[union-attr]
        for name, needed in self.objective.needed(targets).items():
            whole = name in self.queries or blocks[name].mixes_rows or getattr(self.model.decoder, "mixes_rows", False)
            most = max(1, int(needed.sum(1).max()))
            if not whole and most < needed.shape[1]:
                found[name] = needed.int().topk(most, dim=1).indices
        return found

    def _hidden(self, draws: list[tuple[int, int]]) -> dict[str, Tensor] | None:
        """Whether each sample hides a modality (b,), for modalities that are hidden with a probability."""

        def uniform(draw: tuple[int, int], name: str) -> float:
            return torch.rand((), generator=self._generator(draw, f"hide {name}"), dtype=torch.float32).item()

        return {
            name: self._moved(torch.tensor([uniform(draw, name) < p for draw in draws]))
            for name, (p, _) in self.model.inputs.hide.items()
            if 0 < p < 1
        } or None

    def _moved(self, drawn: Tensor) -> Tensor:
        return drawn.to(self.device, non_blocking=True)

    def _generator(self, draw: tuple[int, int], name: str) -> torch.Generator:
        return generator(self.seed, *draw, zlib.crc32(name.encode()))


def _check_parts(model: Any, objective: Any) -> None:
    """AssemblyError unless they are a model with outputs and an objective; a wrapped model is not unwrapped."""
    if not isinstance(model, PerceiverIO):
        raise AssemblyError(
            f"Training: model must be a PerceiverIO, got {describe_value(model)}; of a wrapper give the model inside it"
        )
    if model.outputs is None:
        raise AssemblyError("Training: model must have outputs, got one that only encodes; add a decoder and outputs")
    if not isinstance(objective, Objective):
        raise AssemblyError(
            f"Training: objective must be a kit.objectives.Objective, got {describe_value(objective)}; derive from it "
            "and define loss_sum(output, target, targets)"
        )


def _over_processes(term: Term) -> Term:
    """The term over the global count, scaled so that the mean gradient over processes is the global gradient."""
    if not dist.is_available() or not dist.is_initialized():
        return term
    count = term.count.detach().clone().to(torch.float64)
    dist.all_reduce(count)
    return term._replace(total=term.total * dist.get_world_size(), count=count)
