"""Network architectures by name. Every network begins with its own normalization layer."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lowcurve import randomness
from lowcurve.errors import InputError, nearest
from lowcurve.models import almost_orthogonal, convnext, convolutional, lcnn, residual, vit
from lowcurve.models.layers import Normalize

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": convolutional.mlp,
    "small-convnet": convolutional.small_convnet,
    "yu2018-mnist": convolutional.yu2018_mnist,
    "yu2018-cifar": convolutional.yu2018_cifar,
    "resnet18": residual.resnet18,
    "resnet20": residual.resnet20,
    "wide-resnet28-10": residual.wide_resnet28,
    "lcnn-resnet18": lcnn.lcnn_resnet18,
    "lcnn-resnet18-plain": lcnn.lcnn_resnet18_plain,
    "lcnn-vgg11": lcnn.lcnn_vgg11,
    "vit-tiny": vit.vit_tiny,
    "vit-tiny-patch8": vit.vit_tiny_patch8,
    "convnext-atto": convnext.convnext_atto,
    "convnext-tiny": convnext.convnext_tiny,
    "aol-convnet": almost_orthogonal.aol_convnet,
}
OWN = {**dict.fromkeys(("vit-tiny", "vit-tiny-patch8", "convnext-atto", "convnext-tiny"), "gelu"), "aol-convnet": "abs"}
"""The nonlinearity of the architectures whose own is not ReLU."""


@dataclass(frozen=True)
class Network:
    """The settings of a network, saved with its weights.

    Args:
        name: One of `ARCHITECTURES`.
        shape: Shape of one input.
        classes: Number of classes.
        mean: Mean of the training pixels, one per channel.
        std: Their standard deviations.
        nonlinearity: One of `NONLINEARITIES`. The default is the architecture's own: GELU for vision transformers and
            ConvNeXt, the absolute value for aol-convnet, ReLU for the others.
        width: Width of the first stage. The default is the architecture's own.

    Raises:
        InputError: For an unknown architecture, a width below 1, inputs that are not images, or the wrong number of means.

    Example:
        >>> spec = Network("mlp", shape=(2,), classes=2, mean=(0.5, 0.5), std=(0.2, 0.2))
        >>> import torch
        >>> spec.build(seed=0)(torch.rand(3, 2)).shape
        torch.Size([3, 2])
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nonlinearity: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            hint = nearest(self.name, ARCHITECTURES, "write small-convnet")
            raise InputError(f"a network among {', '.join(ARCHITECTURES)}", repr(self.name), hint)
        if self.nonlinearity is None:
            object.__setattr__(self, "nonlinearity", OWN.get(self.name, "relu"))
        if self.width is not None and self.width < 1:
            raise InputError("a width of at least 1", self.width, "leave it out for the architecture's own")
        if self.name != "mlp" and len(self.shape) != 3:
            raise InputError(f"images for {self.name}", f"inputs of shape {self.shape}", "write mlp")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            sizes = f"{len(self.mean)} and {len(self.std)}"
            raise InputError(
                f"a mean and a standard deviation for each of {self.shape[0]} channels", sizes, "take data.statistics()"
            )

    def build(self, seed: int) -> nn.Sequential:
        """Build a new network in training mode; its initial weights depend on the seed alone.

        Args:
            seed: Seed of the initial weights.

        Returns:
            The normalization layer followed by the architecture.
        """
        options = {} if self.width is None else {"width": self.width}
        with randomness.temporary_seed(seed, "initial weights", self.name):
            body = ARCHITECTURES[self.name](self.shape, self.classes, self.nonlinearity, **options)
        return nn.Sequential(Normalize(self.mean, self.std), body)
