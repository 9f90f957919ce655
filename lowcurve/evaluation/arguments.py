"""The arguments that all evaluations share: a model, images with labels, and what to do with them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from lowcurve.attacks import ForeignAttack, Suite
from lowcurve.attacks.foreign_libraries import library_of
from lowcurve.data.coercion import Data, are_labels, as_source
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.data.streams import Stream
from lowcurve.errors import InputError, describe
from lowcurve.network_calls import require_module
from lowcurve.types import AttackFunction, Measure

T = TypeVar("T")


def split_arguments(
    model: nn.Module, images: Data, labels: Labels | T | None, what: T | None
) -> tuple[Examples | Stream, T | None]:
    """Return the images and the last argument of a call (model, images, labels, what) or (model, data, what).

    Raises:
        InputError: If the model is no network, or the images and labels cannot be read; see `as_source`.

    Example:
        >>> import torch
        >>> examples, what = split_arguments(nn.Identity(), torch.zeros(2, 3), [0, 1], "attack")
        >>> len(examples), what, split_arguments(nn.Identity(), examples, "attack", None)[1]
        (2, 'attack', 'attack')
    """
    require_module(model)
    if what is None and not are_labels(labels):
        return as_source(images), labels  # type: ignore[return-value]
    return as_source(images, labels), what  # type: ignore[arg-type]


def require_batch_size(size: int) -> None:
    """Refuse a number of images in a batch below 1."""
    if size < 1:
        raise InputError("at least one image in a batch", f"batch_size={size}", "write batch_size=64")


def require_attack(method: object) -> AttackFunction:
    """Return the attack, or refuse what is none or belongs to another library."""
    library = library_of(method)
    if library is not None:
        hint = 'write lc.attacks.foreign(attack, "linf", 8/255)'
        raise InputError("an attack of this package", f"{_describe(method)} of {library}", hint)
    if not _takes(method, None, None, None, generator=None):
        raise InputError("an attack", _describe(method), 'write lc.PGD("linf", 8/255) or lc.strong("linf", 8/255)')
    return method  # type: ignore[return-value]


def require_radii(members: Sequence[tuple[str, AttackFunction]]) -> None:
    """Check that attacks take one radius for each image.

    Raises:
        InputError: If one of them does not.
    """
    for name, member in members:
        if not getattr(member, "takes_radius", False):
            hint = "use PGD, APGD, Square or a Suite of them"
            raise InputError("an attack that takes a radius for each image", name, hint)


def members_of(method: AttackFunction) -> tuple[tuple[str, AttackFunction], ...]:
    """Return the attacks of a suite with their names, or a single attack with the name of its type."""
    if isinstance(method, Suite):
        return method.members
    return ((method.name if isinstance(method, ForeignAttack) else type(method).__name__, method),)


def name_measures(measures: Measure | Sequence[Measure] | Mapping[str, Measure] | object) -> dict[str, Measure]:
    """Return measures by name: those of a mapping, or each under the name of its function or type.

    Example:
        >>> from lowcurve.geometry import gradient_norm
        >>> list(name_measures(gradient_norm))
        ['gradient norm']
    """
    if isinstance(measures, Mapping):
        named = dict(measures)
    else:
        several: list[Any] = list(measures) if isinstance(measures, list | tuple) else [measures]
        named = {getattr(one, "__name__", type(one).__name__).replace("_", " "): one for one in several}
        if len(named) < len(several):
            hint = "name them: {'first': ..., 'second': ...}"
            raise InputError("measures of different kinds in a list", ", ".join(named), hint)
    for measure in named.values() or [None]:
        if not _takes(measure, None, None):
            raise InputError("a measure", _describe(measure), "write lc.Curvature()")
    return named


def _takes(function: object, *arguments: None, **options: None) -> bool:
    """Return whether a function can be called with these arguments."""
    if not callable(function) or isinstance(function, nn.Module | type):
        return False
    try:
        inspect.signature(function).bind(*arguments, **options)
    except TypeError:
        return False
    except ValueError:  # a function without a signature, as some of C
        return True
    return True


def _describe(value: object) -> str:
    return "none" if value is None else describe(value)
