"""Where training runs: device, precision, processes; through Lightning Fabric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from lowcurve.errors import InputError
from lowcurve.training.objective import Objective


@dataclass(frozen=True)
class Hardware:
    """accelerator: auto, cpu, cuda. devices: processes on each node. strategy: auto, ddp, ddp_spawn. precision: Fabric's
    names, such as 32-true or bf16-mixed."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


def fabric(
    hardware: Hardware | None = None, *, strategy: Strategy | None = None, loggers: Sequence[Any] = ()
) -> Fabric:
    """A Fabric for this hardware; `strategy` overrides the one that the hardware names."""
    hardware = hardware or Hardware()
    chosen: Strategy | str = strategy or hardware.strategy
    if chosen in ("ddp", "ddp_spawn"):
        # Two forward passes before one backward are normal here, and broadcasting buffers in between breaks the first.
        start = "popen" if chosen == "ddp" else "spawn"
        chosen = DDPStrategy(broadcast_buffers=False, start_method=start)
    try:
        return Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=chosen,
            precision=hardware.precision,
            loggers=list(loggers),
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        reason = f"{hardware} ({str(error).strip().splitlines()[0]})"
        mend = "write accelerator auto, precision 32-true and strategy auto, or see Fabric's names"
        raise InputError("hardware that Lightning Fabric knows and finds here", reason, mend) from None


def refuse_what_is_silently_wrong(made: Fabric, objective: Objective) -> None:
    """static_graph=True and sharded parameters give wrong gradients, without an error, to twice-differentiated objectives.

    So it is with torch 2.13: under static_graph the ranks even disagree with one another; FSDP leaves the
    gradients empty.
    """
    if not objective.differentiates_twice:
        return
    strategy, mend = made.strategy, 'use strategy="ddp" without it, or an objective without penalties'
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise InputError(
            "whole parameters for an objective with input-gradient penalties", type(strategy).__name__, mend
        )
    if isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph"):
        raise InputError("a dynamic graph for an objective with input-gradient penalties", "static_graph=True", mend)
