"""The papers' lengths and weights in this package's units, each with the words that it was read from.

Units here: pixels in [0, 1], lengths in l_2 or l_inf of an image, penalties as means over the images of a batch.
"""

from dataclasses import dataclass

from lowcurve.analysis.norms import pixels
from lowcurve.results import Column, Table


@dataclass(frozen=True)
class Conversion:
    """A number of a paper in ours. words: the paper's, quoted; how: what was done to it, with what is not stated."""

    paper: str
    what: str
    words: str
    ours: float
    unit: str
    how: str


MNIST = 28 * 28
DEVIATION = 0.2010
"""Of a CIFAR-10 channel: the last of the three by which CURE's code divides, 0.2023, 0.1994 and 0.2010."""

CONVERSIONS: tuple[Conversion, ...] = (
    Conversion(
        "moosavi2019cure", "radius of Table 1", "ε = 4 (images have pixel values in [0, 255])", pixels(4), "l_inf", "4 / 255"
    ),
    Conversion("moosavi2019cure", "radius of Table 2", "ε = 8 (pixel values are in [0, 255])", pixels(8), "l_inf", "8 / 255"),
    Conversion("moosavi2019cure", "radius of Table 3", "PGD(10) with ε = 12", pixels(12), "l_inf", "12 / 255"),
    Conversion(
        "moosavi2019cure", "h, taken at its word", "we use a fixed value of h = 1.5 ... pixel values are in [0, 255]",
        pixels(1.5), "l_2", "1.5 / 255: a change of 0.03 grey levels a pixel, at which nothing curves",
    ),
    Conversion(
        "moosavi2019cure", "h, in the released code", "h up to 3, in inputs divided by their standard deviation",
        3 * DEVIATION, "l_2", "3 times a deviation of 0.201: 2.8 grey levels a pixel; the recipes take this one",
    ),
    Conversion(
        "yu2018interpreting", "step on CIFAR-10", "step size = 0.1 on MNIST and 1 on CIFAR", pixels(1), "l_inf",
        "1 / 255; MNIST's 0.1 is in [0, 1] already",
    ),
    Conversion(
        "yu2018interpreting", "c on MNIST", "The gradient regularization coefficient c (in Eq. 12) is set to 500",
        500 / MNIST, "of the squared l_2 norm",
        "500 times the mean over 784 pixels of the squared gradient; neither norm nor reduction is stated",
    ),
    Conversion(
        "yu2018interpreting", "zero of a Jacobian's entry", "10e-3", 10e-3, "of the margin a pixel", "0.01 as it is written"
    ),
    Conversion(
        "srinivas2022lcnn", "radii of Table 2", "‖ε‖_2 = 0.05 ... 0.2", 0.2, "l_2",
        "pixels are in [0, 1] in the code and nothing is standardized, so they are ours; 0.2 is the largest",
    ),
    Conversion(
        "srinivas2022lcnn", "weight of the gradient norm", "1e-3 · 1e5 / 128 times the squared norm of the mean loss' gradient",
        1e-3 * 1e5 / 128**2, "of the mean squared l_2 norm", "the code's weight falls with the square of the batch of 128",
    ),
    Conversion(
        "srinivas2022lcnn", "weight of its CURE", "1e-3 · 1e3 / 128 times the squared norm of the difference",
        1e-3 * 1e3 / 128**2, "of the mean squared l_2 norm", "the same, with h = 1 in l_2 pixel units",
    ),
    Conversion(
        "bardusco_report", "perturbation of Table 1", "distance to adversarial images 0.67", 0.67, "l_2",
        "the unit is not stated; pixels in [0, 1] are assumed",
    ),
    Conversion(
        "fawzi2018topology", "spacing of samples on a path", "about four orders of magnitude below ‖x_1 − x_2‖", 1e-4,
        "of the distance of the ends", "1e-3 is taken on a laptop",
    ),
)  # fmt: skip


def make_units_table() -> Table:
    """All conversions.

    Example:
        >>> row = make_units_table().rows[1]
        >>> row[1], round(row[3] * 255)
        ('radius of Table 2', 8)
    """
    columns = (
        Column("paper"),
        Column("number"),
        Column("its words", "Quoted, or what its code has."),
        Column("here", "Pixels in [0, 1]; penalties as means over images."),
        Column("unit"),
        Column("how"),
    )
    rows = tuple((one.paper, one.what, one.words, one.ours, one.unit, one.how) for one in CONVERSIONS)
    return Table("Units", columns, rows)
