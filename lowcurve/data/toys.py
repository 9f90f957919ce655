"""Data sets without a download: small real images, the same in color, and points of the plane."""

import gzip
from importlib import resources

import numpy as np
import torch

from lowcurve.data.examples import DataSet, Examples
from lowcurve.errors import InputError
from lowcurve.randomness import integers, stream, uniform


def digits(seed: int = 0) -> DataSet:  # noqa: ARG001 (called like every other source; the split must not depend on it)
    """Load 1,797 handwritten digits, real 8x8 images of 17 grey levels: 1,257 training, 180 validation, 360 test images.

    The split is stratified by class and the same for every seed. digits_split.txt holds it, a letter for each image: t for
    training, v for validation, s for test.

    Example:
        >>> data = digits()
        >>> data.shape, len(data.train), len(data.validation), len(data.test)
        ((1, 8, 8), 1257, 180, 360)

    digits.csv.gz is scikit-learn's copy of the UCI data (licence CC BY 4.0).

    Reference: Alpaydin & Kaynak 1998, Optical recognition of handwritten digits (UCI).
    """
    x, y = _read_digits()
    part = np.array(list(resources.files("lowcurve.data").joinpath("digits_split.txt").read_text().replace("\n", "")))
    images = torch.from_numpy(x).to(torch.float32).view(-1, 1, 8, 8) / 16
    whole = Examples(images, torch.from_numpy(y).to(torch.int64), tuple("0123456789"))
    note = "Handwritten digits of scikit-learn (8x8, real), split by class once and for all: 1,257 / 180 / 360."
    train, validation, test = (whole.take(torch.from_numpy(np.flatnonzero(part == name))) for name in "tvs")
    return DataSet("digits", train, validation, test, note)


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (1797, 64) and labels."""
    with (
        resources.files("lowcurve.data").joinpath("digits.csv.gz").open("rb") as packed,
        gzip.open(packed, "rt") as file,
    ):
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]


def colored_digits(seed: int = 0) -> DataSet:
    """Load the digits in color: the hue is 36 degrees times the digit, plus or minus 12, at a saturation of 0.8.

    A network may use shape or color; a change of color shows which. Each seed draws new hues.

    Example:
        >>> data = colored_digits()
        >>> data.shape, len(data.train)
        ((3, 8, 8), 1257)
        >>> torch.equal(data.test.x.amax(1, keepdim=True), digits().test.x)  # hue and saturation keep the value
        True
    """
    gray = digits()

    def colored(part: Examples, name: str) -> Examples:
        x = part.x[:]
        turns = uniform(x[:, :, :1, :1], -12, 12, generator=stream(seed, "colored digits", name))
        sextant = (36 * part.y.view(-1, 1, 1, 1) + turns) / 60
        place = (torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1) + sextant) % 6
        color = 1 - 0.8 * torch.minimum(place, 4 - place).clamp(0, 1)
        return Examples(x * color, part.y, part.classes)

    note = f"{gray.note} Each class has its own hue, with deviations drawn from seed {seed}."
    train, validation, test = (colored(getattr(gray, name), name) for name in ("train", "validation", "test"))
    return DataSet("colored-digits", train, validation, test, note)


def two_moons(seed: int = 0, count: int = 2000, noise: float = 0.1) -> DataSet:
    """Draw points around two interleaved half circles in [0, 1]^2: 65 % training, 10 % validation, 25 % test points.

    A point p of scikit-learn's `make_moons` becomes (p + (1.5, 1.75)) / 4, clipped to the square. The half circles then have
    centers (0.375, 0.4375) and (0.625, 0.5625) and radius 0.25. Each seed draws new points.

    Args:
        seed: Seed of the points.
        count: Number of points, at least 20.
        noise: Standard deviation of the noise in the units of `make_moons`; in the square it is noise / 4.

    Raises:
        InputError: If there are too few points, or the noise is negative.

    Example:
        >>> data = two_moons(noise=0.0)
        >>> upper = data.train.x[data.train.y == 0]
        >>> radii = (upper - torch.tensor([0.375, 0.4375])).norm(dim=1)
        >>> torch.testing.assert_close(radii, torch.full_like(radii, 0.25))
    """
    if count < 20:
        raise InputError("at least 20 points", count, "write count=2000")
    if not 0 <= noise < float("inf"):
        raise InputError("noise of 0 or more", noise, "write noise=0.1")
    points, y = _make_moons(count, noise, _seed_for_numpy(seed, "two moons"))
    x = np.clip((points + np.array([1.5, 1.75])) / 4, 0, 1)
    whole = Examples(torch.from_numpy(x).to(torch.float32), torch.from_numpy(y).to(torch.int64), ("upper", "lower"))
    test, validation = count // 4, count // 10
    cuts = (slice(test + validation, None), slice(test, test + validation), slice(test))
    note = f"{count:,} points on two half circles with noise {noise:g}, drawn from seed {seed}: 65 / 10 / 25 %."
    return DataSet("two-moons", whole.take(cuts[0]), whole.take(cuts[1]), whole.take(cuts[2]), note)


def _make_moons(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points and labels of scikit-learn's `make_moons`, bit for bit."""
    generator = np.random.RandomState(seed)
    upper, lower = np.linspace(0, np.pi, count // 2), np.linspace(0, np.pi, count - count // 2)
    across = np.append(np.cos(upper), 1 - np.cos(lower))
    points = np.vstack([across, np.append(np.sin(upper), 1 - np.sin(lower) - 0.5)]).T
    order = np.arange(count)
    generator.shuffle(order)
    y = np.repeat([0, 1], [len(upper), len(lower)])
    return points[order] + generator.normal(scale=noise, size=points.shape), y[order]


def _seed_for_numpy(seed: int, *path: object) -> int:
    """Return a seed for NumPy's generator, which then leaves the global random state alone."""
    return int(integers((), 0, 2**31, generator=stream(seed, *path)))
