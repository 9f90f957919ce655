"""Call a network: hand it a copy of its input, and tell in one sentence what went wrong inside it."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowcurve.errors import InputError
from lowcurve.types import Classifier, Inputs, Logits

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
"""Torch's messages on a CPU under Linux and Windows, and on accelerators; most of them come in a bare RuntimeError."""
ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""Errors that a mistake in a network raises. Others, such as an interruption, pass through as they are."""
HINTS = {
    "inference tensor": "build or load the network outside torch.inference_mode()",
    "view size is not compatible": "write reshape instead of view in this layer",
    "more than 1 value per channel": "write model.eval(), or give this layer more than one value for each channel",
    "uninitialized parameter": "run the network once on a batch of the data before it is given",
    "dtype": "convert the whole network to one precision with model.float()",
    "scalar type": "convert the whole network to one precision with model.float()",
    "should be the same": "convert the whole network to one precision with model.float()",
    "numpy()": "write the network with functions of torch, whose derivatives it knows",
    "does not require grad": "write checkpoint(..., use_reentrant=False), and no detach() or no_grad() in the network",
    "same device": "move the whole network to one device with model.to(device)",
    "quantized": "give the network as it was before quantization",
    "once_differentiable": "write the layer's backward pass with functions of torch that can be differentiated",
    "double backward": "give the network as it was before torch.compile",
    "dynamo": "give the network as it was before torch.compile",
    "inductor": "give the network as it was before torch.compile",
    "checkpoint": "write checkpoint(..., use_reentrant=False) in the network",
    "attention": "wrap the call in torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "derivative": "replace this operation by others of torch that have the derivative",
}
"""What to do by a phrase of the error's message; the first that is found counts."""


ONE_ROW = (
    "return one row of logits an example from the model, or write lc.wrap(model), which reads the logits from an output and "
    "makes two classes of one logit"
)
"""What to do about logits of another shape or kind."""


NO_CHANNEL = "write images[:, None] if the network takes images with a channel, or give the data that it was made for"


class NetworkError(InputError, RuntimeError):
    """An error that a user's network raised, or the derivative of one.

    It is a RuntimeError too, as most errors of torch are.

    Args:
        expected: As in `InputError`.
        received: As in `InputError`.
        hint: As in `InputError`.
        layer: Name and type of the layer that raised the error, if known.
    """

    def __init__(self, expected: str, received: object, hint: str, layer: tuple[str, str] | None = None) -> None:
        super().__init__(expected, received, hint)
        self.layer = layer


def require_module(model: object, expected: str = "a torch.nn.Module as the model") -> None:
    """Refuse a model that is no torch network.

    Args:
        model: What the user gave.
        expected: What is needed.

    Raises:
        InputError: If it is no module.

    Example:
        >>> require_module(torch.relu)
        Traceback (most recent call last):
        ...
        lowcurve.errors.InputError: Expected a torch.nn.Module as the model, got the function relu. Write \
lc.wrap(function), or put the model first.
    """
    if isinstance(model, nn.Module):
        return
    if callable(model) and not isinstance(model, type):
        hint = "write lc.wrap(function), or put the model first"
        raise InputError(expected, f"the function {getattr(model, '__name__', type(model).__name__)}", hint)
    raise InputError(expected, type(model).__name__, "put the model first: (model, images, labels, ...)")


def original_of(model: nn.Module) -> nn.Module:
    """Return the module inside a network that `torch.compile` returned, any other network as it is.

    The module shares its weights with the compiled network, whose layers cannot be seen.

    Raises:
        InputError: For a network that `torch.jit` made, whose layers cannot be seen either.

    Example:
        >>> original_of(nn.Flatten())
        Flatten(start_dim=1, end_dim=-1)
    """
    inner = getattr(model, "_orig_mod", model)
    if any(isinstance(part, torch.jit.ScriptModule) for part in inner.modules()):
        hint = "give the network as it was before torch.jit.script or torch.jit.trace"
        raise InputError("a network whose layers can be seen", f"a scripted {type(inner).__name__}", hint)
    return inner


def call(model: Classifier, x: Inputs) -> Logits:
    """Return the logits of a network at x. Every evaluation of a network goes through this function.

    The network is handed a copy, since it may write into its input. The copy has the network's own precision, and the
    logits take that of x: pixels stay in float32 under a network of half precision, where a small step of an attack would
    be lost. The copy of images with one channel has the strides of ordinary contiguous images: the strides that such images
    may have instead make convolutions return another layout, which `view` refuses.

    Args:
        model: Classifier.
        x: Inputs, shape (batch, ...).

    Raises:
        InputError: If the network raises an error, with the name of the layer, or if it does not return one tensor.

    Cost: one forward pass, and a copy of the input.

    Example:
        >>> x = torch.tensor([[-1.0, 2.0]])
        >>> call(nn.ReLU(inplace=True), x), x
        (tensor([[0., 2.]]), tensor([[-1.,  2.]]))
        >>> call(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), x)
        Traceback (most recent call last):
        ...
        lowcurve.network_calls.NetworkError: Expected a network for inputs of shape (2,), got an error in layer '1' \
(Linear): mat1 and mat2 shapes cannot be multiplied (1x2 and 3x2). Give the data that the network was made for.
    """
    layout = torch.contiguous_format if x.is_contiguous() else torch.preserve_format
    given = x.dtype
    own = (precision_of(model) if isinstance(model, nn.Module) and given.is_floating_point else None) or given
    try:
        with _quiet_compiler(model):
            logits: object = model(x.clone(memory_format=layout) if own == given else x.to(own, memory_format=layout))
    except ERRORS as error:
        if isinstance(error, InputError) or is_memory_error(error):
            raise
        raise explain(error, model, x) from error
    if not isinstance(logits, Tensor):
        expected = f"logits of shape ({len(x)}, classes) with at least 2 classes"
        raise InputError(expected, type(logits).__name__, ONE_ROW)
    if len(x) == 1 and logits.ndim == 1 and len(logits) > 1:  # squeeze() in a network takes away a batch of one image
        logits = logits[None]
    if logits.requires_grad and not torch.is_grad_enabled():  # a network that takes derivatives enables them itself
        logits = logits.detach()
    return logits if own == given else logits.to(given)


@contextmanager
def _quiet_compiler(model: Classifier) -> Iterator[None]:
    """Ignore the one warning of the compiler that an input is a copy: it looks for the gradient of the copy.

    Torch hides the warning where it is shown, which is too late where warnings are errors.
    """
    if not (isinstance(model, nn.Module) and is_compiled(model)):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf Tensor", UserWarning)
        yield


def is_compiled(model: nn.Module) -> bool:
    """Return True if torch compiles the module, or the one that Fabric wraps.

    Example:
        >>> is_compiled(nn.Flatten())
        False
    """
    dynamo = sys.modules.get("torch._dynamo")  # only a program with a compiled network has imported it
    parts = (model, getattr(model, "_forward_module", model))
    return any(
        bool(p._compiled_call_impl) or (dynamo is not None and isinstance(p, dynamo.OptimizedModule)) for p in parts
    )


@contextmanager
def uncompiled(model: nn.Module | None = None) -> Iterator[None]:
    """Run compiled networks and layers as they were before: compiled code has no second derivative, and cannot be recorded.

    Args:
        model: Network, parts of which torch may compile. Default: the networks inside a function.

    Example:
        >>> with uncompiled(nn.Identity()):
        ...     torch.compiler.is_compiling()
        False
    """
    # Only a program with a compiled network has imported the compiler.
    if "torch._dynamo" in sys.modules and (model is None or any(map(is_compiled, model.modules()))):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def precision_of(model: nn.Module) -> torch.dtype | None:
    """Return the floating-point type of most of a network's weights, or of its buffers, or None without any.

    Cost: one pass over the weights, once a network and precision.

    Example:
        >>> precision_of(nn.Sequential(nn.Embedding(2, 1).half(), nn.Linear(9, 9))), precision_of(nn.Flatten())
        (torch.float32, None)
    """
    # `parameters()` would take as long as a small layer.
    first = next((p for module in model.modules() for p in module._parameters.values() if p is not None), None)
    known = _PRECISIONS.get(model)
    if known is not None and first is not None and known[0] == first.dtype:
        return known[1]
    found: torch.dtype | None = None
    for tensors in (model.parameters(), model.buffers()):
        counts: dict[torch.dtype, int] = {}
        for tensor in tensors:
            if tensor.is_floating_point() and not is_lazy(tensor):
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
        if counts:
            found = max(counts, key=counts.__getitem__)
            break
    if first is not None:
        _PRECISIONS[model] = (first.dtype, found)
    return found


_PRECISIONS: WeakKeyDictionary[nn.Module, tuple[torch.dtype, torch.dtype | None]] = WeakKeyDictionary()


def rounding_of(model: Classifier, logits: Logits) -> float:
    """Return the relative spacing of numbers in the coarser of the network's precision and that of its logits.

    Example:
        >>> rounding_of(nn.Linear(1, 1).half(), torch.zeros(1, 1)), rounding_of(nn.Flatten(), torch.zeros(1, 1)) < 1e-6
        (0.0009765625, True)
    """
    own = precision_of(model) if isinstance(model, nn.Module) else None
    return max(torch.finfo(one).eps for one in (own or logits.dtype, logits.dtype))


def input_like(model: nn.Module) -> Tensor:
    """Return an empty tensor of the device and precision of a network's inputs: float64 for float64, else float32.

    Example:
        >>> input_like(nn.Linear(1, 1).half()).dtype, input_like(nn.Linear(1, 1).double()).dtype
        (torch.float32, torch.float64)
    """
    dtype = torch.float64 if precision_of(model) == torch.float64 else torch.float32
    place: Tensor | None = next(model.parameters(), None)
    place = next(model.buffers(), None) if place is None else place
    return torch.empty(0, dtype=dtype, device=None if place is None else place.device)


def explain(error: Exception, model: Classifier, x: Inputs) -> NetworkError:
    """Return an error of a network as a sentence with the layer in which it was raised, and what to do."""
    found = layer_of(error, model)
    place = f" in {place_of(found)}" if found else ""
    hint = hint_for(error, "give the data that the network was made for" if x.ndim != 3 else NO_CHANNEL)
    expected = f"a network for inputs of shape {tuple(x.shape[1:])}"
    return NetworkError(expected, f"an error{place}: {first_line(error)}", hint, layer=found)


def hint_for(error: Exception, otherwise: str) -> str:
    """Return what to do about an error of torch."""
    text = f"{type(error).__module__} {type(error).__name__} {error}".lower()
    return next((hint for phrase, hint in HINTS.items() if phrase in text), otherwise)


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, or the name of its type.

    Example:
        >>> first_line(ValueError("wrong\nin detail")), first_line(KeyError())
        ('wrong', 'KeyError')
    """
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return f"{type(error).__name__}: {line}" if isinstance(error, KeyError | AttributeError) and text else line


def layer_of(error: Exception, model: Classifier) -> tuple[str, str] | None:
    """Return name and type of the innermost layer whose forward method raised an error, None if there is none."""
    if not isinstance(model, nn.Module):
        return None
    names = {id(module): name for name, module in model.named_modules()}
    found: tuple[str, str] | None = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        layer = step.tb_frame.f_locals.get("self")
        if id(layer) in names:
            found = names[id(layer)], type(layer).__name__
        step = step.tb_next
    return found


def place_of(layer: tuple[str, str]) -> str:
    """Return a layer as the words of a sentence.

    Example:
        >>> place_of(("0", "Conv2d")), place_of(("", "ResNet"))
        ("layer '0' (Conv2d)", 'the forward method of ResNet')
    """
    name, kind = layer
    return f"layer {name!r} ({kind})" if name else f"the forward method of {kind}"


def is_memory_error(error: Exception) -> bool:
    """Return True if memory was exhausted."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(message in str(error).lower() for message in OUT_OF_MEMORY)


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Leave `torch.inference_mode` and `torch.no_grad` inside the block, or in the function that it decorates.

    Example:
        >>> with torch.inference_mode(), gradients_enabled():
        ...     torch.ones(1).is_inference(), torch.is_grad_enabled()
        (False, True)
    """
    outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with outside, torch.enable_grad():
        yield


def without_inference(x: Tensor) -> Tensor:
    """Return a tensor that autograd accepts: a copy of one that was made under `torch.inference_mode`.

    Example:
        >>> with torch.inference_mode():
        ...     x = torch.ones(1)
        >>> x.is_inference(), without_inference(x).is_inference()
        (True, False)
    """
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()
