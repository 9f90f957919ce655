"""Device, precision and processes of a training, through Lightning Fabric."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.network_calls import input_like
from lowcurve.training.objective import Objective

if TYPE_CHECKING:  # Fabric takes as long to import as torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import Strategy


PRECISIONS = {
    **dict.fromkeys(("half", "float16", "fp16"), "16-true"),
    **dict.fromkeys(("bfloat16", "bf16"), "bf16-true"),
    **dict.fromkeys(("single", "float", "float32", "fp32"), "32-true"),
    **dict.fromkeys(("double", "float64", "fp64"), "64-true"),
}
"""Torch's words for the precision of weights, and Fabric's."""


@dataclass(frozen=True)
class Hardware:
    """Device, precision and processes, in the words of Lightning Fabric.

    Args:
        accelerator: "auto", "cpu" or "cuda".
        devices: Number of processes on each machine.
        nodes: Number of machines.
        strategy: "auto", "ddp" or "ddp_spawn".
        precision: For example "32-true", "bf16-mixed" or "double". Penalties are always computed in the precision of the
            weights.
        compile: Compile the forward pass with torch.compile. Penalties that differentiate twice run the network as it is,
            and only the attack and a loss apart from them are faster. Dropout draws other random numbers once it is compiled.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False


CPU = torch.device("cpu")


@dataclass(frozen=True)
class OneProcess:
    """Stand in for a Fabric in an evaluation by one process on the CPU. Fabric itself takes as long to import as torch."""

    device: torch.device = CPU
    global_rank: int = 0
    world_size: int = 1
    is_global_zero: bool = True

    def barrier(self) -> None:
        """Wait for no other process."""


def is_one_cpu_process(hardware: Hardware) -> bool:
    """Return True if Fabric would do nothing but to place tensors on the CPU.

    Args:
        hardware: Device, precision and processes.
    """
    if replace(hardware, accelerator="auto") != Hardware() or hardware.accelerator not in ("auto", "cpu"):
        return False
    return hardware.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def make_fabric(
    hardware: Hardware | None = None, *, strategy: "Strategy | None" = None, loggers: Sequence[Any] = ()
) -> "Fabric":
    """Create a Fabric.

    Args:
        hardware: Device, precision and processes.
        strategy: Strategy instead of the one that `hardware` names.
        loggers: Loggers of Lightning Fabric.

    Raises:
        InputError: If Fabric does not know the hardware or does not find it.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    hardware = hardware or Hardware()
    chosen: Strategy | str = strategy or hardware.strategy
    if chosen in ("ddp", "ddp_spawn"):
        # One step has several forward passes before its backward pass, and broadcasting buffers between them breaks it.
        # The name of the option changed between torch 2.9 and 2.13.
        options = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
        chosen = DDPStrategy(start_method="popen" if chosen == "ddp" else "spawn", **{name: False})
    try:
        return Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=chosen,
            precision=PRECISIONS.get(hardware.precision, hardware.precision),
            callbacks=[_Compiling()] if hardware.compile else [],
            loggers=list(loggers),
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        reason = f"{hardware} ({str(error).strip().splitlines()[0]})"
        hint = "write accelerator auto, precision 32-true and strategy auto, or see Fabric's names"
        raise InputError("hardware that Lightning Fabric knows and finds here", reason, hint) from None


def require_correct_strategy(fabric: "Fabric", objective: Objective) -> None:
    """Raise an error for strategies whose gradients are wrong for an objective that differentiates twice.

    With torch 2.13 such gradients differ between processes under static_graph=True and are empty under FSDP, both without
    an error.

    Args:
        fabric: Fabric of the training.
        objective: Objective of the training.

    Raises:
        InputError: If the objective differentiates twice under such a strategy.
    """
    from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

    if not objective.differentiates_twice:
        return
    strategy, hint = fabric.strategy, 'use strategy="ddp" without it, or an objective without penalties'
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise InputError(
            "whole parameters for an objective with input-gradient penalties", type(strategy).__name__, hint
        )
    if isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph"):
        raise InputError("a dynamic graph for an objective with input-gradient penalties", "static_graph=True", hint)


def require_precise_weights(weights: torch.dtype | None, objective: Objective, optimizer: str) -> None:
    """Raise an error for weights of half precision where their rounding makes the training wrong.

    Args:
        weights: Floating-point type of the weights.
        objective: Objective of the training.
        optimizer: Name of the optimizer.

    Raises:
        InputError: For half precision with penalties, and for float16 with Adam.
    """
    hint = "write precision bf16-mixed, which keeps the weights in float32"
    if objective.penalties and weights in (torch.float16, torch.bfloat16):
        raise InputError("float32 weights for penalties, whose small differences half precision loses", weights, hint)
    if optimizer.startswith("adam") and weights == torch.float16:
        raise InputError(f"float32 weights for {optimizer}, whose constant 1e-8 is 0 in float16", weights, hint)


def weights_type(hardware: Hardware) -> torch.dtype | None:
    """Return the floating-point type to which the precision sets a network's weights, None if it leaves them."""
    name = PRECISIONS.get(hardware.precision, hardware.precision)
    return {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}.get(name)


def require_weight_gradients(model: nn.Module) -> None:
    """Raise an error after a backward pass that has reached none of the weights, as through quantized layers.

    Args:
        model: Network after a backward pass.

    Raises:
        InputError: If no parameter has a gradient.
    """
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if wanting and all(parameter.grad is None for parameter in wanting):
        hint = "remove quantization, detach() and no_grad() from the network"
        raise InputError("a loss whose derivative reaches the weights", "none", hint)


def match_precision(x: Tensor, model: nn.Module) -> Tensor:
    """Convert x to the precision of a network's inputs: float64 in 64-true, else float32, which differences need."""
    return x.to(input_like(model).dtype)


def set_up(fabric: "Fabric", model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, torch.optim.Optimizer]:
    """Let Fabric wrap a network and its optimizer; one that torch compiles is compiled as before, around Fabric's wrapper.

    Fabric itself refuses a network that was compiled before Fabric was imported.

    Args:
        fabric: Device, precision and processes.
        model: The network.
        optimizer: Its optimizer.

    Returns:
        The wrapped network and the wrapped optimizer.
    """
    inner: nn.Module = getattr(model, "_orig_mod", model)
    wrapped, optimizer = fabric.setup(inner, optimizer)
    if inner is not model:
        wrapped._forward_module = type(model)(wrapped._forward_module, model.dynamo_ctx)
    return wrapped, optimizer


class _Compiling:
    """A callback of Fabric that compiles each network which Fabric sets up."""

    def on_after_setup(self, fabric: "Fabric", module: Any) -> None:  # noqa: ARG002 (Fabric names them)
        module._forward_module = torch.compile(module._forward_module)
