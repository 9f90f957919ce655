"""Other people's networks as classifiers of pixels in [0, 1]."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.models.layers import Normalize
from lowcurve.models.modes import set_own_mode
from lowcurve.models.processors import Processor, normalization_of, process
from lowcurve.types import Inputs, Logits


class WrappedNetwork(nn.Module):
    """A network behind its normalization, with an output of one tensor of logits.

    Its state dict has the names of the network itself, so the network's own checkpoints load. The normalization is not
    part of the state dict.

    Args:
        network: The network, or a function of images.
        normalization: First layer.
        output: Name or index of the logits in the network's output; see `wrap`.
    """

    def __init__(self, network: Callable[[Tensor], Any], normalization: nn.Module, output: str | int | None) -> None:
        super().__init__()
        self.normalization = normalization
        self.network = network
        self.output = output
        self.register_state_dict_post_hook(_remove_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]

    def forward(self, x: Inputs) -> Logits:
        """Return the logits, shape (batch, classes); one logit z becomes the two logits 0 and z."""
        logits = _select(self.network(self.normalization(x)), self.output)
        if logits.ndim < 2:
            logits = logits.reshape(len(x), -1)
        return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1:] == (1,) else logits


def wrap(
    model: Callable[[Tensor], Any],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    processor: Processor | Mapping[str, Any] | None = None,
    output: str | int | None = None,
) -> WrappedNetwork:
    """Turn a network of timm, transformers or your own into a classifier of pixels in [0, 1].

    The wrapped network normalizes its input and returns one tensor of logits. A network with a single logit z becomes one of
    two classes with the logits 0 and z, whose softmax is the sigmoid of z. Its class 1 is the label 1. A network compiled by
    `torch.compile` is replaced by the module inside, which shares its weights: compiled code has no second derivatives.

    Args:
        model: A module, or a function of images.
        mean: Means that the network's own preprocessing subtracts, one per channel, for pixels in [0, 1]. If they are not
            given, they are read from the processor, or from `pretrained_cfg`, which networks of timm have. A network of
            transformers needs one of them. Every other network is taken to expect pixels in [0, 1].
        std: Standard deviations that belong to `mean`.
        processor: Image processor of transformers, as `AutoImageProcessor.from_pretrained` returns it, or the content of
            its file preprocessor_config.json as a dictionary. A processor is tried on one image.
        output: Name or index of the logits, if the network returns an object, a dictionary or a tuple. By default it is
            "logits". A tuple of one tensor needs none.

    Returns:
        The wrapped network, in the mode of the given one, and in eval mode for a function. Its state dict has the names of
        the given one.

    Raises:
        InputError: If mean and std are not given together, or the normalization of a network of transformers is unknown,
            or a processor does not normalize channel by channel. When called, the wrapped network raises it for an output
            without logits.

    Cost: one subtraction and one division of the input a pass.

    Example:
        >>> net = wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), mean=[0.5], std=[0.25])
        >>> net(torch.rand(3, 1, 2, 2)).shape, list(net.state_dict())
        (torch.Size([3, 2]), ['1.weight', '1.bias'])
    """
    if (mean is None) != (std is None):
        raise InputError("mean and std together", "only one of them", "give both, or neither")
    model = getattr(model, "_orig_mod", model)
    if mean is not None and std is not None:
        normalization: nn.Module = Normalize(mean, std)
    elif processor is not None:
        normalization = normalization_of(processor)
    else:
        normalization = _own_normalization(model)
    wrapped = WrappedNetwork(model, normalization, output)
    training = isinstance(model, nn.Module) and getattr(model, "training", False)
    set_own_mode(wrapped, *normalization.modules(), training=training)
    return wrapped


def transform_of(
    model: object, processor: Processor | Mapping[str, Any] | None = None
) -> Callable[[Image.Image], Tensor]:
    """Return the resizing and cropping of a network's own preprocessing, without its normalization.

    The transform is that of timm or transformers. `wrap` puts the normalization into the network.

    Args:
        model: Network of timm, whose `pretrained_cfg` is read; or any network, with a processor.
        processor: Image processor of transformers.

    Returns:
        A function of a Pillow image that returns pixels in [0, 1], shape (3, height, width).

    Raises:
        InputError: If there is neither a processor nor a `pretrained_cfg`, or timm is not installed, or only the settings of a
            processor are given.

    Example:
        >>> from transformers import AutoImageProcessor  # doctest: +SKIP
        >>> processor = AutoImageProcessor.from_pretrained("microsoft/resnet-18")  # doctest: +SKIP
        >>> transform_of(net, processor)(Image.open("cat.jpg")).shape  # doctest: +SKIP
        torch.Size([3, 224, 224])
    """
    if isinstance(processor, Mapping):
        raise InputError("an image processor", "its settings", "give AutoImageProcessor.from_pretrained(...)")
    if processor is not None:
        return partial(process, processor)
    if not hasattr(model, "pretrained_cfg"):
        hint = "give the image processor: lc.transform_of(model, processor)"
        raise InputError("a network with pretrained_cfg, as those of timm have", type(model).__name__, hint)
    try:
        data = importlib.import_module("timm.data")
    except ImportError as error:
        raise InputError("timm, whose transform this is", str(error), "install timm and torchvision") from None
    settings = data.resolve_model_data_config(model)
    return partial(_scale, data.create_transform(**settings, is_training=False, normalize=False))


def _scale(transform: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    return transform(image.convert("RGB")).float() / 255


def _own_normalization(model: object) -> nn.Module:
    """Return the normalization that a network brings with it, for pixels in [0, 1]."""
    settings = getattr(model, "pretrained_cfg", None)
    if isinstance(settings, Mapping) and "mean" in settings and "std" in settings:
        return Normalize(tuple(settings["mean"]), tuple(settings["std"]))
    if is_of_transformers(model):
        hint = "write lc.wrap(model, processor=...) or give mean and std"
        raise InputError("the normalization of a network of transformers", type(model).__name__, hint)
    return nn.Identity()


def is_of_transformers(model: object) -> bool:
    """Return True for a network of transformers.

    Example:
        >>> is_of_transformers(nn.Flatten())
        False
    """
    return any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__)


def _select(output: Any, name: str | int | None) -> Tensor:
    """Return the logits in a network's output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and len(output) == 1 and name is None:
        name = 0
    key = "logits" if name is None else name
    try:
        value = output[key] if isinstance(output, Mapping) or isinstance(key, int) else getattr(output, key)
    except (AttributeError, KeyError, IndexError, TypeError):
        value = None
    if not isinstance(value, Tensor):
        hint = "name the logits by lc.wrap(model, output=...)"
        raise InputError("one tensor of logits from the network", _contents(output), hint)
    return value


def _contents(output: Any) -> str:
    """Describe what a network returned, for an error."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(map(str, output))}"
    return f"{kind} of {len(output)}" if isinstance(output, tuple | list) else kind


def _remove_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:  # noqa: ARG001 (a hook)
    for name in [name for name in state if name.startswith(f"{prefix}normalization.")]:
        del state[name]
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        state[prefix + name.removeprefix(f"{prefix}network.")] = state.pop(name)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *unused: object) -> None:  # noqa: ARG001 (a hook)
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)
    for name, value in module.get_submodule("normalization").state_dict().items():
        state[f"{prefix}normalization.{name}"] = value
