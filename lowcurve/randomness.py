"""The one door of chance: named streams, and draws that mean the same on every device.

Laws: the same seed and path give the same numbers everywhere, because draws are made on the CPU and moved; and the
global random state of torch is the same after every function of this package as before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def stream(seed: int, *path: object) -> torch.Generator:
    """An independent generator for every (seed, path): stream(0, "order", epoch), stream(0, "attack", step).

    The state is the first 63 bits of the SHA-256 of `seed/path`, so streams of different names do not overlap in
    practice and need no bookkeeping: to resume a run, the step number is all that must be known.

    Example:
        >>> a = torch.rand(3, generator=stream(0, "order", 1))
        >>> torch.equal(a, torch.rand(3, generator=stream(0, "order", 1)))
        True
        >>> torch.equal(a, torch.rand(3, generator=stream(0, "order", 2)))
        False
    """
    generator = torch.Generator(device="cpu")
    generator.manual_seed(_state(seed, path))
    return generator


@contextmanager
def isolated(seed: int, *path: object) -> Iterator[None]:
    """Inside, torch's global generators start from (seed, path); afterwards they are as they were.

    For code that can only draw from the global state: initial weights of modules, dropout.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated(0, "weights"):
        ...     layer = torch.nn.Linear(2, 2)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if started else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_state(seed, path))
        yield


def uniform(like: Tensor, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    """One draw from U(low, high) per entry of `like`, on its device and in its precision."""
    draw = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * draw).to(like)


def normal(like: Tensor, *, generator: torch.Generator) -> Tensor:
    """One draw from N(0, 1) per entry of `like`, on its device and in its precision."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def integers(shape: Sequence[int], low: int, high: int, *, generator: torch.Generator) -> Tensor:
    """Whole numbers from low (included) to high (excluded), on the CPU."""
    return torch.randint(low, high, tuple(shape), generator=generator)


def permutation(count: int, *, generator: torch.Generator) -> Tensor:
    """The numbers 0 to count - 1 in random order, on the CPU."""
    return torch.randperm(count, generator=generator)


def _state(seed: int, path: tuple[object, ...]) -> int:
    name = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
