"""Attacks of one gradient step from a random point, to train with."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import Ball, Norm
from lowcurve.attacks.acceptance import Region, accept
from lowcurve.attacks.base import BallAttack, Options, as_batch
from lowcurve.attacks.state import AttackBatch, prepare, usable_gradient
from lowcurve.errors import InputError
from lowcurve.losses import evaluate_loss, log_odds
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled
from lowcurve.types import Classifier, Inputs, Labels, Loss, PerExample


@dataclass(frozen=True)
class OneStep(BallAttack):
    """One step of steepest ascent from a random point, without a check that the loss has risen.

    x' = P(x + n + length * steepest(grad l(x + n))). The noise n is uniform in the ball of `noise` radii, and P projects
    into the ball of `reach` radii and the pixel box.

    Do not judge a network by this attack: where the step lowers the loss, its answer is worse than x. `FGSM` and
    `PGD(..., steps=1)` evaluate the end as well, for one more forward pass, and return the better point. Training with
    them differs just where a network begins to overfit to the step. The true label is used, parameters receive no
    gradient, and the model is in eval mode during the attack. A radius for each image may be given in the call.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        noise: Length of the random start, in radii. The gradient is taken at x + n, clipped to the box.
        length: Length of the step, in radii.
        reach: Largest distance from x, in radii.
        loss: Loss to maximize. `log_odds` has the steepest direction of cross-entropy without its underflow.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a length is negative or not finite.

    Cost: one input gradient, which is about two forward passes.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> OneStep("linf", 0.1)(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Goodfellow et al. 2015, section 4.
    """

    takes_radius = True
    keeps_mode: ClassVar[bool] = False
    """True if `with_slope` leaves the network in the mode in which it is given. All attacks called alone see eval mode."""
    noise: float = 0.0
    length: float = 1.0
    reach: float = 1.0
    loss: Loss = log_odds

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.noise, self.length, self.reach)
        if not all(math.isfinite(share) and share >= 0 for share in shares):
            raise InputError("noise, length and reach of 0 radii or more", shares, "write OneStep(ball, noise=1.0)")

    @property
    def region(self) -> Region:
        """The ball of `reach` radii, in the box."""
        return Region(self.ball.norm, self.reach * self.ball.radius, self.ball.box, self.reach)

    @gradients_enabled()
    def with_slope(
        self,
        model: Classifier,
        x: Inputs,
        y: Labels,
        *,
        generator: torch.Generator,
        radius: PerExample | None = None,
    ) -> tuple[Inputs, Tensor]:
        """Return the adversarial images x', and the gradient grad l(x + n) of the step, both of x's shape.

        Args:
            model: As in a call of the attack.
            x: As in a call of the attack.
            y: As in a call of the attack.
            generator: As in a call of the attack.
            radius: As in a call of the attack.
        """
        x, y = as_batch(model, x, y)
        point, slope = self._step(model, x, y, Options(generator, radius), evaluates=not self.keeps_mode)
        return accept(self, x, point, radius)[0], slope

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        return self._step(model, x, y, options)[0]

    def _step(
        self, model: Classifier, x: Inputs, y: Labels, options: Options, *, evaluates: bool = True
    ) -> tuple[Inputs, Tensor]:
        with frozen(model, evaluates=evaluates):
            batch = prepare(model, x, y, self.ball, options, clean_logits=False)
            start = self.ball.sample(x, batch.streams.at("start"), self.noise * batch.radius)
            slope = gradient(lambda at: evaluate_loss(self.loss, batch.evaluate(at), y), start)
            slope = usable_gradient(model, slope)
            return self._move(batch, start, slope), slope

    def _move(self, batch: AttackBatch, start: Inputs, slope: Tensor) -> Inputs:
        size, reach = self.length * batch.radius, self.reach * batch.radius
        return ascent_step(start, slope, batch.x, self.ball, size=size, radius=reach)


def RSFGSM(norm: Norm | str | Ball, radius: float | None = None, *, box: tuple[float, float] = (0.0, 1.0)) -> OneStep:
    """Return FGSM from a random start, the attack of fast adversarial training.

    x' = P(x + n + 1.25 radius steepest(grad l(x + n))), with n uniform in the ball and P the projection into it.

    Args:
        norm: As in `OneStep`.
        radius: As in `OneStep`.
        box: As in `OneStep`.

    Returns:
        A `OneStep`.

    Cost: one input gradient.

    Example:
        >>> RSFGSM("linf", 0.1).length
        1.25

    Reference: Wong et al. 2020, Algorithm 3.
    """
    return OneStep(norm, radius, noise=1.0, length=1.25, box=box)


def NFGSM(
    norm: Norm | str | Ball, radius: float | None = None, *, noise: float = 2.0, box: tuple[float, float] = (0.0, 1.0)
) -> OneStep:
    """Return N-FGSM: a step of one radius from a point with more noise, without projection into the ball.

    x' = x + n + radius * steepest(grad l(x + n)) in the pixel box, with n uniform in the ball of `noise` radii.

    The answer leaves the ball by design, up to (noise + 1) radii from x. More noise without projection was found to keep
    networks from overfitting to the step. Use it to train, not to evaluate.

    Args:
        norm: As in `OneStep`.
        radius: As in `OneStep`.
        noise: Length of the random start, in radii.
        box: As in `OneStep`.

    Returns:
        A `OneStep`.

    Cost: one input gradient.

    Example:
        >>> NFGSM("linf", 0.1).reach
        3.0

    Reference: de Jorge et al. 2022 (N-FGSM).
    """
    return OneStep(norm, radius, noise=noise, reach=noise + 1, box=box)
