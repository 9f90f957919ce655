"""Exact products with the Hessian of a field at many points at once.

`hessian` records the field's own operations and replays them on tangents, for less than a gradient per product. A field
that cannot be recorded is differentiated twice. The operator's `backend` says which, and why.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowcurve.analysis.autograd_hessian import AutogradHessian
from lowcurve.analysis.calculus import jacobian, pullback, require_inputs, require_per_example_values
from lowcurve.analysis.eigenvalues import symmetric_eigenvalues
from lowcurve.analysis.replay import Program, ProgramRecorder, push_tangents, unstack
from lowcurve.analysis.verification import once, own_layers_are_right, replay_is_right, require_same_gradients
from lowcurve.errors import InputError
from lowcurve.network_calls import NetworkError, gradients_enabled, is_memory_error, uncompiled, without_inference
from lowcurve.types import Field, Inputs, LogitField

REPLAYED = "replayed tangents"
Part = Literal["whole", "Gauss-Newton", "network"]
_backends: ContextVar[set[str] | None] = ContextVar("backends", default=None)


@dataclass(frozen=True)
class ReplayedHessian:
    """v -> H v by the recorded steps, at about 0.6 of a gradient per product.

    Attributes:
        program: The recorded steps from the input to the logits. A field without logits ends at its values.
        logit_hessian: The loss's Hessian in the logits, shape (batch, classes, classes). None for a field without
            logits.
        gradient: The gradients grad l(x), shape (batch, ...). They come from the recording.
        part: The part of the Hessian that is applied; see `only`.
        backend: How the products are computed.
        channels_last: True if images are stored with their channels last.
    """

    program: Program
    logit_hessian: Tensor | None
    gradient: Tensor
    part: Part = "whole"
    backend: str = REPLAYED
    channels_last: bool = True

    @property
    def curved(self) -> bool:
        """False for a piecewise linear network: H then has rank at most classes - 1 (see `gauss_newton_spectrum`)."""
        return self.program.curved

    def __call__(self, v: Tensor) -> Tensor:
        """Return H v for one vector per example, shape (batch, ...)."""
        return self.apply_many(v[None])[0]

    @gradients_enabled()
    def apply_many(self, vectors: Tensor) -> Tensor:
        """Return H v for several vectors per example, in one pass.

        Args:
            vectors: Shape (vectors, batch, ...).
        """
        stacked = _set_layout(without_inference(vectors).detach().flatten(0, 1), self.channels_last)
        tangents = push_tangents(self.program.instructions, stacked, second_order=self.part != "Gauss-Newton")
        adjoint = torch.zeros_like(tangents.tangent)
        if self.logit_hessian is not None and self.part != "network":
            logit_tangents = unstack(tangents.tangent, len(self.logit_hessian))
            adjoint = _apply_logit_hessian(self.logit_hessian, logit_tangents).flatten(0, 1)
        return tangents.pull_back(adjoint).reshape(vectors.shape)

    def take(self, rows: Tensor) -> "ReplayedHessian":
        """Return the operator for some of the examples.

        Args:
            rows: Indices of the examples.
        """
        logit_hessian = None if self.logit_hessian is None else self.logit_hessian[rows]
        return replace(self, program=self.program.take(rows), logit_hessian=logit_hessian, gradient=self.gradient[rows])

    def gauss_newton_matrices(self, jacobians: Tensor) -> Tensor:
        """Return the Gauss-Newton matrices J^T (d^2 l / dz^2) J, shape (batch, d, d).

        Args:
            jacobians: Jacobians of the logits, shape (batch, classes, ...).

        Raises:
            InputError: If the field does not show its logits.
        """
        if self.logit_hessian is None:
            raise InputError("a field that shows its logits", "one without them", "write loss_field(model, y)")
        rows = jacobians.flatten(2)
        return rows.transpose(1, 2) @ _apply_logit_hessian(self.logit_hessian, rows.permute(2, 0, 1)).permute(1, 2, 0)

    def only(self, part: Part) -> "ReplayedHessian":
        """Return one part of H = Gauss-Newton part + network part.

        The Gauss-Newton part J^T (d^2 l / dz^2) J is the curvature of the loss, the network part that of the logits.

        Args:
            part: "Gauss-Newton", "network" or "whole".

        Raises:
            InputError: If the field does not show its logits.
        """
        if self.logit_hessian is None:
            raise InputError("a field that shows its logits", "one without them", "write loss_field(model, y)")
        return replace(self, part=part)


@gradients_enabled()
def hessian(field: Field, x: Inputs, *, replay: bool = True) -> ReplayedHessian | AutogradHessian:
    """Return the operator v -> H v of the exact Hessian at x, one matrix per example.

    A field of convolutions, linear layers, attention, normalization of each example, BatchNorm in eval mode, pooling, sums,
    products, reshaping and elementwise functions is replayed. Any other is differentiated twice. Both are exact. For a ReLU
    network this is the Hessian almost everywhere, of rank at most classes - 1; the curvature in its kinks appears only in
    `secant_hessian`.

    Cost: replayed, 1.4 gradients once and 0.6 to 0.7 for each product (ResNet-20), or about 1.1 (ViT, batch 16); otherwise 2
    gradients for each product.

    Args:
        field: Per-example loss as a function of the input; see `losses.loss_field`.
        x: Inputs, shape (batch, ...).
        replay: False always differentiates twice.

    Returns:
        The operator, with the gradients as `.gradient`, and in `.backend` how products are computed, and why.

    Raises:
        InputError: If the inputs have no batch axis or are not finite, or if the field does not give one number per example,
            mixes examples, is random, or is not differentiable. Where its gradient is NaN, so are the products.

    Example:
        >>> product = hessian(lambda x: (x[:, :1] * x[:, 1:]).sum(1), torch.tensor([[3.0, 4.0]]))
        >>> product(torch.tensor([[1.0, 0.0]]))
        tensor([[0., 1.]])
        >>> product.backend
        'replayed tangents'

    Reference: Pearlmutter 1994.
    """
    require_inputs(x)
    if not bool(torch.isfinite(x).all()):
        raise InputError("finite inputs", "NaN or infinity", "leave such images out")
    x = without_inference(x)
    replayed = _replay_if_right(field, x) if replay else "asked for"
    operator = _differentiate_twice(field, x, replayed) if isinstance(replayed, str) else replayed
    _ = operator.gradient  # raises the errors of the field now and not at the first product
    recorded = _backends.get()
    if recorded is not None:
        recorded.add(operator.backend)
    return operator


def gauss_newton_spectrum(field: LogitField, x: Inputs) -> Tensor:
    """Return the eigenvalues of J^T (d^2 l / dz^2) J that may differ from zero, in ascending order.

    For a ReLU network this is the whole spectrum of the exact Hessian: its other d - classes eigenvalues are zero, and with
    cross-entropy one of these is zero too. For any network it is the curvature that comes from the loss alone.

    Cost: a vector-Jacobian product for each class, and one eigenvalue problem of that size.

    Args:
        field: A field that shows its logits.
        x: Inputs, shape (batch, ...).

    Returns:
        Eigenvalues, shape (batch, classes).

    Example:
        >>> from lowcurve.losses import loss_field
        >>> field = loss_field(torch.nn.Identity(), torch.tensor([0]))
        >>> gauss_newton_spectrum(field, torch.zeros(1, 2)).round(decimals=4)  # p (1 - p) (1, -1)^T (1, -1) at p = 1/2
        tensor([[0.0000, 0.5000]])
    """
    rows = jacobian(field.logits, x).flatten(2).double()
    with torch.no_grad():
        logits = field.logits(x)
    logit_hessian = _logit_derivatives(field, logits)[1].double()
    # J^T A J and sqrt(J J^T) A sqrt(J J^T) share their nonzero eigenvalues, and the second is small.
    sizes, vectors = symmetric_eigenvalues(rows @ rows.transpose(1, 2))
    root = vectors * sizes.relu().sqrt()[:, None] @ vectors.transpose(1, 2)
    return symmetric_eigenvalues(root @ logit_hessian @ root)[0].to(x.dtype)


@contextmanager
def record_backends() -> Iterator[set[str]]:
    """Record the backend of every operator that `hessian` returns inside the block.

    Yields:
        The set of backends.

    Example:
        >>> with record_backends() as backends:
        ...     _ = hessian(lambda x: x.square().sum(1), torch.ones(1, 2))
        >>> backends
        {'replayed tangents'}
    """
    backends: set[str] = set()
    token = _backends.set(backends)
    try:
        yield backends
    finally:
        _backends.reset(token)


def _replay_if_right(field: Field, x: Inputs) -> ReplayedHessian | str:
    """Return the recorded operator, or the reason why there is none. It is checked once for each network and program."""
    operator = _replay(field, x)
    if isinstance(operator, str):
        return operator

    key = operator.program.description, min(len(x), 3), x.dtype, x.device.type
    right = once(field, key, lambda: replay_is_right(operator, field, x, _replay))
    return operator if right else "its replayed product is not that of torch"


def _differentiate_twice(field: Field, x: Inputs, reason: str) -> AutogradHessian:
    """Return the operator by double backward, with the layers that were found right for the network and shape."""
    operators: list[AutogradHessian] = []

    def operator(own_layers: bool) -> AutogradHessian:
        return AutogradHessian(field, x, f"differentiated twice: {reason}", own_layers)

    def check() -> tuple[bool, bool]:
        right, rows, gradient = own_layers_are_right(field, x)
        operators.append(operator(right))
        require_same_gradients(operators[0].gradient[rows], gradient)
        return right, True

    own_layers = once(field, (x.shape[1:], min(len(x), 3), x.dtype, x.device.type, reason), check)
    return operators[0] if operators else operator(own_layers)


def _replay(field: Field, x: Inputs, channels_last: bool = True) -> ReplayedHessian | str:
    """Return the recorded operator, or the reason why there is none."""
    leaf = _set_layout(x.detach(), channels_last).requires_grad_()
    try:
        with uncompiled(), ProgramRecorder(leaf) as recorder, torch.enable_grad():
            result = field.logits(leaf) if isinstance(field, LogitField) else field(leaf)
    except Exception as error:
        # A network that flattens with `view` needs images with their channels first.
        if channels_last and "view size is not compatible" in str(error):
            return _replay(field, x, channels_last=False)
        if is_memory_error(error) or (isinstance(error, InputError) and not isinstance(error, NetworkError)):
            raise
        return f"recording fails with {type(error).__name__}"
    program = recorder.program(result)
    if recorder.is_dependent:
        law = "a field of independent examples without randomness"
        raise InputError(law, recorder.reason, "write model.eval() first")
    if isinstance(program, str):
        return program
    if isinstance(field, LogitField):
        adjoint, logit_hessian = _logit_derivatives(field, result)
    else:
        require_per_example_values(result, x)
        adjoint, logit_hessian = torch.ones_like(result), None
    return ReplayedHessian(program, logit_hessian, pullback(result, leaf, adjoint), channels_last=channels_last)


def _logit_derivatives(field: LogitField, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return d l / dz and d^2 l / dz^2, of shapes (batch, classes) and (batch, classes, classes)."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        values = field.from_logits(leaf)
        require_per_example_values(values, leaf)
        first = pullback(values, leaf, torch.ones_like(values), create_graph=True)
        rows = [pullback(column, leaf, torch.ones_like(column), retain_graph=True) for column in first.unbind(1)]
    return first.detach(), torch.stack(rows, 1)


def _apply_logit_hessian(logit_hessian: Tensor, tangents: Tensor) -> Tensor:
    """Return A t for the loss's Hessian A, shape (batch, classes, classes), and logit tangents t, (vectors, batch, classes).

    If a common shift of all logits has no effect, A 1 = 0, as for every loss of logit differences. Then t is taken relative
    to its entry at the class of largest curvature, and the entries of A t are made to sum to zero. Otherwise both would
    contain the rounding of the whole t, which J^T enlarges beyond the product where all logits move alike.
    """
    tolerance = 8 * logit_hessian.shape[1] * torch.finfo(logit_hessian.dtype).eps * logit_hessian.abs().sum(2)
    invariant = (logit_hessian.sum(2).abs() <= tolerance).all(1)
    top = logit_hessian.diagonal(dim1=1, dim2=2).abs().argmax(1).expand(len(tangents), -1)[..., None]
    relative = tangents - tangents.gather(2, top) * invariant[:, None]
    found = torch.einsum("bij,kbj->kbi", logit_hessian, relative)
    others = found.scatter(2, top, 0.0).sum(2, keepdim=True)
    return torch.where(invariant[:, None], found.scatter(2, top, -others), found)


def _set_layout(x: Tensor, channels_last: bool) -> Tensor:
    """Store images with their channels last, the layout in which convolutions on a CPU are fastest."""
    if channels_last and x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
