"""Record which derivatives a function asks for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode


@contextmanager
def watch_derivatives() -> Iterator[list[str]]:
    """Record every request for a derivative that is made inside the block.

    This covers `grad`, `backward`, what is built on them (torch.func, torch.autograd.functional) and forward-mode duals,
    under any import name. It patches nothing and sets no trace function, so debuggers and coverage still work. Calls in
    other threads are not recorded.

    Yields:
        The names of the calls in their order.

    Example:
        >>> import torch
        >>> with watch_derivatives() as calls:
        ...     torch.ones(1, requires_grad=True).square().sum().backward()
        >>> calls
        ['backward']
    """
    with _DerivativeWatch() as watch:
        yield watch.calls


class _DerivativeWatch(TorchFunctionMode):
    """Record the derivative calls among all functions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("grad", "backward", "_make_dual"):
            self.calls.append(name)
        return func(*args, **(kwargs or {}))
