"""Products with the unit vectors of a strip of image rows, for less than a product each.

A symmetric matrix is known from half of its entries: of the columns of the pixels in rows first to end, those from row
`first` on. And pixels of a strip reach, after a few convolutions, rows near it alone. So the steps below the first one that
sees whole maps (a pooling, a linear layer) go along the rows that the tangents reach, and back along the rows from the first
of these on, which are all that the wanted ones hang on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowcurve.analysis.replay.rows import times
from lowcurve.analysis.replay.steps import Elementwise, Gathered, Indexed, Linear, Pass, Same, Scaled, Sum, Weighted
from lowcurve.analysis.replay.strip_steps import (
    BentRows,
    ChosenRows,
    ConvolvedRows,
    PooledRows,
    RowByRow,
    Rows,
    SummedRows,
    WholeMaps,
)
from lowcurve.analysis.replay.tangents import Line, Program


def strip(program: Program, first: int, end: int) -> Sequence[Line] | None:
    """The steps for tangents in the images' rows `first` to before `end`, and back from there to all rows from `first` on.

    None where the network's first step sees whole images.
    """
    shapes = program.shapes
    if len(shapes[0]) != 3:
        return None
    reached = {0: Rows(first, end, shapes[0][1])}
    steps: list[Line] = []
    for slot, step, inputs in program.steps:
        rows = tuple(reached.get(i) for i in inputs)
        found = _narrowed(step, rows, [shapes[i] for i in inputs], shapes[slot]) if any(rows) else (step, None)
        made, to = found or (WholeMaps(step, rows), None)
        steps.append((slot, made, inputs))
        if to is not None and not to.whole:
            reached[slot] = to
    return None if len(reached) == 1 or steps[-1][0] in reached else steps


Found = tuple[Pass, Rows] | None


def _narrowed(step: Pass, rows: tuple[Rows | None, ...], shapes: list[torch.Size], shape: torch.Size) -> Found:
    """The step for these rows of its inputs, and the rows that it reaches; None if it has to see whole maps."""
    if len(shape) != 3 or any(len(one) != 3 for one in shapes):
        return None
    around = [r or Rows(0, s[1], s[1]) for r, s in zip(rows, shapes, strict=True)]
    r, same = around[0], all(one == shape for one in shapes)
    if isinstance(step, Same):
        return step, r
    if isinstance(step, Weighted) and step.weight.ndim == 4:
        return _convolution(step, r, shapes[0], shape[1])
    if isinstance(step, Elementwise):
        bend = None if step.bend is None else r.part(step.bend)
        return BentRows(Elementwise(r.part(step.slope), None, bend), r.below(step.slope)), r
    if isinstance(step, Sum) and same:
        to = Rows(min(one.first for one in around), max(one.end for one in around), r.height)
        return SummedRows(step.signs, (around[0], around[1]), to), to
    if isinstance(step, Gathered):
        return _pooled(step, r, shapes[0], shape[1])
    if isinstance(step, Indexed) and len(step.index) == 4 and all(isinstance(i, slice) for i in step.index):
        return _chosen(step, r, shape[1])
    if isinstance(step, Linear) and step.row_by_row:
        return RowByRow(step.function, shapes[0]), r
    if isinstance(step, Scaled) and same and not (isinstance(step.factor, Tensor) and step.factor.shape[-2] > 1):
        return RowByRow(lambda t: times(t, step.factor), shapes[0]), r
    return None


def _convolution(step: Weighted, r: Rows, shape: torch.Size, height: int) -> Found:
    stride, padding, dilation = (step.geometry[name][0] for name in ("stride", "padding", "dilation"))
    reach = dilation * (step.weight.shape[2] - 1)
    first, end = max(-((reach - r.first - padding) // stride), 0), min((r.end - 1 + padding) // stride + 1, height)
    to = Rows(first, end, height)
    return (ConvolvedRows(step, r, to, shape[2]), to) if first < end else None


def _pooled(step: Gathered, r: Rows, shape: torch.Size, height: int) -> Found:
    places = step.places.unflatten(-1, (height, -1))  # type: ignore[no-untyped-call]
    rows = (places // shape[2]).transpose(2, 3).flatten(0, 2)
    reached = ((rows >= r.first) & (rows < r.end)).any(0).nonzero()
    if not len(reached):
        return None
    # Back go the rows that any later one of the input reaches, too.
    first = int((rows >= r.first).any(0).nonzero()[0])
    to = Rows(first, int(reached[-1]) + 1, height)
    return PooledRows(places - r.first * shape[2], shape, r, to), to


def _chosen(step: Indexed, r: Rows, height: int) -> Found:
    start, _, stride = step.index[2].indices(r.height)
    first, end = max(-((start - r.first) // stride), 0), min((r.end - 1 - start) // stride + 1, height)
    to = Rows(first, end, height)
    return (ChosenRows(step, start + first * stride - r.first, stride, end - first, r), to) if first < end else None
