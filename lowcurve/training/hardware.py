"""Where training runs: device, precision, processes; through Lightning Fabric."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.training.objective import Objective

if TYPE_CHECKING:  # Fabric takes as long to import as torch: whoever only asks for help need not wait for it
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import Strategy


@dataclass(frozen=True)
class Hardware:
    """accelerator: auto, cpu, cuda. devices: processes on each node. strategy: auto, ddp, ddp_spawn. precision: Fabric's
    names, such as 32-true or bf16-mixed; penalties are computed in whole precision all the same. compile: the forward pass
    by torch.compile, for objectives that do not differentiate twice; dropout then has other random numbers."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False


def fabric(
    hardware: Hardware | None = None, *, strategy: "Strategy | None" = None, loggers: Sequence[Any] = ()
) -> "Fabric":
    """A Fabric for this hardware; `strategy` overrides the one that the hardware names."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    hardware = hardware or Hardware()
    chosen: Strategy | str = strategy or hardware.strategy
    if chosen in ("ddp", "ddp_spawn"):
        # Two forward passes before one backward are normal here, and broadcasting buffers in between breaks the first.
        # The word for it changed between torch 2.9 and 2.13.
        words = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        still = "forward_sync_buffers" if "forward_sync_buffers" in words else "broadcast_buffers"
        chosen = DDPStrategy(start_method="popen" if chosen == "ddp" else "spawn", **{still: False})
    try:
        return Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=chosen,
            precision=hardware.precision,
            callbacks=[_Compiling()] if hardware.compile else [],
            loggers=list(loggers),
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        reason = f"{hardware} ({str(error).strip().splitlines()[0]})"
        hint = "write accelerator auto, precision 32-true and strategy auto, or see Fabric's names"
        raise InputError("hardware that Lightning Fabric knows and finds here", reason, hint) from None


def refuse_what_is_silently_wrong(made: "Fabric", objective: Objective) -> None:
    """static_graph=True and sharded parameters give wrong gradients, without an error, to twice-differentiated objectives.

    So it is with torch 2.13: under static_graph the ranks even disagree with one another; FSDP leaves the
    gradients empty.
    """
    from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

    if not objective.differentiates_twice:
        return
    strategy, hint = made.strategy, 'use strategy="ddp" without it, or an objective without penalties'
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise InputError(
            "whole parameters for an objective with input-gradient penalties", type(strategy).__name__, hint
        )
    if isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph"):
        raise InputError("a dynamic graph for an objective with input-gradient penalties", "static_graph=True", hint)


def refuse_what_penalties_cannot_bear(model: nn.Module, objective: Objective) -> None:
    """A model that Fabric has set up: compiled, where an objective differentiates it twice, or in half precision beside any
    penalty. torch does not differentiate a compiled function twice, and says so only in the first backward pass."""
    from torch._dynamo import OptimizedModule

    if objective.differentiates_twice and isinstance(model._forward_module, OptimizedModule):
        hint = 'write compile: false, or penalties with differentiation="first_order"'
        raise InputError("an eager network for penalties that differentiate it twice", "a compiled one", hint)
    kinds = {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}
    if objective.penalties and kinds:
        hint = "write precision bf16-mixed, in which penalties are whole"
        raise InputError("weights in whole precision for penalties, which are small differences", kinds.pop(), hint)


def like_weights(x: Tensor, model: nn.Module) -> Tensor:
    """x in the precision of the weights, float64 in 64-true; under autocast that is float32, which differences need."""
    return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))


class _Compiling:
    """What Fabric calls with each model that it has set up."""

    def on_after_setup(self, fabric: "Fabric", module: Any) -> None:  # noqa: ARG002 (Fabric names them)
        module._forward_module = torch.compile(module._forward_module)
