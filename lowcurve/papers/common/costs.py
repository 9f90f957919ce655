"""Measure the cost of a training step in operations and time, relative to a step without penalty or attack."""

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
    """Count the floating-point operations inside a `with` block.

    Torch's own `FlopCounterMode` hooks into modules, which fails when gradients are taken in the input.

    Attributes:
        count: Floating-point operations counted so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def compare_step_costs(
    steps: Mapping[str, tuple[nn.Module, Objective]], x: Tensor, y: Tensor, rounds: int, period: int = 1
) -> Table:
    """Measure forward passes, operations and time of a training step of each method.

    A step goes from the batch to the parameters' gradients. It includes the power iterations of LCNN's layers and leaves out
    the optimizer. Each round takes one step of every method in turn, and the fastest round of each method counts. The steps
    are taken by copies in training mode, so the networks do not change.

    Args:
        steps: Network and objective by name. The first is the plain step. It is the unit of operations and time.
        x: Images of the batch, pixel units.
        y: Their labels.
        rounds: Number of rounds.
        period: Number of successive steps averaged into one. `every` is that of a penalty not taken at each step.
    """
    steps = {name: (deepcopy(model).requires_grad_(), objective) for name, (model, objective) in steps.items()}
    forwards: list[int] = []
    passes, operations = {}, {}
    for name, (model, objective) in steps.items():
        forwards.clear()
        hook = model.register_forward_hook(lambda *_: forwards.append(1))
        with OperationCounter() as counter:
            _take_steps(model, objective, x, y, period)
        hook.remove()
        passes[name], operations[name] = len(forwards), counter.count
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (model, objective) in steps.items():
            began = time.perf_counter()
            _take_steps(model, objective, x, y, period)
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
        Column(
            "forward passes",
            "Passes of the network." if period == 1 else f"Passes of the network in {period} steps.",
            "d",
        ),
        Column("operations", "In units of the plain step."),
        Column("time", "In units of the plain step; the fastest round of each."),
        Column("seconds", "Of the fastest round."),
        Column("median", "Median seconds over the rounds."),
    )
    device = x.device.type
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else ""
    conditions = {"batch": str(len(x)), "rounds": f"{rounds}, interleaved", "device": f"{device} {threads}".strip()}
    return Table("Cost of a training step", columns, rows, conditions=conditions)


def _take_steps(model: nn.Module, objective: Objective, x: Tensor, y: Tensor, period: int) -> None:
    with set_training(model, training=True):
        for step in range(period):
            model.zero_grad(set_to_none=True)
            update_norms(model)  # `fit` does so at every step
            terms = objective.terms(model, x, y, generator=stream(0, "costs", step), step=step)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
