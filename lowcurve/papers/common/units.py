"""Convert the papers' lengths and weights to this package's units, and quote the words they are read from.

The units here are pixels in [0, 1], l_2 or l_inf lengths of an image, and penalties as means over a batch.
"""

from dataclasses import dataclass

from lowcurve.analysis.norms import pixels
from lowcurve.results import Column, Table


@dataclass(frozen=True)
class Conversion:
    """A number of a paper in this package's units.

    Attributes:
        paper: Key of the paper.
        what: What the number is.
        words: The paper's words, quoted.
        ours: The number in our unit.
        unit: Our unit.
        how: Conversion, and gaps in the paper.
    """

    paper: str
    what: str
    words: str
    ours: float
    unit: str
    how: str


MNIST = 28 * 28
DEVIATION = 0.2010
"""Standard deviation of a CIFAR-10 channel: CURE's code divides by 0.2023, 0.1994 and 0.2010; this is the last."""

CONVERSIONS: tuple[Conversion, ...] = (
    Conversion(
        "moosavi2019cure", "radius of Table 1", "ε = 4 (images have pixel values in [0, 255])", pixels(4), "l_inf", "4 / 255"
    ),
    Conversion("moosavi2019cure", "radius of Table 2", "ε = 8 (pixel values are in [0, 255])", pixels(8), "l_inf", "8 / 255"),
    Conversion("moosavi2019cure", "radius of Table 3", "PGD(10) with ε = 12", pixels(12), "l_inf", "12 / 255"),
    Conversion(
        "moosavi2019cure", "h as printed", "we use a fixed value of h = 1.5 ... pixel values are in [0, 255]",
        pixels(1.5), "l_2", "1.5 / 255: a change of 0.03 grey levels per pixel, too small to measure curvature",
    ),
    Conversion(
        "moosavi2019cure", "h, in the released code", "h up to 3, in inputs divided by their standard deviation",
        3 * DEVIATION, "l_2", "3 times a standard deviation of 0.201: 2.8 grey levels per pixel; the recipes use this h",
    ),
    Conversion(
        "yu2018interpreting", "step on CIFAR-10", "step size = 0.1 on MNIST and 1 on CIFAR", pixels(1), "l_inf",
        "1 / 255; MNIST's 0.1 is in [0, 1] already",
    ),
    Conversion(
        "yu2018interpreting", "c on MNIST", "The gradient regularization coefficient c (in Eq. 12) is set to 500",
        500 / MNIST, "of the squared l_2 norm",
        "500 times the mean of the squared gradient over 784 pixels; the paper states neither norm nor reduction",
    ),
    Conversion(
        "yu2018interpreting", "zero of a Jacobian's entry", "10e-3", 10e-3, "of the margin per pixel", "0.01, as printed"
    ),
    Conversion(
        "srinivas2022lcnn", "radii of Table 2", "‖ε‖_2 = 0.05 ... 0.2", 0.2, "l_2",
        "the code has pixels in [0, 1] and normalizes nothing, so its radii are ours; 0.2 is the largest",
    ),
    Conversion(
        "srinivas2022lcnn", "weight of the gradient norm", "1e-3 · 1e5 / 128 times the squared norm of the mean loss' gradient",
        1e-3 * 1e5 / 128**2, "of the mean squared l_2 norm", "the code's weight is divided by the squared batch size, 128²",
    ),
    Conversion(
        "srinivas2022lcnn", "weight of its CURE", "1e-3 · 1e3 / 128 times the squared norm of the difference",
        1e-3 * 1e3 / 128**2, "of the mean squared l_2 norm", "as above; its h is 1 in l_2 pixel units",
    ),
    Conversion(
        "bardusco_report", "perturbation of Table 1", "distance to adversarial images 0.67", 0.67, "l_2",
        "the unit is not stated; we assume pixels in [0, 1]",
    ),
    Conversion(
        "fawzi2018topology", "spacing of samples on a path", "about four orders of magnitude below ‖x_1 − x_2‖", 1e-4,
        "of the distance between the ends", "1e-3 at the scale laptop",
    ),
)  # fmt: skip


def make_units_table() -> Table:
    """Make a table of all conversions.

    Example:
        >>> row = make_units_table().rows[1]
        >>> row[1], round(row[3] * 255)
        ('radius of Table 2', 8)
    """
    columns = (
        Column("paper"),
        Column("number"),
        Column("its words", "A quotation, or what the paper's code does."),
        Column("here", "In this package: pixels in [0, 1], penalties as means over images."),
        Column("unit"),
        Column("how"),
    )
    rows = tuple((one.paper, one.what, one.words, one.ours, one.unit, one.how) for one in CONVERSIONS)
    return Table("Units", columns, rows)
