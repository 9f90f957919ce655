"""Put the results of shards together."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.columns import Columns
from lowcurve.evaluation.radii import SmallestRadius

Result = TypeVar("Result", Columns, AttackResult, SmallestRadius)


def join(results: Sequence[Result]) -> Result:
    """Return the result on all images from the results of the shards, in the order of the images.

    Args:
        results: What `measure`, `attack` or `smallest_radius` returned for shard=(0, n), (1, n), ..., (n - 1, n), in this
            order.

    Raises:
        InputError: If they are not the results of all shards of one call.

    Example:
        >>> first, second = Columns({"norm": np.array([0.0, 2.0])}), Columns({"norm": np.array([1.0])})
        >>> first.shard, second.shard = (0, 2), (1, 2)
        >>> join([first, second])["norm"]
        array([0., 1., 2.])
    """
    columns = [_columns(result) for result in results]
    shards = [getattr(result, "shard", None) for result in results]
    kinds = {
        (type(result), tuple(one), getattr(result, "norm", "")) for result, one in zip(results, columns, strict=True)
    }
    if len(kinds) != 1 or shards != [(shard, len(results)) for shard in range(len(results))]:
        received = (
            ", ".join(f"{type(r).__name__} of {shard}" for r, shard in zip(results, shards, strict=True)) or "none"
        )
        hint = "give the results of shard=(0, n), (1, n), ..., (n - 1, n) in this order"
        raise InputError("the results of all shards of one call", received, hint)
    whole: dict[str, Any] = {name: _interleave([one[name] for one in columns]) for name in columns[0]}
    first: Any = results[0]
    if isinstance(first, Columns):
        return Columns(whole)  # type: ignore[return-value]
    rest = {field.name: getattr(first, field.name) for field in fields(first) if field.name not in (*whole, "shard")}
    joined: Result = type(first)(**rest, **whole)
    return joined


def _columns(result: Any) -> dict[str, Any]:
    if isinstance(result, Columns):
        return dict(result)
    if not isinstance(result, AttackResult | SmallestRadius):
        return {}
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray | Tensor)}


def _interleave(parts: Sequence[Any]) -> Any:
    """Return the rows of several shards in turn."""
    total, first = sum(map(len, parts)), parts[0]
    shape = (total, *first.shape[1:])
    if isinstance(first, Tensor):
        whole: Any = torch.empty(shape, dtype=first.dtype)
    else:
        whole = np.empty(shape, dtype=np.result_type(*parts))
    for shard, part in enumerate(parts):
        whole[shard :: len(parts)] = part
    return whole
