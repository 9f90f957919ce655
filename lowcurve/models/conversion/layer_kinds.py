"""Classify modules and calls of torch functions into kinds of layers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lowcurve.models.clipping import LipschitzLayer
from lowcurve.models.layers import CenteredSoftplus

CONVOLUTION, LINEAR, NORMALIZATION, POOLING = "convolution", "linear", "normalization", "pooling"
NONLINEARITY, ATTENTION, SOFTMAX, KINK = "nonlinearity", "attention", "softmax", "kink"

FILES = {  # files of torch/nn/modules and the kind of the classes in them, except for CLASSES
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
SMOOTH = {"GELU", "SiLU", "Softplus", "Mish", "Sigmoid", "Tanh", "LogSigmoid", "Tanhshrink"}
SMOOTH |= {"gelu", "silu", "softplus", "mish", "sigmoid", "tanh"}
TRANSPARENT = frozenset(["flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous"])
"""Functions that change no element of a tensor."""

GELU, SILU, MISH, HARDSWISH = 0.1701, 0.2785, 0.3089, 0.375
"""Largest distance of each function from ReLU; that of GELU holds for its form with tanh, too."""
DISTANCES: dict[type, Callable[[Any], float]] = {
    nn.ReLU: lambda _: 0.0,
    nn.Softplus: lambda m: math.log(2) / m.beta,
    nn.GELU: lambda _: GELU,
    nn.SiLU: lambda _: SILU,
    nn.Mish: lambda _: MISH,
    nn.ELU: lambda m: max(m.alpha, 0.0),
    nn.Hardswish: lambda _: HARDSWISH,
}
OF_LIBRARIES: dict[str, dict[str, float]] = {
    "timm": {
        **dict.fromkeys(("GELU", "GELUTanh"), GELU),
        "QuickGELU": SILU / 1.702,
        **dict.fromkeys(("Swish", "SwishMe"), SILU),
        **dict.fromkeys(("Mish", "MishMe"), MISH),
        **dict.fromkeys(("HardSwish", "HardSwishMe"), HARDSWISH),
    },
    "transformers": {
        **dict.fromkeys(
            ("GELUActivation", "GELUTanh", "NewGELUActivation", "FastGELUActivation", "AccurateGELUActivation"), GELU
        ),
        "QuickGELUActivation": SILU / 1.702,
        "SiLUActivation": SILU,
        "MishActivation": MISH,
    },
}
"""Classes of other libraries that compute one of these functions, by package and name, with the same distance."""
MODULES = {
    "relu": nn.ReLU, "softplus": nn.Softplus, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "elu": nn.ELU,
    "hardswish": nn.Hardswish,
}  # fmt: skip


def layer_kind(module: nn.Module) -> str | None:
    """Return the kind of a module, by the class of torch.nn that it is or inherits from.

    Args:
        module: The module.

    Returns:
        One of the kinds above, or None for a module that only contains others or that defines its own forward method.

    Example:
        >>> layer_kind(nn.Conv2d(1, 1, 3)), layer_kind(nn.GELU()), layer_kind(nn.Sequential())
        ('convolution', 'nonlinearity', None)
    """
    if isinstance(module, CenteredSoftplus) or _distance_in_library(module) is not None:
        return NONLINEARITY
    if not isinstance(module, LipschitzLayer) and has_own_forward(module):
        return None
    for base in type(module).__mro__:
        package, _, file = base.__module__.rpartition(".")
        if package == "torch.nn.modules" and (base.__name__ in CLASSES or file in FILES):
            return CLASSES.get(base.__name__, FILES.get(file))
    return None


def has_own_forward(layer: nn.Module) -> bool:
    """Return True if the layer's class has a forward method that is not torch's.

    Example:
        >>> has_own_forward(nn.BatchNorm2d(1))
        False
    """
    return not str(type(layer).forward.__module__).startswith("torch.nn.")


def distance_from_relu(layer: nn.Module | None) -> float | None:
    """Return the largest distance of a nonlinearity from ReLU, None if a centered softplus cannot replace it.

    Args:
        layer: The nonlinearity.

    Example:
        >>> distance_from_relu(nn.Hardswish()), distance_from_relu(nn.Tanh())
        (0.375, None)
    """
    if type(layer) in DISTANCES:
        return DISTANCES[type(layer)](layer)
    return _distance_in_library(layer)


def _distance_in_library(layer: nn.Module | None) -> float | None:
    package = type(layer).__module__.partition(".")[0]
    return OF_LIBRARIES[package].get(type(layer).__name__) if package in OF_LIBRARIES else None


def function_kind(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return the kind of a torch function, by its name; `x.clamp(min=0)` is a nonlinearity.

    Args:
        name: Name of the function.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        One of the kinds above, or None.

    Example:
        >>> function_kind("relu_", (), {}), function_kind("clamp", (3.0, 0), {}), function_kind("add", (), {})
        ('nonlinearity', 'nonlinearity', None)
    """
    return NONLINEARITY if is_relu(name, args, kwargs) else FUNCTIONS.get(strip_underscore(name))


def strip_underscore(name: str) -> str:
    """Return a function's name without the trailing underscore of its in-place form.

    Args:
        name: Name of the function.

    Returns:
        The name of the out-of-place form.
    """
    return name if name.startswith("__") else name.rstrip("_")


def is_relu(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True if a call of clamp computes ReLU.

    Args:
        name: Name of the function.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        True for a lower limit of 0 and no upper limit.
    """
    if strip_underscore(name) not in ("clamp", "clip", "clamp_min"):
        return False
    low, high = ([*args[1:], None, None])[:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    return isinstance(low, int | float) and low == 0 and high is None


def window_overlap(settings: Mapping[str, Any], dimensions: int) -> int:
    """Return the largest number of pooling windows that contain one element.

    Its square root bounds the Lipschitz constant of max-pooling.

    Args:
        settings: The pooling's kernel_size and stride.
        dimensions: Number of image dimensions.

    Returns:
        The number of windows, or 1 without a kernel_size.

    Example:
        >>> window_overlap({"kernel_size": 3, "stride": 2}, 2), window_overlap({"kernel_size": 2, "stride": None}, 2)
        (4, 1)
    """
    if "kernel_size" not in settings:
        return 1
    size = settings["kernel_size"]
    stride = settings.get("stride") or size
    sizes, strides = ((value,) * dimensions if isinstance(value, int) else tuple(value) for value in (size, stride))
    return math.prod(-(-a // b) for a, b in zip(sizes, strides, strict=True))


def function_module(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module | None:
    """Return the module that computes the same as a call of a nonlinearity, out of place.

    Args:
        name: Name of the function.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        The module, or None if a centered softplus cannot replace the call.

    Example:
        >>> function_module("softplus", (0.0, 10), {})
        Softplus(beta=10, threshold=20.0)
    """
    if is_relu(name, args, kwargs):
        return nn.ReLU()
    if strip_underscore(name) not in MODULES:
        return None
    settings = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
    module = MODULES[strip_underscore(name)](*args[1:], **settings)
    return set_out_of_place(module)


def set_out_of_place(module: nn.Module) -> nn.Module:
    """Set a module to leave its input unchanged, and return it.

    Args:
        module: A nonlinearity, changed in place.

    Returns:
        The module itself.
    """
    if getattr(module, "inplace", False):
        module.inplace = False  # type: ignore[assignment]
    return module
