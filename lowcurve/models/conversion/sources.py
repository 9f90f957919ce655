"""Describe networks by plain values, so that they can be saved and built again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lowcurve.models.architectures import Network
from lowcurve.models.conversion.conversions import Conversion, LCNNConversion, LipschitzConversion, SmoothConversion
from lowcurve.models.conversion.converting import convert
from lowcurve.models.factories import Factory

Source = Network | Factory
# These names and the keys below are stored with saved weights. Changing them makes saved networks unreadable.
CONVERSIONS: dict[str, type[Conversion]] = {
    "LCNN": LCNNConversion,
    "Lipschitz": LipschitzConversion,
    "Minimal": SmoothConversion,
}


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network that is built from a source and then converted.

    Args:
        source: The network before its conversion.
        conversion: What the network is converted to.
        shape: Shape of one input, without the batch.

    Example:
        >>> spec = Network("mlp", shape=(2,), classes=2, mean=(0.5, 0.5), std=(0.2, 0.2))
        >>> ConvertedNetwork(spec, SmoothConversion(beta=4.0), (2,)).build(seed=0)[1][2]
        CenteredSoftplus(beta=4)
    """

    source: Source
    conversion: Conversion
    shape: tuple[int, ...]

    def build(self, seed: int) -> nn.Module:
        """Build a new network in training mode, with the source's initial weights at that seed.

        Args:
            seed: Seed of the initial weights.

        Returns:
            The converted network.
        """
        return convert(self.source.build(seed), self.conversion, example=torch.zeros(1, *self.shape))


def source_to_dict(source: Source | ConvertedNetwork) -> dict[str, Any]:
    """Describe a network by values that JSON can hold.

    Args:
        source: The network to describe.

    Returns:
        A dictionary with one entry: the kind of the source and its fields.

    Example:
        >>> source_to_dict(Factory("torch.nn:Identity"))
        {'Factory': {'path': 'torch.nn:Identity', 'mean': (), 'std': ()}}
    """
    if not isinstance(source, ConvertedNetwork):
        return {type(source).__name__: asdict(source)}
    name = next(name for name, kind in CONVERSIONS.items() if type(source.conversion) is kind)
    conversion = {name: asdict(source.conversion)}
    return {"Converted": {"source": source_to_dict(source.source), "recipe": conversion, "shape": list(source.shape)}}


def source_from_dict(content: Mapping[str, Any]) -> Source | ConvertedNetwork | None:
    """Return the network that `source_to_dict` described.

    Args:
        content: The description, for instance as read from a file.

    Returns:
        The source, or None if the dictionary describes something else.

    Example:
        >>> source_from_dict({"Factory": {"path": "torch.nn:Identity"}})
        Factory(path='torch.nn:Identity', mean=(), std=())
    """
    for kind in (Factory, Network):
        if kind.__name__ in content:
            items = content[kind.__name__].items()
            fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in items}
            return kind(**fields)
    if "Converted" not in content:
        return None
    fields = content["Converted"]
    ((name, settings),) = fields["recipe"].items()
    source = source_from_dict(fields["source"])
    assert isinstance(source, Source)
    return ConvertedNetwork(source, CONVERSIONS[name](**settings), tuple(fields["shape"]))
