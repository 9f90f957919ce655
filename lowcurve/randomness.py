"""The one door of chance: named streams, and draws that mean the same on every device.

Laws: the same seed and path give the same numbers everywhere, because draws are made on the CPU and moved; and the
global random state of torch is the same after every function of this package as before it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
def temporary_seed(seed: int, *path: object) -> Iterator[None]:
    """Inside, torch's global generators start from (seed, path); afterwards they are as they were.

    For code that can only draw from the global state: initial weights of modules, dropout.

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


@dataclass(frozen=True)
class Streams:
    """One stream an example: draws that depend on the example and on the name of the draw, on nothing else.

    keys: one 64-bit integer an example. Which other examples stand in the batch, in which order, and what was drawn
    before, changes nothing, so examples may leave a batch and join another. Each number is SplitMix64 of its key and its
    place, integer arithmetic that every device does alike; nothing is kept, and the same name gives the same numbers.

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
        """The streams of some of the examples."""
        return Streams(self.keys[rows])

    def at(self, *path: object) -> "Streams":
        """The streams of that name under these."""
        return Streams(_mixed(self.keys ^ _state(0, path)))

    def at_each(self, numbers: Tensor) -> "Streams":
        """As `at`, with a whole number for every example: its own step, say."""
        return Streams(_mixed(self.keys ^ _mixed(numbers.to(self.keys) * _ODD + _ODD)))

    def uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        """One draw from U(low, high) per entry of `like` (examples, ...), on its device and in its precision."""
        return self._unit(like, 0).mul_(high - low).add_(low).to(like.dtype)

    def normal(self, like: Tensor) -> Tensor:
        """One draw from N(0, 1) per entry of `like` (examples, ...), by Box and Muller."""
        distance = (-2 * (1 - self._unit(like, 0)).log()).sqrt()  # 1 - u is never 0
        return (distance * (2 * math.pi * self._unit(like, 1)).cos()).to(like.dtype)

    def signs(self, like: Tensor) -> Tensor:
        """-1 or 1 per entry of `like`, each as likely."""
        return torch.where(self._unit(like, 0) < 0.5, -1, 1).to(like.dtype)

    def _unit(self, like: Tensor, which: int) -> Tensor:
        """Uniform in [0, 1), 53 bits each."""
        count = like[:1].numel() if len(like) else 0
        places = torch.arange(count, device=self.keys.device) * 2 + which
        bits = _mixed(self.keys[:, None] + (places + 1) * _ODD)
        return _shifted(bits, 11).double().mul_(2.0**-53).reshape(like.shape)


def example_streams(generator: torch.Generator, x: Tensor, y: Tensor) -> Streams:
    """The streams of these examples under one draw from the generator.

    An example is known by its pixels (in single precision) and its label, not by its place.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    pixels = (x.detach().float() + 0.0).flatten(1).contiguous()  # + 0 makes -0 the same as 0
    bits = pixels.view(torch.int32).long()
    weights = _mixed(torch.arange(1, bits.shape[1] + 1, device=x.device) * _ODD) | 1
    return Streams(_mixed((bits * weights).sum(1) + y.long() * _ODD) ^ seed)


_ODD = -7046029254386353131  # 0x9e3779b97f4a7c15, the golden ratio's fraction, as a signed number


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's mixing function on signed 64-bit integers, which wrap around."""
    z = _shifted(z, 30).bitwise_xor_(z).mul_(-4658895280553007687)  # 0xbf58476d1ce4e5b9
    z = _shifted(z, 27).bitwise_xor_(z).mul_(-7723592293110705685)  # 0x94d049bb133111eb
    return _shifted(z, 31).bitwise_xor_(z)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """The bits moved right, with zeros from the left also where the sign bit is set, in memory of its own."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _state(seed: int, path: tuple[object, ...]) -> int:
    name = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
