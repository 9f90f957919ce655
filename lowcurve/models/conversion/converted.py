"""A network under a recipe, as something that can be built again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lowcurve.models.architectures import Network
from lowcurve.models.conversion.converting import convert
from lowcurve.models.conversion.recipes import LCNN, Lipschitz, Minimal, Recipe
from lowcurve.models.factories import Factory

Source = Network | Factory
RECIPES: dict[str, type[Recipe]] = {"LCNN": LCNN, "Lipschitz": Lipschitz, "Minimal": Minimal}


@dataclass(frozen=True)
class Converted:
    """The network of a source, converted under a recipe. shape: of one input.

    Example:
        >>> spec = Network("mlp", shape=(2,), classes=2, mean=(0.5, 0.5), std=(0.2, 0.2))
        >>> Converted(spec, Minimal(beta=4.0), (2,)).build(seed=0)[1][2]
        CenteredSoftplus(beta=4)
    """

    source: Source
    recipe: Recipe
    shape: tuple[int, ...]

    def build(self, seed: int) -> nn.Module:
        """A new network in training mode; its initial weights are those of the source at that seed."""
        return convert(self.source.build(seed), self.recipe, example=torch.zeros(1, *self.shape))


def written(source: Source | Converted) -> dict[str, Any]:
    """What must be known to build it again, in words and numbers.

    Example:
        >>> written(Factory("torch.nn:Identity"))
        {'Factory': {'path': 'torch.nn:Identity', 'mean': (), 'std': ()}}
    """
    if not isinstance(source, Converted):
        return {type(source).__name__: asdict(source)}
    recipe = {type(source.recipe).__name__: asdict(source.recipe)}
    return {"Converted": {"source": written(source.source), "recipe": recipe, "shape": list(source.shape)}}


def read(words: Mapping[str, Any]) -> Source | Converted | None:
    """What was `written`, or None where it was something else.

    Example:
        >>> read({"Factory": {"path": "torch.nn:Identity"}})
        Factory(path='torch.nn:Identity', mean=(), std=())
    """
    for source in (Factory, Network):
        if source.__name__ in words:
            content: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in words[source.__name__].items()
            }
            return source(**content)
    if "Converted" not in words:
        return None
    content = words["Converted"]
    ((name, settings),) = content["recipe"].items()
    plain = read(content["source"])
    assert isinstance(plain, Source)
    return Converted(plain, RECIPES[name](**settings), tuple(content["shape"]))
