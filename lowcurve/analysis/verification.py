"""Hold second derivatives against independent ones, on two examples and once for each network and shape.

A replayed product is held against torch's own double backward. Double backward itself is held against a difference of
gradients where the network has functions whose derivatives torch does not know.
"""

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from lowcurve.analysis.autograd_hessian import AutogradHessian
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.gradient_differences import contradicts_differences
from lowcurve.analysis.norms import per_example
from lowcurve.analysis.second_derivatives import custom_functions
from lowcurve.errors import InputError
from lowcurve.network_calls import NetworkError, first_line, hint_for, is_memory_error
from lowcurve.randomness import normal, stream
from lowcurve.types import Field, IndexableField, Inputs, NetworkField

T = TypeVar("T")
_outcomes = WeakIdKeyDictionary()


class Products(Protocol):
    """An operator with its gradients."""

    @property
    def curved(self) -> bool:
        """False for a piecewise linear network."""
        ...

    @property
    def gradient(self) -> Tensor:
        """The gradients, shape (batch, ...)."""
        ...

    def apply_many(self, vectors: Tensor) -> Tensor:
        """Return H v, shape (vectors, batch, ...)."""
        ...

    def take(self, rows: Tensor) -> Any:
        """Return the operator of some examples."""
        ...


@dataclass(frozen=True)
class Probe:
    """The first example of a batch and one in the middle, with a direction for each, or one of two examples.

    They leave the batch, so a network that mixes examples gives them other gradients.
    """

    field: Field
    x: Inputs
    v: Tensor
    rows: Tensor

    @classmethod
    def of(cls, field: Field, x: Inputs, *, whole: bool = False) -> "Probe":
        """Take the examples.

        Args:
            field: Per-example loss as a function of the input.
            x: Inputs, shape (batch, ...).
            whole: Take all examples, for a network that accepts a single batch size.
        """
        rows = torch.arange(len(x), device=x.device)
        if len(x) > 1 and not whole and isinstance(field, IndexableField):
            rows = rows[:: len(x) // 2][: min(len(x) - 1, 2)]
            field, x = field.take(rows), x[rows]
        v = normal(x.detach(), generator=stream(0, "verification"))
        return cls(field, x.detach(), v / per_example(v.flatten(1).norm(dim=1), v), rows)


def once(field: Field, key: Hashable, check: Callable[[], tuple[T, bool]]) -> T:
    """Return the result of a check, which is made once for each network and key.

    Args:
        field: The field. The fields of other batches of its network share the results.
        key: What the result depends on besides the network.
        check: Returns the result, and whether to keep it.
    """
    owner: Any = field.model if isinstance(field, NetworkField) else field
    owner = getattr(owner, "__self__", owner)
    key = (field.kind, key) if isinstance(field, NetworkField) else key
    try:
        known = _outcomes.setdefault(owner, {})  # type: ignore[no-untyped-call]
    except TypeError:  # an object without weak references
        return check()[0]
    if key in known:
        found: T = known[key]
        return found
    result, keep = check()
    if keep:
        known[key] = result
    return result


def replay_is_right(
    operator: Products, field: Field, x: Inputs, record: Callable[[Field, Inputs], Products | str]
) -> tuple[bool, bool]:
    """Return whether a replayed product is that of torch's own double backward, and whether the answer is final.

    A product of zeros shows nothing, unless the network is piecewise linear.

    Single precision alone does not decide: where it disagrees, copies in double precision are compared.

    Args:
        operator: The replayed operator.
        field: Its field.
        x: Its inputs.
        record: Returns the replayed operator of another field, or the reason why there is none.

    Raises:
        InputError: If the gradients differ between two passes, or if the reference is wrong as well.
    """
    probe, reference = _reference(field, x)
    require_same_gradients(operator.gradient[probe.rows], reference.gradient)
    try:
        other = normal(probe.x, generator=stream(1, "verification"))
        found = operator.take(probe.rows).apply_many(torch.stack([other, probe.v]))[1]
    except Exception as error:
        if is_memory_error(error):
            raise
        return False, True
    if same(found, reference.product):
        return True, bool(found.any() and found.isfinite().all()) or not operator.curved
    double = _double(probe.field, probe.x) if x.dtype != torch.float64 else None
    exact = "no copy" if double is None else record(*double)
    return (False, True) if double is None or isinstance(exact, str) else replay_is_right(exact, *double, record)


def own_layers_are_right(field: Field, x: Inputs) -> tuple[bool, Tensor, Tensor]:
    """Return whether double backward with this package's layers is that of torch's own, or works where torch's does not.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).

    Returns:
        The answer, the indices of the probed examples, and their gradients.

    Raises:
        InputError: If the field cannot be differentiated twice.
    """
    probe, reference = _reference(field, x)
    if reference.own_layers:
        return True, probe.rows, reference.gradient
    try:
        own = AutogradHessian(probe.field, probe.x, "")
        right = same(own(probe.v), reference.product)
    except Exception as error:
        if is_memory_error(error):
            raise
        return False, probe.rows, reference.gradient
    require_same_gradients(own.gradient, reference.gradient)
    return right, probe.rows, reference.gradient


def require_second_derivatives(field: Field, x: Inputs) -> bool:
    """Check that torch differentiates a field twice, and rightly where it has custom functions.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).

    Returns:
        True if this package's layers give the same; see `own_layers_are_right`. They do not for a network that takes
        derivatives itself, which needs their third ones. Where single precision says no, a copy in double precision decides.

    Raises:
        InputError: If it does not.
    """
    right = own_layers_are_right(field, x)[0]
    double = None if right or x.dtype == torch.float64 else _double(field, x)
    return right if double is None else own_layers_are_right(*double)[0]


def require_same_gradients(first: Tensor, second: Tensor) -> None:
    """Check that two passes gave the same gradients, one of them in a smaller batch.

    The tolerance is wide, because a confident network enlarges the rounding of another batch size.

    Args:
        first: Gradients, shape (batch, ...).
        second: The same from another pass.

    Raises:
        InputError: If they differ.
    """
    if not same(first, second, torch.finfo(first.dtype).eps ** 0.25):
        raise InputError(
            "a field of independent examples without randomness",
            "gradients that differ between two passes",
            "remove noise and statistics of the batch from the network",
        )


def same(found: Tensor, exact: Tensor, tolerance: float | None = None) -> bool:
    """Return whether all examples' vectors agree, by default to half of their digits.

    Args:
        found: Vectors, shape (batch, ...).
        exact: The others.
        tolerance: Largest difference relative to the length. NaN agrees with NaN alone.
    """
    a, b = found.double().flatten(1), exact.double().flatten(1)
    limits = torch.finfo(found.dtype)
    allowed = (limits.eps**0.5 if tolerance is None else tolerance) * (a.norm(dim=1) + b.norm(dim=1))
    near = (a - b).norm(dim=1) <= allowed + limits.tiny / limits.eps
    return bool((near | (a.isfinite().all(1) == b.isfinite().all(1)).logical_and(~a.isfinite().all(1))).all())


@dataclass(frozen=True)
class _Reference:
    """A product and gradients that were verified."""

    product: Tensor
    gradient: Tensor
    own_layers: bool


def _reference(field: Field, x: Inputs) -> tuple[Probe, _Reference]:
    """Return the probe and its product by torch's own double backward, or by own layers where torch's fails."""
    errors: list[Exception] = []
    for whole in (False, True):
        probe = Probe.of(field, x, whole=whole)
        for own in (False, True):
            try:
                operator = AutogradHessian(probe.field, probe.x, "", own_layers=own)
                product = operator(probe.v)
            except Exception as error:
                if is_memory_error(error):
                    raise
                errors.append(error)
            else:
                _verify(operator, probe, product, doubtful=own)
                return probe, _Reference(product, operator.gradient, own)
        if len(probe.rows) == len(x):
            break
    _ = AutogradHessian(field, x, "", own_layers=False).values  # raises what the network itself raises
    raise _sentence(errors[0])


def _sentence(error: Exception) -> Exception:
    """Return the error as a sentence."""
    if isinstance(error, InputError):
        return error
    hint = hint_for(error, "write the network with functions of torch that can be differentiated")
    found = NetworkError("a network that torch can differentiate twice", first_line(error), hint)
    found.__cause__ = error
    return found


def _verify(operator: AutogradHessian, probe: Probe, product: Tensor, *, doubtful: bool) -> None:
    """Refuse a product that differences of gradients contradict, if it is zero or torch does not know all derivatives.

    Copies in double precision are compared, product and differences both: a product in single precision may be zero
    because it underflows. Without such copies a zero is believed where torch knows all derivatives.
    """
    names = custom_functions(operator.values)
    zero = ~product.flatten(1).any(1)
    if not (names or doubtful or bool(zero.any())) or not bool(product.isfinite().all()):
        return
    field, x, v = probe.field, probe.x, probe.v
    if x.dtype != torch.float64:
        double = _double_product(probe, operator.own_layers)
        if double is None and not names and not doubtful:
            return
        field, x, v, product = double or (field, x, v, product)
    if contradicts_differences(field, x, v, product):
        received = f"another one through {', '.join(names)}" if names else "another one"
        hint = "write its backward with differentiable torch functions, or measure at a finite scale h"
        raise NetworkError("a Hessian product that is the limit of differences of gradients", received, hint)


def _double_product(probe: Probe, own_layers: bool) -> tuple[Field, Inputs, Tensor, Tensor] | None:
    """Return field, inputs, directions and product in double precision, or None if there is no such copy."""
    double = _double(probe.field, probe.x)
    if double is None:
        return None
    v = probe.v.double()
    try:
        return *double, v, AutogradHessian(*double, "", own_layers=own_layers)(v)
    except Exception as error:
        if is_memory_error(error):
            raise
        return None


def _double(field: Field, x: Inputs) -> tuple[Field, Inputs] | None:
    """Return the field of a copy of its network in double precision and the inputs, or None if there is no such copy."""
    if not isinstance(field, NetworkField) or not isinstance(field.model, nn.Module):
        return None
    try:
        double = field.with_model(copy.deepcopy(field.model).double()), x.double()
        return double if gradient(*double).dtype == torch.float64 else None
    except Exception:
        return None
