"""The training loop. All randomness of a step follows from (seed, step), so an interrupted training resumes exactly."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import explain_failures
from lowcurve.analysis.second_derivatives import repeat_math_attention
from lowcurve.attacks import SORA
from lowcurve.data.batches import PLAIN, Augmentation, ordered_batches, shuffled_batches, steps_per_epoch
from lowcurve.data.coercion import Data, as_examples
from lowcurve.data.examples import Examples
from lowcurve.errors import InputError
from lowcurve.models.failing_layers import name_failing_layer
from lowcurve.models.lipschitz import update_norms
from lowcurve.models.summary import layer_values
from lowcurve.network_calls import gradients_enabled, precision_of
from lowcurve.progress import choose_progress
from lowcurve.training.alignment import PERT_ALIGN
from lowcurve.training.hardware import (
    make_fabric,
    match_precision,
    require_correct_strategy,
    require_precise_weights,
    require_weight_gradients,
    set_up,
)
from lowcurve.training.objective import Objective
from lowcurve.training.schedule import Schedule
from lowcurve.training.state import State
from lowcurve.training.validation import CLEAN, ROBUST, validation_accuracies
from lowcurve.types import AttackFunction, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CURVATURE = ("log_beta", "log_gamma")
"""Endings of the parameter names of betas and gammas."""


@dataclass(frozen=True)
class Optimization:
    """Settings of the optimizer.

    Args:
        epochs: Number of epochs.
        batch_size: Number of examples in a batch.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        learning_rate: Learning rate. It is multiplied by the schedule.
        learning_rate_schedule: Factor on the learning rate over training.
        momentum: Momentum of SGD.
        weight_decay: Weight decay. It excludes log_beta and log_gamma.
        curvature_decay: Weight decay of log_beta and log_gamma.
        gradient_clipping: Largest l_2 norm of the gradient. Default: no clipping.
        average: Decay of an exponential moving average of the weights, which then is the result. Default: no average.
        augmentation: Data augmentation.
        keep: Weights to keep: of the "last" epoch, or of the "best" one by validation accuracy. With a validation attack,
            robust validation accuracy decides. Of equal epochs the earlier one is kept.

    Raises:
        InputError: If an option is out of range.
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
        """Create the optimizer of all parameters, with log_beta and log_gamma in a group of their own.

        Raises:
            InputError: If the optimizer is unknown.
        """
        rate, decay = self.learning_rate, self.weight_decay
        curvature = [p for name, p in model.named_parameters() if name.endswith(CURVATURE)]
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in model.named_parameters() if not n.endswith(CURVATURE)]}
        ]
        if curvature:
            groups.append({"params": curvature, "weight_decay": self.curvature_decay})
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, weight_decay=decay)
        if self.optimizer in ("adam", "adamw"):
            kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
            return kind(groups, lr=rate, weight_decay=decay)
        raise InputError("an optimizer among sgd, adam, adamw", repr(self.optimizer), "write optimizer: adamw")


History = list[dict[str, float]]


class Checkpoint(Protocol):
    """A place for the state of a training, such as `store.DiskCheckpoint`."""

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state."""
        ...


@gradients_enabled()
def fit(
    model: nn.Module,
    objective: Objective,
    examples: Data,
    optimization: Optimization,
    *,
    seed: int = 0,
    validation: Data | None = None,
    validation_attack: AttackFunction | None = None,
    fabric: "Fabric | None" = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int | None = None,
    progress: Progress[int] | bool | None = None,
    heading: str = "training",
) -> History:
    """Train a network in place and leave it in eval mode.

    The result is the last weights (or their average), unless `optimization` keeps the best by validation. Nothing is
    selected on other data. Several processes share each batch and take the same steps as one process, with two exceptions.
    BatchNorm in training mode sees the examples of its own process only. Dropout draws the same numbers in all processes.
    Running statistics are averaged over the processes for validation, checkpoints and the end.

    Args:
        model: Network to train.
        objective: Objective to minimize.
        examples: Training images with their labels. See `as_examples`.
        optimization: Settings of the optimizer.
        seed: Seed of all random numbers.
        validation: Validation images with their labels.
        validation_attack: Attack on them after each epoch. The robust accuracy is an upper bound; its course shows
            robust overfitting.
        fabric: Device, precision and processes. Default: `make_fabric()`.
        checkpoint: Place for the state. Training resumes from it, bit for bit as without an interruption on one CPU.
        checkpoint_every: Steps between two checkpoints. Default: one epoch.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        heading: Heading of the progress display.

    Returns:
        One dictionary per epoch: mean terms, learning rate, validation accuracies, and the betas, gammas and norms of the
        network's layers, if it has any. With a one-step attack (`OneStep`) it has the mean of "PertAlign", too, and with
        `SORA` that of the "step length" in radii. A warning is logged once PertAlign predicts catastrophic overfitting.

    Raises:
        InputError: Before the first step if something cannot be trained, and later if a term is no longer finite.
    """
    examples = as_examples(examples)
    held_out = None if validation is None else as_examples(validation)
    if held_out is not None and not len(held_out):
        held_out = None
    if held_out is None and (optimization.keep == "best" or validation_attack is not None):
        expected = "a validation split to choose weights by or to attack"
        raise InputError(expected, "none", 'give validation=, or leave out keep="best" and validation_attack')
    per_epoch = steps_per_epoch(examples, optimization.batch_size)
    total = per_epoch * optimization.epochs
    fabric = fabric or make_fabric()
    state = _start(model, objective, optimization, examples, fabric)
    state.restore(checkpoint.load() if checkpoint else None)
    batches = _batches(examples, optimization, seed, state, per_epoch)
    with _closed_logs(fabric):
        for step in choose_progress(progress, fabric)(range(state.step, total), heading):
            x, y = state.fabric.to_device(next(batches))
            x = match_precision(x, state.network)
            with randomness.temporary_seed(seed, "training", step), name_failing_layer(state.network, x):
                _take_step(state, optimization, x, y, seed, step / total)
            ends, saves = state.step % per_epoch == 0, state.step % (checkpoint_every or per_epoch) == 0
            if ends or (checkpoint and saves):
                state.average_statistics()
            if ends:
                _end_epoch(state, optimization, per_epoch, held_out, validation_attack, seed)
            if checkpoint and (saves or state.step == total):
                _save(checkpoint, state)
        state.finish()
    model.eval()
    return state.history


@contextmanager
def _closed_logs(fabric: "Fabric") -> Iterator[None]:
    """Close the loggers at the end of the block, and tell them whether it was completed."""
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in fabric.loggers:
            logger.finalize(status)


def _start(
    model: nn.Module, objective: Objective, optimization: Optimization, examples: Examples, fabric: "Fabric"
) -> State:
    """Check that the training is possible and return its first state."""
    require_correct_strategy(fabric, objective)
    wrapped, optimizer = set_up(fabric, model, optimization.optimizer_for(model))
    require_precise_weights(precision_of(wrapped), objective, optimization.optimizer)
    update_norms(wrapped, steps=0)  # raises an error for layers that were not prepared
    state = State(fabric, wrapped, optimizer, objective, optimization.average)
    x, y = fabric.to_device(next(ordered_batches(examples, 2)))
    objective.check_network(state.forward, match_precision(x, wrapped), y)
    return state


def _take_step(state: State, optimization: Optimization, x: Tensor, y: Tensor, seed: int, progress: float) -> None:
    fabric, optimizer, objective = state.fabric, state.optimizer, state.objective
    for group in optimizer.param_groups:
        group["lr"] = optimization.learning_rate * optimization.learning_rate_schedule(progress)
    optimizer.zero_grad(set_to_none=True)
    # Each example has its own draws, so all processes can start from the same stream.
    generator = randomness.stream(seed, "objective", progress)
    values = objective.term_values(
        state.forward, x, y, generator=generator, progress=progress, step=state.step, autocast=fabric.autocast
    )
    with explain_failures():
        total = torch.stack([value.weight * value.mean for value in values.values()]).sum()
        fabric.backward(repeat_math_attention(total))
    if state.step == 0:
        require_weight_gradients(state.network)
    if optimization.gradient_clipping is not None:
        fabric.clip_gradients(state.model, optimizer, max_norm=optimization.gradient_clipping, error_if_nonfinite=False)
    optimizer.step()
    update_norms(state.network)
    if state.average is not None:
        state.average.update_parameters(state.network)
        update_norms(state.average)
    # Means over all processes, so that every process reports the same and stops at the same step.
    found = {name: value.mean.detach() for name, value in values.items()} | values["loss"].measures()
    stacked = torch.stack([mean.to(found["loss"]) for mean in found.values()])
    means = dict(zip(found, torch.as_tensor(fabric.all_reduce(stacked, reduce_op="mean")), strict=True))
    _accumulate(state, {name: value.weight * means[name] for name, value in values.items()})
    if values["loss"].alignment is not None and PERT_ALIGN in means:
        _follow_alignment(state, means, values["loss"].alignment.classes)
    state.objective = objective.update(means, step=state.step)
    state.step += 1


def _follow_alignment(state: State, means: Mapping[str, Tensor], classes: int) -> None:
    """Add the alignment of a one-step attack to the epoch's means, and warn where it predicts collapse."""
    shown = {PERT_ALIGN: means[PERT_ALIGN]}
    if isinstance(attack := state.objective.attack, SORA):
        shown["step length"] = means[PERT_ALIGN].new_tensor(attack.step_length)
    _accumulate(state, shown)
    state.collapse.add(means[PERT_ALIGN], means["loss"], classes)
    if _is_read(means[PERT_ALIGN], state.step) and state.fabric.is_global_zero:
        state.collapse.warn_once()


def _accumulate(state: State, terms: Mapping[str, Tensor]) -> None:
    for name, term in terms.items():
        if _is_read(term, state.step):
            _require_finite(name, term.item(), state.step)
        state.sums[name] = state.sums.get(name, torch.zeros_like(term)) + term


def _is_read(value: Tensor, step: int) -> bool:
    """Return whether a value is read in this step. That makes a GPU wait, so there it is done in every 50th step only."""
    return value.device.type == "cpu" or step % 50 == 0


def _require_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        hint = "lower the learning rate or the penalty's weight, or look for NaN in the initial weights"
        raise InputError(f"a finite {name} in training", f"{value} at step {step}", hint)


def _end_epoch(
    state: State,
    optimization: Optimization,
    steps: int,
    validation: Examples | None,
    attack: AttackFunction | None,
    seed: int,
) -> None:
    row = state.close_epoch(steps)
    for name, value in row.items():
        _require_finite(name, value, state.step)
    if validation is not None:
        row |= validation_accuracies(state.result, validation, attack, state.fabric, optimization.batch_size, seed)
    row |= layer_values(state.result)
    if optimization.keep == "best":
        state.keep_if_best(row.get(ROBUST, row[CLEAN]))
    state.history.append(row)
    state.fabric.log_dict(row, step=state.step)


def _batches(
    examples: Examples, optimization: Optimization, seed: int, state: State, per_epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of this process from the state's step on, epoch after epoch."""
    first, start = divmod(state.step, per_epoch)
    for epoch in range(first, optimization.epochs):
        yield from shuffled_batches(
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
