"""What a training step of a method costs, in plain steps: operations counted, time measured with the ways interleaved."""

import statistics
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lowcurve.models.lipschitz import update_norms
from lowcurve.models.modes import set_training
from lowcurve.randomness import stream
from lowcurve.results import Column, Table
from lowcurve.training import Objective


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations within; torch's own counter follows modules, which gradients in the input break."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call, counted."""
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def compare_step_costs(
    steps: Mapping[str, tuple[nn.Module, Objective]], x: Tensor, y: Tensor, rounds: int, period: int = 1
) -> Table:
    """A step of each network under its objective, from the batch to the parameters' gradients, power iterations of LCNN's
    layers included; without the optimizer.

    Forward passes, operations and time; the first is the plain step that the others are counted in. Every round takes a step of
    each, and the best round of each counts. Copies take it, in training mode; the networks stay as they are. period: so many
    steps in a row stand for one, where a penalty is taken at every k-th.
    """
    steps = {name: (deepcopy(model).requires_grad_(), objective) for name, (model, objective) in steps.items()}
    forwards: list[int] = []
    passes, operations = {}, {}
    for name, (model, objective) in steps.items():
        forwards.clear()
        seen = model.register_forward_hook(lambda *_: forwards.append(1))
        with OperationCounter() as counter:
            _steps(model, objective, x, y, period)
        seen.remove()
        passes[name], operations[name] = len(forwards), counter.count
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (model, objective) in steps.items():
            began = time.perf_counter()
            _steps(model, objective, x, y, period)
            seconds[name].append((time.perf_counter() - began) / period)
    best = {name: min(times) for name, times in seconds.items()}
    plain = next(iter(steps))
    rows = tuple(
        (
            name, passes[name], operations[name] / operations[plain], best[name] / best[plain], best[name],
            statistics.median(seconds[name]),
        )
        for name in steps
    )  # fmt: skip
    columns = (
        Column("step"),
        Column("forward passes", "Of the network." if period == 1 else f"Of the network, in {period} steps.", "d"),
        Column("operations", "In plain steps."),
        Column("time", "In plain steps: best round against best round."),
        Column("seconds", "Of the best round."),
        Column("median", "Seconds, over the rounds."),
    )
    device = x.device.type
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else ""
    conditions = {"batch": str(len(x)), "rounds": f"{rounds}, interleaved", "device": f"{device} {threads}".strip()}
    return Table("A training step, in plain steps", columns, rows, conditions=conditions)


def _steps(model: nn.Module, objective: Objective, x: Tensor, y: Tensor, period: int) -> None:
    with set_training(model, training=True):
        for step in range(period):
            model.zero_grad(set_to_none=True)
            update_norms(model)  # as `fit` does at every step
            terms = objective.terms(model, x, y, generator=stream(0, "costs", step), step=step)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
