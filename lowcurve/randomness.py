"""Named random streams, and draws that are the same on every device.

The same seed and path give the same numbers everywhere, because draws are made on the CPU and then moved. No function of
this package changes the global random state of torch.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")


def stream(seed: int, *path: object) -> torch.Generator:
    """Return an independent generator for every seed and path.

    Its state is the first 63 bits of the SHA-256 of `seed/path`. So streams of different names do not overlap in practice
    and need no bookkeeping: to resume a run, only the step number must be known.

    Args:
        seed: The seed.
        *path: Names and numbers, such as "order", epoch.

    Example:
        >>> a = torch.rand(3, generator=stream(0, "order", 1))
        >>> torch.equal(a, torch.rand(3, generator=stream(0, "order", 1)))
        True
        >>> torch.equal(a, torch.rand(3, generator=stream(0, "order", 2)))
        False
    """
    return torch.Generator(device="cpu").manual_seed(_state(seed, path))


@contextmanager
def temporary_seed(seed: int, *path: object) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore their state afterwards.

    This is for code that can only draw from the global state, such as the initial weights of modules, or dropout.

    Args:
        seed: The seed.
        *path: Names and numbers, as in `stream`.

    Example:
        >>> before = torch.get_rng_state()
        >>> with temporary_seed(0, "weights"):
        ...     layer = torch.nn.Linear(2, 2)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if started else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_state(seed, path))
        yield


class SeparateDraws:
    """Run pieces of code, such as the reading of data, on random states of their own.

    They are the global states of torch on the CPU, of Python and of numpy. Each piece goes on where the last one ended.
    Seed and path are those of `stream`.
    """

    def __init__(self, seed: int, *path: object) -> None:
        self._seed, self._path = seed, path
        self._state: _RandomState | None = None

    @contextmanager
    def resume(self) -> Iterator[None]:
        """Run the block on these states, and restore the others afterwards."""
        outside = _RandomState.now(CPU, ())
        if self._state is None:
            self.restart()
        else:
            self._state.set()
        try:
            yield
        finally:
            self._state = _RandomState.now(CPU, ())
            outside.set()

    def restart(self, *path: object) -> None:
        """Start the states anew, by further names and numbers, inside a block."""
        state = _state(self._seed, (*self._path, *path))
        torch.default_generator.manual_seed(state)
        random.seed(state)
        np.random.seed(state % 2**32)  # noqa: NPY002 (what transforms of data draw from)


class RepeatedDraws:
    """Let several passes draw the same random numbers, whatever layers or functions draw them.

    The first pass draws as usual. Each later one starts from the random state that the first one started from, and
    leaves the state as it found it. This covers torch's generators of the CPU and of the input's device, generators that
    a module holds as attributes, Python's own and numpy's.

    Example:
        >>> draws, like = RepeatedDraws(), torch.zeros(1)
        >>> with draws.repeat(like):
        ...     first = torch.rand(3)
        >>> with draws.repeat(like):
        ...     second = torch.rand(3)
        >>> torch.equal(first, second)
        True
    """

    def __init__(self) -> None:
        self._start: _RandomState | None = None

    @contextmanager
    def repeat(self, like: Tensor, model: object = None) -> Iterator[bool]:
        """Run the block with the draws of the first block.

        Args:
            like: A tensor on the device on which the block draws.
            model: The module that draws.

        Yields: True in every block after the first.
        """
        if self._start is None:
            self._start = _RandomState.now(like.device, _generators_of(model))
            yield False
            return
        now = _RandomState.now(like.device, [generator for generator, _ in self._start.own])
        self._start.set()
        try:
            yield True
        finally:
            now.set()


@dataclass(frozen=True)
class _RandomState:
    """The states of all generators that a forward pass may draw from."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None
    python: tuple[object, ...]
    numpy: Any
    own: tuple[tuple[torch.Generator, Tensor], ...]

    @classmethod
    def now(cls, device: torch.device, own: Sequence[torch.Generator]) -> "_RandomState":
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        states = tuple((generator, generator.get_state()) for generator in own)
        return cls(torch.get_rng_state(), device, on_device, random.getstate(), np.random.get_state(), states)  # noqa: NPY002

    def set(self) -> None:
        torch.set_rng_state(self.cpu)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)
        for generator, state in self.own:
            generator.set_state(state)


def _generators_of(model: object) -> list[torch.Generator]:
    """Return the generators that modules hold as attributes."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    own = [module for module in modules if not type(module).__module__.startswith("torch.nn.")]  # those hold none
    held = (value for module in own for value in vars(module).values())
    return list({id(value): value for value in held if isinstance(value, torch.Generator)}.values())


def uniform(like: Tensor, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    """Return one draw from U(low, high) per entry of `like`, on its device and in its precision.

    Args:
        like: Gives shape, device and precision.
        low: Lower end.
        high: Upper end.
        generator: Source of the draws.
    """
    return (low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)).to(like)


def normal(like: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return one draw from N(0, 1) per entry of `like`, on its device and in its precision.

    Args:
        like: Gives shape, device and precision.
        generator: Source of the draws.
    """
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def integers(shape: Sequence[int], low: int, high: int, *, generator: torch.Generator) -> Tensor:
    """Return random integers from low (included) to high (excluded), on the CPU.

    Args:
        shape: Shape of the result.
        low: Smallest integer.
        high: Integer above the largest.
        generator: Source of the draws.
    """
    return torch.randint(low, high, tuple(shape), generator=generator)


def permutation(count: int, *, generator: torch.Generator) -> Tensor:
    """Return the numbers 0 to count - 1 in random order, on the CPU.

    Args:
        count: How many.
        generator: Source of the draws.
    """
    return torch.randperm(count, generator=generator)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """Return a numpy generator seeded by the next draw of a torch generator, for functions of scipy.

    Args:
        generator: Source of the seed.
    """
    return np.random.default_rng(int(integers((), 0, 2**62, generator=generator)))


@dataclass(frozen=True)
class Streams:
    """One random stream per example: draws depend only on the example and on the name of the draw.

    The other examples in the batch, their order and earlier draws change nothing, so examples may move to another batch.
    Each number is SplitMix64 of its key and its position, in integer arithmetic that is the same on every device. There is
    no state: the same name gives the same numbers.

    Args:
        keys: One 64-bit integer per example, shape (batch,).

    Example:
        >>> x = torch.rand(4, 3, generator=stream(0))
        >>> draws = example_streams(stream(1), x, torch.zeros(4, dtype=torch.long)).at("start").uniform(x, 0, 1)
        >>> again = example_streams(stream(1), x[[2]], torch.zeros(1, dtype=torch.long)).at("start").uniform(x[[2]], 0, 1)
        >>> torch.equal(draws[[2]], again)
        True

    Reference: Steele, Lea and Flood 2014 (SplitMix).
    """

    keys: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> "Streams":
        """Return the streams of some of the examples.

        Args:
            rows: Indices of the examples.
        """
        return Streams(self.keys[rows])

    def at(self, *path: object) -> "Streams":
        """Return the streams of a name below these.

        Args:
            *path: Names and numbers, as in `stream`.
        """
        return Streams(_mix(self.keys ^ _state(0, path)))

    def at_each(self, numbers: Tensor) -> "Streams":
        """Return the streams below these of one integer per example, such as its own step.

        Args:
            numbers: Integers, shape (batch,).
        """
        return Streams(_mix(self.keys ^ _mix(numbers.to(self.keys) * _ODD + _ODD)))

    def uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        """Return one draw from U(low, high) per entry of `like`, in its precision.

        Args:
            like: Gives shape (batch, ...) and precision.
            low: Lower end.
            high: Upper end.
        """
        return self._unit(like, 0).mul_(high - low).add_(low).to(like.dtype)

    def normal(self, like: Tensor) -> Tensor:
        """Return one draw from N(0, 1) per entry of `like`, by the Box-Muller method.

        Args:
            like: Gives shape (batch, ...) and precision.
        """
        distance = (-2 * (1 - self._unit(like, 0)).log()).sqrt()  # 1 - u is never 0
        return (distance * (2 * math.pi * self._unit(like, 1)).cos()).to(like.dtype)

    def signs(self, like: Tensor) -> Tensor:
        """Return -1 or 1 with equal probability per entry of `like`.

        Args:
            like: Gives shape (batch, ...) and precision.
        """
        return torch.where(self._unit(like, 0) < 0.5, -1, 1).to(like.dtype)

    def _unit(self, like: Tensor, index: int) -> Tensor:
        """Return uniform draws in [0, 1) with 53 bits each."""
        count = like[:1].numel() if len(like) else 0
        bits = _mix(self.keys[:, None] + (torch.arange(count, device=self.keys.device) * 2 + index + 1) * _ODD)
        return _shift_right(bits, 11).double().mul_(2.0**-53).reshape(like.shape)


def example_streams(generator: torch.Generator, x: Tensor, y: Tensor) -> Streams:
    """Return one stream per example, keyed by its pixels in single precision and its label, not by its position.

    Args:
        generator: Gives one draw, which seeds all streams.
        x: Inputs, shape (batch, ...).
        y: Labels, shape (batch,).
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    pixels = (x.detach().float() + 0.0).flatten(1).contiguous()  # + 0 makes -0 the same as 0
    bits = pixels.view(torch.int32).long()
    weights = _mix(torch.arange(1, bits.shape[1] + 1, device=x.device) * _ODD) | 1
    return Streams(_mix((bits * weights).sum(1) + y.long() * _ODD) ^ seed)


_ODD = -7046029254386353131  # 0x9e3779b97f4a7c15, the fraction of the golden ratio, as a signed number


def _mix(z: Tensor) -> Tensor:
    """Apply SplitMix64's mixing function to signed 64-bit integers, which wrap around."""
    if z.is_cpu and z.ndim:  # numpy has unsigned integers, and is faster where they are few
        bits: Any = z.numpy().view(np.uint64)
        for shift, factor in (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB):
            bits = (bits ^ (bits >> shift)) * factor
        return torch.from_numpy((bits ^ (bits >> 31)).view(np.int64))
    z = _shift_right(z, 30).bitwise_xor_(z).mul_(-4658895280553007687)  # 0xbf58476d1ce4e5b9
    z = _shift_right(z, 27).bitwise_xor_(z).mul_(-7723592293110705685)  # 0x94d049bb133111eb
    return _shift_right(z, 31).bitwise_xor_(z)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift the bits right and fill with zeros, also where the sign bit is set, in new memory."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _state(seed: int, path: tuple[object, ...]) -> int:
    name = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
