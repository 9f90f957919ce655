"""Exact products with the Hessian of a field at many points at once.

`hessian` records the field's own operations and replays them on tangents, for no more than a gradient a product; what it
cannot record it differentiates twice. Which way it went, and why, stands in `way`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import jacobian, pullback, require_inputs
from lowcurve.analysis.differentiated import Differentiated, require_one_number_each
from lowcurve.analysis.replay import Line, Program, Recorder, along, each, strip
from lowcurve.errors import InputError
from lowcurve.types import Field, Halves, Inputs

REPLAYED = "replayed tangents"
Part = Literal["whole", "Gauss-Newton", "network"]
_ways: ContextVar[set[str] | None] = ContextVar("ways", default=None)


@dataclass(frozen=True)
class Replayed:
    """v -> H v by the recorded steps, about 0.6 of a gradient each.

    outer: the loss's Hessian in the logits, (batch, classes, classes); None for a field recorded as a whole. gradient: grad
    l(x), from the recording. way: how, and if not so, why not. last: images go with their channels last."""

    program: Program
    outer: Tensor | None
    gradient: Tensor
    part: Part = "whole"
    way: str = REPLAYED
    last: bool = True

    @property
    def curved(self) -> bool:
        """Whether the network itself bends. Without that, H is of rank <= classes - 1 (`gauss_newton_spectrum`)."""
        return self.program.curved

    def __call__(self, v: Tensor) -> Tensor:
        return self.many(v[None])[0]

    def many(self, vectors: Tensor) -> Tensor:
        """H v for several vectors an example, shape (vectors, batch, ...), in one pass."""
        return self._product(self.program.steps, vectors).reshape(vectors.shape)

    def strip(self, vectors: Tensor, first: int) -> Tensor:
        """H v from image row `first` on, of vectors in rows from there on (`types.Strips`)."""
        narrow = strip(self.program, first, end := first + vectors.shape[3])
        if narrow is None:
            return self.many(F.pad(vectors, (0, 0, first, self.gradient.shape[2] - end)))[..., first:, :]
        return self._product(narrow, vectors)

    def _product(self, steps: Sequence[Line], vectors: Tensor) -> Tensor:
        rows = _laid_out(vectors.detach().flatten(0, 1), self.last)
        way = along(steps, rows, bent=self.part != "Gauss-Newton")
        seed = torch.zeros_like(way.change)
        if self.outer is not None and self.part != "network":
            seed = _times(self.outer, each(way.change, len(self.outer))).flatten(0, 1)
        return each(way.back(seed), vectors.shape[1])

    def take(self, rows: Tensor) -> "Replayed":
        """The operator of these examples alone."""
        outer = None if self.outer is None else self.outer[rows]
        return replace(self, program=self.program.take(rows), outer=outer, gradient=self.gradient[rows])

    def gauss_newton_matrices(self, jacobians: Tensor) -> Tensor:
        """J^T (d^2 l / dz^2) J, shape (batch, d, d), of the logits' Jacobians, shape (batch, classes, ...)."""
        if self.outer is None:
            raise InputError("a field that shows its logits", "one that is a whole", "write loss_field(model, y)")
        rows = jacobians.flatten(2)
        return rows.transpose(1, 2) @ _times(self.outer, rows.permute(2, 0, 1)).permute(1, 2, 0)

    def only(self, part: Part) -> "Replayed":
        """H = Gauss-Newton part J^T (d^2 l / dz^2) J, the curvature of the loss, + network part, that of the logits."""
        if self.outer is None:
            raise InputError("a field that shows its logits", "one that is a whole", "write loss_field(model, y)")
        return replace(self, part=part)


def hessian(field: Field, x: Inputs, *, replay: bool = True) -> Replayed | Differentiated:
    """v -> H v with the exact Hessian at x, one matrix an example; also `.gradient`, and `.way`: how, and why.

    A field of convolutions, linear layers, BatchNorm in eval mode, pooling, sums, reshaping and elementwise functions is
    replayed: 1.4 gradients once, 0.6 to 0.7 for each product (ResNet-20). Any other is differentiated twice, 2 gradients for
    each product. Both are exact; `replay=False` takes the second way. For a ReLU network this is the Hessian almost
    everywhere, of rank <= classes - 1; what lies in its kinks shows only in `secant_hessian`.

    Errors: InputError for inputs without an axis of examples, for a field that does not give one finite number an
    example, that mixes examples or acts by chance, or that cannot be differentiated.

    Example:
        >>> product = hessian(lambda x: (x[:, :1] * x[:, 1:]).sum(1), torch.tensor([[3.0, 4.0]]))
        >>> product(torch.tensor([[1.0, 0.0]]))
        tensor([[0., 1.]])
        >>> product.way
        'replayed tangents'

    Reference: Pearlmutter 1994.
    """
    require_inputs(x)
    found = _replayed(field, x) if replay else "asked for"
    operator = Differentiated(field, x, f"differentiated twice: {found}") if isinstance(found, str) else found
    _require_finite(operator.gradient, "gradient")
    seen = _ways.get()
    if seen is not None:
        seen.add(operator.way)
    return operator


def gauss_newton_spectrum(field: Halves, x: Inputs) -> Tensor:
    """The eigenvalues of J^T (d^2 l / dz^2) J that may differ from zero, in rising order, shape (batch, classes).

    For a ReLU network this is the whole spectrum of the exact Hessian: its other d - classes eigenvalues are zero, and with
    cross-entropy one of these, too. For any network it is the curvature that comes of the loss alone.

    Cost: a vector-Jacobian product for each class, and one eigenvalue problem of that size.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> field = loss_field(torch.nn.Identity(), torch.tensor([0]))
        >>> gauss_newton_spectrum(field, torch.zeros(1, 2)).round(decimals=4)  # p (1 - p) (1, -1)^T (1, -1) at p = 1/2
        tensor([[0.0000, 0.5000]])
    """
    rows = jacobian(field.logits, x).flatten(2).double()
    with torch.no_grad():
        logits = field.logits(x)
    outer = _outer(field, logits)[1].double()
    # J^T A J and sqrt(J J^T) A sqrt(J J^T) share their eigenvalues but for zeros, and the second is small.
    sizes, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    root = vectors * torch.where(sizes > 0, sizes, 0).sqrt()[:, None] @ vectors.transpose(1, 2)
    values: Tensor = torch.linalg.eigvalsh(root @ outer @ root)
    return values.to(x.dtype)


@contextmanager
def ways_taken() -> Iterator[set[str]]:
    """Inside, every call of `hessian` notes its way here.

    Example:
        >>> with ways_taken() as ways:
        ...     _ = hessian(lambda x: x.square().sum(1), torch.ones(1, 2))
        >>> ways
        {'replayed tangents'}
    """
    seen: set[str] = set()
    token = _ways.set(seen)
    try:
        yield seen
    finally:
        _ways.reset(token)


def _replayed(field: Field, x: Inputs, last: bool = True) -> Replayed | str:
    """The recorded operator, or why there is none."""
    leaf = _laid_out(x.detach(), last).requires_grad_()
    try:
        with Recorder(leaf) as recorder, torch.enable_grad():
            result = field.logits(leaf) if isinstance(field, Halves) else field(leaf)
    except RuntimeError as error:
        if last and "view size is not compatible" in str(error):  # a network's own view of what it takes for rows
            return _replayed(field, x, last=False)
        raise
    outcome = recorder.program(result)
    if recorder.mixes:
        law = "a field whose examples are independent and that does not act by chance"
        raise InputError(law, recorder.reason, "write model.eval() first")
    if isinstance(outcome, str):
        return outcome
    if isinstance(field, Halves):
        seed, outer = _outer(field, result)
    else:
        require_one_number_each(result, x)
        seed, outer = torch.ones_like(result), None
    return Replayed(outcome, outer, pullback(result, leaf, seed), last=last)


def _outer(field: Halves, logits: Tensor) -> tuple[Tensor, Tensor]:
    """d l / dz and d^2 l / dz^2, shapes (batch, classes) and (batch, classes, classes)."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        values = field.of_logits(leaf)
        require_one_number_each(values, leaf)
        slope = pullback(values, leaf, torch.ones_like(values), create_graph=True)
        rows = [pullback(column, leaf, torch.ones_like(column), retain_graph=True) for column in slope.unbind(1)]
    return slope.detach(), torch.stack(rows, 1)


def _times(outer: Tensor, change: Tensor) -> Tensor:
    """A t for the Hessian A of the loss in the logits, shape (batch, classes, classes), and changes t of the logits, shape
    (vectors, batch, classes).

    Where a shift of all logits changes nothing, A 1 = 0, as with every loss of differences, t is taken against its entry
    at the most curved class, and the sum of A t is 0 but for the rounding of A t itself. Otherwise both keep the rounding
    of the whole t, and where all logits move alike J^T makes of it more than the product.
    """
    tolerance = 8 * outer.shape[1] * torch.finfo(outer.dtype).eps * outer.abs().sum(2)
    level = (outer.sum(2).abs() <= tolerance).all(1)
    top = outer.diagonal(dim1=1, dim2=2).abs().argmax(1).expand(len(change), -1)[..., None]
    from_top = change - change.gather(2, top) * level[:, None]
    found = torch.einsum("bij,kbj->kbi", outer, from_top)
    others = found.scatter(2, top, 0.0).sum(2, keepdim=True)
    return torch.where(level[:, None], found.scatter(2, top, -others), found)


def _laid_out(x: Tensor, last: bool) -> Tensor:
    """Images with their channels last, as convolutions on a CPU are fastest."""
    if last and x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _require_finite(values: Tensor, name: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"a finite {name}", "NaN or infinity", "look at the network's logits on this data")
