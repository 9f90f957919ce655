"""What a layer or a call of a torch function is: one of seven kinds, whichever way it is written."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lowcurve.models.clipping import LipschitzLayer
from lowcurve.models.layers import CenteredSoftplus

CONVOLUTION, LINEAR, NORMALIZATION, POOLING = "convolution", "linear", "normalization", "pooling"
NONLINEARITY, ATTENTION, SOFTMAX = "nonlinearity", "attention", "softmax"

FILES = {  # of torch/nn/modules, and what the classes there are, but for those named below
    "conv": CONVOLUTION,
    "linear": LINEAR,
    "batchnorm": NORMALIZATION,
    "instancenorm": NORMALIZATION,
    "normalization": NORMALIZATION,
    "pooling": POOLING,
    "activation": NONLINEARITY,
}
CLASSES = {
    "Identity": None,
    "MultiheadAttention": ATTENTION,
    **dict.fromkeys(("Softmax", "Softmax2d", "Softmin", "LogSoftmax"), SOFTMAX),
}
FUNCTIONS = {
    name: kind
    for kind, names in {
        CONVOLUTION: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
        LINEAR: "linear bilinear",
        NORMALIZATION: "batch_norm layer_norm group_norm instance_norm local_response_norm rms_norm",
        POOLING: "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
        "max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d lp_pool3d adaptive_max_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
        NONLINEARITY: "relu gelu silu softplus elu mish relu6 celu selu leaky_relu rrelu prelu hardtanh hardswish "
        "hardsigmoid hardshrink softshrink tanhshrink threshold glu logsigmoid softsign sigmoid tanh",
        ATTENTION: "scaled_dot_product_attention multi_head_attention_forward",
        SOFTMAX: "softmax log_softmax softmin gumbel_softmax",
    }.items()
    for name in names.split()
}
SMOOTH = frozenset(
    [
        "GELU",
        "SiLU",
        "Softplus",
        "Mish",
        "Sigmoid",
        "Tanh",
        "LogSigmoid",
        "Tanhshrink",
        "gelu",
        "silu",
        "softplus",
        "mish",
        "sigmoid",
        "tanh",
    ]
)
TRANSPARENT = frozenset(["flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous"])
"""Calls that leave every number as it is."""

FROM_RELU: dict[type, Callable[[Any], float]] = {
    nn.ReLU: lambda _: 0.0,
    nn.Softplus: lambda m: math.log(2) / m.beta,
    nn.GELU: lambda _: 0.1701,
    nn.SiLU: lambda _: 0.2785,
    nn.Mish: lambda _: 0.3089,
    nn.ELU: lambda m: max(m.alpha, 0.0),
}
"""The nonlinearities that a centered softplus can stand for, and how far each is from ReLU at most."""
MODULES = {"relu": nn.ReLU, "softplus": nn.Softplus, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "elu": nn.ELU}


def kind_of(module: nn.Module) -> str | None:
    """What a module is, by the class of torch.nn that it is or inherits from; None for one that only holds others, or has a
    forward of its own, into which one must look.

    Example:
        >>> kind_of(nn.Conv2d(1, 1, 3)), kind_of(nn.GELU()), kind_of(nn.Sequential())
        ('convolution', 'nonlinearity', None)
    """
    if isinstance(module, CenteredSoftplus):
        return NONLINEARITY
    if not isinstance(module, LipschitzLayer) and not str(type(module).forward.__module__).startswith("torch.nn."):
        return None
    for base in type(module).__mro__:
        package, _, file = base.__module__.rpartition(".")
        if package == "torch.nn.modules" and (base.__name__ in CLASSES or file in FILES):
            return CLASSES.get(base.__name__, FILES.get(file))
    return None


def kind_of_function(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What a call of a torch function is, by its name; `x.clamp(min=0)` is a nonlinearity.

    Example:
        >>> kind_of_function("relu_", (), {}), kind_of_function("clamp", (3.0, 0), {}), kind_of_function("add", (), {})
        ('nonlinearity', 'nonlinearity', None)
    """
    return NONLINEARITY if rectifies(name, args, kwargs) else FUNCTIONS.get(plain(name))


def plain(name: str) -> str:
    """A function's name without the underscore of its form in place."""
    return name if name.startswith("__") else name.rstrip("_")


def rectifies(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is ReLU under the name of clamp."""
    if plain(name) not in ("clamp", "clip", "clamp_min"):
        return False
    low, high = ([*args[1:], None, None])[:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    return isinstance(low, int | float) and low == 0 and high is None


def overlap(settings: Mapping[str, Any], dimensions: int) -> int:
    """In how many windows of a pooling one number lies at most: the square root of it bounds max-pooling's Lipschitz constant.

    Example:
        >>> overlap({"kernel_size": 3, "stride": 2}, 2), overlap({"kernel_size": 2, "stride": None}, 2)
        (4, 1)
    """
    if "kernel_size" not in settings:
        return 1
    size = settings["kernel_size"]
    stride = settings.get("stride") or size
    sizes, strides = ((value,) * dimensions if isinstance(value, int) else tuple(value) for value in (size, stride))
    return math.prod(-(-a // b) for a, b in zip(sizes, strides, strict=True))


def as_module(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module | None:
    """The module that does what a call of a nonlinearity does, out of place; None where no centered softplus can stand for it.

    Example:
        >>> as_module("softplus", (0.0, 10), {})
        Softplus(beta=10, threshold=20.0)
    """
    if rectifies(name, args, kwargs):
        return nn.ReLU()
    if plain(name) not in MODULES:
        return None
    settings = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
    module = MODULES[plain(name)](*args[1:], **settings)
    return out_of_place(module)


def out_of_place(module: nn.Module) -> nn.Module:
    """The module itself, which from now on leaves its input as it was."""
    if getattr(module, "inplace", False):
        module.inplace = False  # type: ignore[assignment]
    return module
