"""The training loop. Everything random in a step follows from (seed, step), so a run killed at any step resumes exactly."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowcurve import randomness
from lowcurve.data.batches import PLAIN, Augmentation, Examples, in_order, shuffled, steps_per_epoch
from lowcurve.errors import InputError
from lowcurve.models.modes import mode
from lowcurve.training.hardware import fabric as make_fabric
from lowcurve.training.hardware import refuse_what_is_silently_wrong
from lowcurve.training.objective import Objective, Schedule
from lowcurve.types import Progress, silent

History = list[dict[str, float]]


@dataclass(frozen=True)
class Optimization:
    """How an objective is minimized. The learning rate is `learning_rate` times its schedule at the share of steps done;
    `average` is the decay of an exponential moving average of the weights, which then are the result."""

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    learning_rate_schedule: Schedule = field(default_factory=lambda: Schedule(end=0.0, shape="cosine"))
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gradient_clipping: float | None = None
    average: float | None = None
    augmentation: Augmentation = PLAIN

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError("at least one epoch", self.epochs, "write epochs: 1")
        if self.batch_size < 1:
            raise InputError("a batch size of at least 1", self.batch_size, "write how many examples a batch holds")
        if not 0 <= self.learning_rate < math.inf:
            raise InputError("a learning rate of 0 or more", self.learning_rate, "write learning_rate: 1e-3")
        if self.gradient_clipping is not None and not self.gradient_clipping > 0:
            mend = "write gradient_clipping: 1.0, or null for none"
            raise InputError("a length above 0 to clip gradients to", self.gradient_clipping, mend)
        if self.average is not None and not 0 <= self.average < 1:
            mend = "write average: 0.999, or null for none"
            raise InputError("an average's decay from 0 to below 1", self.average, mend)

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, Adam or AdamW over all parameters."""
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay)
        if self.optimizer in ("adam", "adamw"):
            kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
            return kind(model.parameters(), lr=rate, weight_decay=decay)
        raise InputError("an optimizer among sgd, adam, adamw", repr(self.optimizer), "write optimizer: adamw")


class Checkpoint(Protocol):
    """Where the state of a training survives; `store` keeps it on disk."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: Mapping[str, Any]) -> None: ...


def fit(
    model: nn.Module,
    objective: Objective,
    examples: Examples,
    optimization: Optimization,
    *,
    seed: int = 0,
    validation: Examples | None = None,
    fabric: Fabric | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int | None = None,
    progress: Progress[int] = silent,
    heading: str = "training",
) -> History:
    """Train `model` in place and leave it in eval mode; returns each epoch's mean terms, learning rate and validation
    accuracy.

    The last weights (or their average) are the result: nothing is selected on any data. checkpoint_every: in steps, by
    default once an epoch; from a checkpoint training goes on as if never interrupted, bit for bit on one CPU.
    Errors: InputError when a term is no longer finite, which names the term.
    """
    made = fabric or make_fabric()
    refuse_what_is_silently_wrong(made, objective)
    per_epoch = steps_per_epoch(examples, optimization.batch_size)
    total = per_epoch * optimization.epochs
    wrapped, optimizer = made.setup(model, optimization.optimizer_for(model))
    state = _State(wrapped, optimizer, _average(model, optimization))
    state.restore(checkpoint.load() if checkpoint else None)
    batches = _batches(examples, optimization, seed, state.step, per_epoch, made)
    sums: dict[str, Tensor] = state.sums
    for step in progress(range(state.step, total), heading):
        x, y = made.to_device(next(batches))
        with randomness.isolated(seed, "training", step):
            terms = _step(made, wrapped, optimizer, objective, optimization, x, y, seed, step, step / total)
        _accumulate(sums, terms, made, step)
        state.step = step + 1
        if state.average is not None:
            state.average.update_parameters(model)
        if state.step % per_epoch == 0:
            row = _epoch_row(sums, per_epoch, state.step // per_epoch, optimizer)
            if validation is not None and len(validation):
                row["validation accuracy"] = _accuracy(state.result(model), validation, made)
            state.history.append(row)
            sums.clear()
            made.log_dict(row, step=state.step)
        if checkpoint and (state.step % (checkpoint_every or per_epoch) == 0 or state.step == total):
            _save(made, checkpoint, state)
    if state.average is not None:
        model.load_state_dict(state.average.module.state_dict())
    for logger in made.loggers:
        logger.finalize("success")
    model.eval()
    return state.history


class _State:
    """What a training consists of between two steps."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> None:
        self.model, self.optimizer, self.average = model, optimizer, average
        self.step, self.history, self.sums = 0, History(), dict[str, Tensor]()

    def result(self, model: nn.Module) -> nn.Module:
        """The network that training would give if it ended now."""
        return model if self.average is None else self.average.module

    def dump(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "history": self.history,
            "sums": dict(self.sums),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.step, self.history, self.sums = state["step"], list(state["history"]), dict(state["sums"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    optimization: Optimization,
    x: Tensor,
    y: Tensor,
    seed: int,
    step: int,
    progress: float,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = optimization.learning_rate * optimization.learning_rate_schedule(progress)
    optimizer.zero_grad(set_to_none=True)
    generator = randomness.stream(seed, "objective", progress, fabric.global_rank)
    # Fabric's own wrapper wants every backward pass for itself, which attacks and penalties cannot give it.
    forward: nn.Module = model._forward_module  # type: ignore[assignment]
    x = _like_weights(x, model)
    # Half precision ruins the small differences of gradients that penalties are made of, so those steps run in whole.
    precision = nullcontext() if objective.differentiates_twice else fabric.autocast()
    with precision:
        terms = objective.terms(forward, x, y, generator=generator, progress=progress, step=step)
        total = torch.stack(list(terms.values())).sum()
    fabric.backward(total)
    if optimization.gradient_clipping is not None:
        fabric.clip_gradients(model, optimizer, max_norm=optimization.gradient_clipping, error_if_nonfinite=False)
    optimizer.step()
    # What is reported, and found to be finite or not, is the mean over all processes: every rank sees the same.
    means = torch.as_tensor(
        fabric.all_reduce(torch.stack([term.detach() for term in terms.values()]), reduce_op="mean")
    )
    return dict(zip(terms, means, strict=True))


def _batches(
    examples: Examples, optimization: Optimization, seed: int, step: int, per_epoch: int, fabric: Fabric
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch of this rank from `step` on, epoch after epoch."""
    for epoch in range(step // per_epoch, optimization.epochs):
        yield from shuffled(
            examples,
            optimization.batch_size,
            seed=seed,
            epoch=epoch,
            start=step % per_epoch if epoch == step // per_epoch else 0,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
            augmentation=optimization.augmentation,
        )


def _accumulate(sums: dict[str, Tensor], terms: Mapping[str, Tensor], fabric: Fabric, step: int) -> None:
    for name, term in terms.items():
        # A look at the value makes a GPU wait, so there it is taken now and then.
        if (fabric.device.type == "cpu" or step % 50 == 0) and not math.isfinite(term.item()):
            raise InputError(
                f"a finite {name} in training",
                f"{term.item()} at step {step}",
                "lower the learning rate or the penalty's weight, or look for NaN in the initial weights",
            )
        sums[name] = sums.get(name, torch.zeros_like(term)) + term


def _epoch_row(
    sums: Mapping[str, Tensor], per_epoch: int, epoch: int, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    means = {name: (value / per_epoch).item() for name, value in sums.items()}
    return {"epoch": float(epoch), **means, "learning rate": float(optimizer.param_groups[0]["lr"])}


def _accuracy(model: nn.Module, examples: Examples, fabric: Fabric) -> float:
    right = 0
    with mode(model, training=False), torch.no_grad():
        for batch in in_order(examples, 512):
            x, y = fabric.to_device(batch)
            right += int((model(_like_weights(x, model)).argmax(1) == y).sum())
    return right / len(examples)


def _like_weights(x: Tensor, model: nn.Module) -> Tensor:
    """x in the precision of the weights, float64 in 64-true; under autocast that is float32, which differences need."""
    return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))


def _average(model: nn.Module, optimization: Optimization) -> AveragedModel | None:
    if optimization.average is None:
        return None
    average = get_ema_multi_avg_fn(optimization.average)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _save(fabric: Fabric, checkpoint: Checkpoint, state: _State) -> None:
    if fabric.is_global_zero:
        checkpoint.save(state.dump())
    fabric.barrier()
