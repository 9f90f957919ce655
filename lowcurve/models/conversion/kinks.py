"""Find kinks that are written by hand, such as torch.maximum(x, 0) or x * (x > 0), while a network runs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lowcurve.models.conversion.tensors import tensors

KINKED = frozenset({
    "abs", "absolute", "maximum", "minimum", "fmax", "fmin", "clamp", "clip", "clamp_min", "clamp_max", "frac", "fmod",
    "remainder", "copysign", "threshold",
})  # fmt: skip
"""Elementwise functions with a kink or a jump that are no layer of their own."""
OF_TWO = frozenset(["max", "min"])
"""Functions that are elementwise if they are given two tensors."""
STEPS = frozenset({
    "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal", "not_equal", "sign", "sgn",
    "signbit", "heaviside", "floor", "ceil", "round", "trunc",
})  # fmt: skip
"""Functions whose values are constant but for jumps."""


class KinkFinder:
    """Follow which tensors depend on the input, and which of them are constant but for jumps.

    A tensor that is neither a parameter, a buffer nor made from those alone counts as dependent. A product of a dependent
    tensor with one that jumps has a kink or a jump.

    Args:
        model: The network that runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.constant = WeakTensorKeyDictionary()
        self.steps = WeakTensorKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.constant[tensor] = True

    def note_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> bool:
        """Note the result of a torch function. Return True if the call has a kink in the input.

        Args:
            name: Name of the function, in place or not.
            args: Positional arguments.
            kwargs: Keyword arguments.
            result: What it returned; None for an assignment to elements of the first argument.
        """
        name, given = name.strip("_"), list(tensors((args, dict(kwargs))))
        dependent = [tensor for tensor in given if tensor not in self.constant]
        made = given[:1] if result is None else list(tensors(result))
        smooth = [tensor for tensor in dependent if tensor not in self.steps]
        jumps = bool(dependent) and (not smooth or name in STEPS)
        for tensor in made:
            self._note(self.constant, tensor, not dependent)
            self._note(self.steps, tensor, jumps)
        kinked = name in KINKED or (name in OF_TWO and len(given) > 1)
        return bool(smooth) and not jumps and (kinked or len(smooth) < len(dependent))

    @staticmethod
    def _note(kind: Any, tensor: Tensor, belongs: bool) -> None:
        if belongs:
            kind[tensor] = True
        else:
            kind.pop(tensor, None)
