"""One step from a random point, whatever the loss is there: attacks to train with, at the price of one gradient."""

import math
from dataclasses import dataclass

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import Ball, Norm
from lowcurve.attacks.base import BallAttack, Options
from lowcurve.attacks.state import prepare
from lowcurve.errors import InputError
from lowcurve.losses import log_odds
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels, Loss


@dataclass(frozen=True)
class OneStep(BallAttack):
    """x' = P(x + n + length * steepest(grad l(x + n))), n uniform in the ball of `noise`, P into the ball of `reach` and into
    the pixel box.

    It looks once and believes what it saw, so it judges no network: where the step lowers the loss its answer is worse than
    x. `FGSM` and `PGD(steps=1)` look again, for a forward pass more, and return the better of start and end; training
    with them is another training, just where a network begins to overfit to the step.

    ball: norm, radius and pixel box. noise, length, reach: in radii; x + n is moved into the box before the look. By
    default FGSM's step from x itself. loss: by default `log_odds`, whose steepest direction is that of cross-entropy
    without its underflow. The true label is used, parameters receive no gradient, the model is in eval mode meanwhile.

    Called: radius, one an example, takes the place of the ball's. Cost: one input gradient (two forward passes' worth).

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> OneStep("linf", 0.1)(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Goodfellow et al. 2015, section 4.
    """

    takes_radius = True
    noise: float = 0.0
    length: float = 1.0
    reach: float = 1.0
    loss: Loss = log_odds

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.noise, self.length, self.reach)
        if not all(math.isfinite(share) and share >= 0 for share in shares):
            raise InputError("noise, length and reach of 0 radii or more", shares, "write OneStep(ball, noise=1.0)")

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        with frozen(model):
            images = prepare(model, x, y, self.ball, options, look=False)
            noise, size, reach = (share * images.radius for share in (self.noise, self.length, self.reach))
            start = self.ball.sample(x, images.streams.at("start"), noise)
            slope = gradient(lambda at: self.loss(images.look(at), y), start)
            return ascent_step(start, slope, x, self.ball, size=size, radius=reach)


def RSFGSM(norm: Norm | str | Ball, radius: float | None = None, *, box: tuple[float, float] = (0.0, 1.0)) -> OneStep:
    """x' = P(x + n + 1.25 radius steepest(grad l(x + n))), n uniform in the ball, P back into it: the attack of fast
    adversarial training.

    Example:
        >>> RSFGSM("linf", 0.1).length
        1.25

    Reference: Wong et al. 2020, Algorithm 3.
    """
    return OneStep(norm, radius, noise=1.0, length=1.25, box=box)


def NFGSM(
    norm: Norm | str | Ball, radius: float | None = None, *, noise: float = 2.0, box: tuple[float, float] = (0.0, 1.0)
) -> OneStep:
    """x' = x + n + radius * steepest(grad l(x + n)) in the pixel box, n uniform in the ball of `noise` radii.

    It leaves the ball by design and goes up to (noise + 1) radii from x: more noise together with no projection was found to
    keep networks from overfitting to the step. So train with it; what falls at its points may stand in the ball.

    Example:
        >>> NFGSM("linf", 0.1).reach
        3.0

    Reference: de Jorge et al. 2022 (N-FGSM).
    """
    return OneStep(norm, radius, noise=noise, reach=noise + 1, box=box)
