"""The training loop. Everything random in a step follows from (seed, step), so a run killed at any step resumes exactly."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.data.batches import PLAIN, Augmentation, Examples, in_order, shuffled, steps_per_epoch
from lowcurve.errors import InputError
from lowcurve.models.lipschitz import update_norms
from lowcurve.models.summary import layer_values
from lowcurve.training.hardware import fabric as make_fabric
from lowcurve.training.hardware import (
    like_weights,
    refuse_what_is_silently_wrong,
    refuse_what_penalties_cannot_bear,
)
from lowcurve.training.objective import Objective
from lowcurve.training.schedule import Schedule
from lowcurve.training.state import State
from lowcurve.training.validation import CLEAN, ROBUST, accuracies
from lowcurve.types import AttackFunction, Progress, silent

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CURVATURE = ("log_beta", "log_gamma")
"""How the names of betas and gammas end."""


@dataclass(frozen=True)
class Optimization:
    """How an objective is minimized. The learning rate is `learning_rate` times its schedule at the share of steps done;
    `average` is the decay of an exponential moving average of the weights, which then are the result.

    curvature_decay: the weight decay of log_beta and log_gamma, in the place of the other parameters' one.
    keep: the weights of the "last" epoch, or of the "best": that of the highest validation accuracy, which is the robust
    one where `fit` is given a validation attack; of equal epochs the earlier.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    learning_rate_schedule: Schedule = field(default_factory=lambda: Schedule(end=0.0, shape="cosine"))
    momentum: float = 0.9
    weight_decay: float = 1e-4
    curvature_decay: float = 0.0
    gradient_clipping: float | None = None
    average: float | None = None
    augmentation: Augmentation = PLAIN
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError("at least one epoch", self.epochs, "write epochs: 1")
        if self.batch_size < 1:
            raise InputError("a batch size of at least 1", self.batch_size, "write how many examples a batch holds")
        if not 0 <= self.learning_rate < math.inf:
            raise InputError("a learning rate of 0 or more", self.learning_rate, "write learning_rate: 1e-3")
        if self.gradient_clipping is not None and not self.gradient_clipping > 0:
            hint = "write gradient_clipping: 1.0, or null for none"
            raise InputError("a length above 0 to clip gradients to", self.gradient_clipping, hint)
        if self.average is not None and not 0 <= self.average < 1:
            hint = "write average: 0.999, or null for none"
            raise InputError("an average's decay from 0 to below 1", self.average, hint)
        if self.keep not in ("last", "best"):
            raise InputError('the "last" or the "best" weights to keep', repr(self.keep), "write keep: last")

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, Adam or AdamW over all parameters, log_beta and log_gamma in a group of their own."""
        rate, decay = self.learning_rate, self.weight_decay
        apart = [p for name, p in model.named_parameters() if name.endswith(CURVATURE)]
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in model.named_parameters() if not n.endswith(CURVATURE)]}
        ]
        if apart:
            groups.append({"params": apart, "weight_decay": self.curvature_decay})
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, weight_decay=decay)
        if self.optimizer in ("adam", "adamw"):
            kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
            return kind(groups, lr=rate, weight_decay=decay)
        raise InputError("an optimizer among sgd, adam, adamw", repr(self.optimizer), "write optimizer: adamw")


History = list[dict[str, float]]


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
    validation_attack: AttackFunction | None = None,
    fabric: "Fabric | None" = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int | None = None,
    progress: Progress[int] = silent,
    heading: str = "training",
) -> History:
    """Train `model` in place and leave it in eval mode; returns each epoch's mean terms, learning rate and, where there are
    validation examples, validation accuracy, and the betas, gammas and norms of its layers, where they have any.

    validation_attack: beside it each epoch has its "validation robust accuracy", an upper bound: the curve on which robust
    overfitting is seen. What is validated and kept is the average of the weights, if there is one; the last weights are the
    result unless `optimization` keeps the best by validation, and nothing else is selected on any data.
    checkpoint_every: in steps, by default once an epoch; from a checkpoint training goes on as if never interrupted, bit for
    bit on one CPU. Several processes share each batch and take the step of one, except that BatchNorm in training mode sees
    each process's own examples (running statistics are averaged over them for validation, checkpoints and the end) and
    that dropout draws alike in all of them.
    Errors: InputError for what cannot be trained, before the first step, and when a term is no longer finite, by its name.
    """
    if validation is not None and not len(validation):
        validation = None
    if validation is None and (optimization.keep == "best" or validation_attack is not None):
        expected = "a validation split to choose weights by or to attack"
        raise InputError(expected, "none", 'give validation=, or leave out keep="best" and validation_attack')
    per_epoch = steps_per_epoch(examples, optimization.batch_size)
    total = per_epoch * optimization.epochs
    state = _state(model, objective, optimization, examples, fabric or make_fabric())
    state.restore(checkpoint.load() if checkpoint else None)
    batches = _batches(examples, optimization, seed, state, per_epoch)
    for step in progress(range(state.step, total), heading):
        x, y = state.fabric.to_device(next(batches))
        with randomness.temporary_seed(seed, "training", step):
            _take_step(state, optimization, like_weights(x, state.network), y, seed, step / total)
        ends, saves = state.step % per_epoch == 0, state.step % (checkpoint_every or per_epoch) == 0
        if ends or (checkpoint and saves):
            state.agree()
        if ends:
            _end_epoch(state, optimization, per_epoch, validation, validation_attack, seed)
        if checkpoint and (saves or state.step == total):
            _save(checkpoint, state)
    state.finish()
    for logger in state.fabric.loggers:
        logger.finalize("success")
    model.eval()
    return state.history


def _state(
    model: nn.Module, objective: Objective, optimization: Optimization, examples: Examples, fabric: "Fabric"
) -> State:
    """Everything in its place, once it is known that it can be trained."""
    refuse_what_is_silently_wrong(fabric, objective)
    wrapped, optimizer = fabric.setup(model, optimization.optimizer_for(model))
    refuse_what_penalties_cannot_bear(wrapped, objective)
    update_norms(wrapped, steps=0)  # which refuses layers that were not prepared
    state = State(fabric, wrapped, optimizer, objective, optimization.average)
    x, y = fabric.to_device(next(in_order(examples, 2)))
    objective.require(getattr(state.forward, "_orig_mod", state.forward), like_weights(x, wrapped), y)
    return state


def _take_step(state: State, optimization: Optimization, x: Tensor, y: Tensor, seed: int, progress: float) -> None:
    fabric, optimizer, objective = state.fabric, state.optimizer, state.objective
    for group in optimizer.param_groups:
        group["lr"] = optimization.learning_rate * optimization.learning_rate_schedule(progress)
    optimizer.zero_grad(set_to_none=True)
    # Draws are each example's own, so every process may begin with the same stream.
    generator = randomness.stream(seed, "objective", progress)
    parts = objective.parts(
        state.forward, x, y, generator=generator, progress=progress, step=state.step, autocast=fabric.autocast
    )
    fabric.backward(torch.stack([part.weight * part.mean for part in parts.values()]).sum())
    if optimization.gradient_clipping is not None:
        fabric.clip_gradients(state.model, optimizer, max_norm=optimization.gradient_clipping, error_if_nonfinite=False)
    optimizer.step()
    update_norms(state.network)
    if state.average is not None:
        state.average.update_parameters(state.network)
        update_norms(state.average)
    # What is reported, followed, and found to be finite or not, is the mean over all processes: every rank sees the same.
    stacked = torch.stack([part.mean.detach() for part in parts.values()])
    means = dict(zip(parts, torch.as_tensor(fabric.all_reduce(stacked, reduce_op="mean")), strict=True))
    _accumulate(state, {name: part.weight * means[name] for name, part in parts.items()})
    state.objective = objective.after(means, step=state.step)
    state.step += 1


def _accumulate(state: State, terms: Mapping[str, Tensor]) -> None:
    for name, term in terms.items():
        # A look at the value makes a GPU wait, so there it is taken now and then.
        if (term.device.type == "cpu" or state.step % 50 == 0) and not math.isfinite(term.item()):
            raise InputError(
                f"a finite {name} in training",
                f"{term.item()} at step {state.step}",
                "lower the learning rate or the penalty's weight, or look for NaN in the initial weights",
            )
        state.sums[name] = state.sums.get(name, torch.zeros_like(term)) + term


def _end_epoch(
    state: State,
    optimization: Optimization,
    steps: int,
    validation: Examples | None,
    attack: AttackFunction | None,
    seed: int,
) -> None:
    row = state.close_epoch(steps)
    if validation is not None:
        row |= accuracies(state.result, validation, attack, state.fabric, optimization.batch_size, seed)
    row |= layer_values(state.result)
    if optimization.keep == "best":
        state.keep_if_best(row.get(ROBUST, row[CLEAN]))
    state.history.append(row)
    state.fabric.log_dict(row, step=state.step)


def _batches(
    examples: Examples, optimization: Optimization, seed: int, state: State, per_epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch of this rank from the state's step on, epoch after epoch."""
    first, start = divmod(state.step, per_epoch)
    for epoch in range(first, optimization.epochs):
        yield from shuffled(
            examples,
            optimization.batch_size,
            seed=seed,
            epoch=epoch,
            start=start if epoch == first else 0,
            rank=state.fabric.global_rank,
            ranks=state.fabric.world_size,
            augmentation=optimization.augmentation,
        )


def _save(checkpoint: Checkpoint, state: State) -> None:
    if state.fabric.is_global_zero:
        checkpoint.save(state.dump())
    state.fabric.barrier()
