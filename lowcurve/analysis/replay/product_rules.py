"""Rules for products of matrices and for einsum, in which one factor or both depend on the input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.calls import Call, Layout, NotReplayable, Recorded, is_among
from lowcurve.analysis.replay.curved_steps import Einsum, MatrixProduct
from lowcurve.analysis.replay.differentiated import Differentiated
from lowcurve.analysis.replay.steps import LinearMap, Step


def matrix_product(call: Call) -> Step | Recorded:
    """Return the step of a matrix product: of two parts of the network, or with a constant matrix from either side.

    Args:
        call: The recorded call.
    """
    second_name = "mat2" if "mat2" in call.kwargs else "other"
    given = call.bind(f"input {second_name}")
    first, second = given["input"], given[second_name]
    layout = call.layout
    left, right = is_among(first, call.inputs), is_among(second, call.inputs)
    for moves, factor, contracted in ((left, first, first.ndim - 1), (right, second, max(second.ndim - 2, 0))):
        if moves and (layout.axis == contracted or factor.shape[layout.axis] != call.rows):
            raise NotReplayable("a matrix product over the batch axis")
    if left and right:
        if first.ndim != second.ndim or layout.axis > first.ndim - 3:
            raise NotReplayable("a product of matrices whose batch axes differ")
        front = call.with_batch_first(constants=True)
        return MatrixProduct(front.inputs[0].detach(), front.inputs[-1].detach()), layout
    factor, constant = (first, second.detach()) if left else (second, first.detach())
    aligned = layout.axis - factor.ndim + constant.ndim
    if constant.ndim > max(2, factor.ndim):
        raise NotReplayable("a product with more matrices than the network has")
    if not left and constant.ndim == 1 and layout.axis > factor.ndim - 2:
        raise NotReplayable("a matrix product over the batch axis")
    product: Callable[[Tensor, Tensor], Tensor] = (lambda t, c: t @ c) if left else (lambda t, c: c @ t)
    if constant.ndim > 2 and aligned >= 0 and constant.shape[aligned] != 1:
        if layout.axis:
            raise NotReplayable("a product with matrices that differ by example")
        return Differentiated(product, (factor.detach(),), (constant,)), layout
    return LinearMap(lambda t: layout.front(product(layout.back(t), constant))), layout


def einsum(call: Call) -> Recorded:
    """Return the step of a sum over products of one or two parts of the network.

    Args:
        call: The recorded call.
    """
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if not isinstance(equation, str) or call.kwargs:
        raise NotReplayable("einsum of lists of numbers")
    words, result = _read_equation(equation, operands)
    moving = [k for k, one in enumerate(operands) if is_among(one, call.inputs)]
    if len(moving) != len(call.inputs):
        raise NotReplayable("einsum of a tensor that is given several times")
    examples = {words[k][layout.axis] for k, layout in zip(moving, call.layouts, strict=True)}
    inner = {layout.inner for layout in call.layouts}
    if len(examples) != 1 or len(inner) != 1 or not examples <= {*result}:
        raise NotReplayable("einsum over the batch axis")
    (b,) = examples
    after = Layout(result.index(b), inner.pop())

    def front(word: str) -> str:
        return b + word.replace(b, "")

    constants = [k for k in range(len(operands)) if k not in moving]
    if any(b in words[k] for k in constants):
        raise NotReplayable("einsum with a constant that differs by example")
    if len(moving) == 1:
        (k,) = moving
        fixed = [operands[j].detach() for j in constants]
        text = ",".join([front(words[k]), *(words[j] for j in constants)]) + "->" + front(result)
        return LinearMap(lambda t: torch.einsum(text, t, *fixed)), after
    if len(operands) != 2:
        raise NotReplayable("einsum of several parts of the network and more")
    first, second = words
    if any(len({*word}) < len(word) for word in (first, second, result)) or {*first} ^ {*second} != (
        ({*first} ^ {*second}) & {*result}
    ):
        raise NotReplayable("einsum with an index that one factor alone is summed over")
    a, c = (layout.front(t.detach()) for layout, t in zip(call.layouts, call.inputs, strict=True))
    return Einsum(a, c, letters=(front(first), front(second), front(result))), after


def _read_equation(equation: str, operands: list[Any]) -> tuple[list[str], str]:
    """Return the indices of each operand and of the result, with letters in the place of an ellipsis."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if len(words) != len(operands) or not all(isinstance(one, Tensor) for one in operands):
        raise NotReplayable("einsum of something else than tensors")
    hidden = {one.ndim - len(word) + 3 for one, word in zip(operands, words, strict=True) if "..." in word}
    if len(hidden) > 1 or (not arrow and hidden) or "Z" in equation:
        raise NotReplayable("einsum with an ellipsis of several lengths")
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXY" if letter not in equation]
    more = "".join(free[: hidden.pop() if hidden else 0])
    if not arrow:
        result = "".join(sorted(letter for letter in {*left} - {","} if left.count(letter) == 1))
    words = [word.replace("...", more) for word in words]
    if any(one.ndim != len(word) for one, word in zip(operands, words, strict=True)):
        raise NotReplayable("einsum of tensors with other axes")
    sizes: dict[str, int] = {}
    for one, word in zip(operands, words, strict=True):
        for letter, size in zip(word, one.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise NotReplayable("einsum that repeats entries")
    return words, result.replace("...", more)
