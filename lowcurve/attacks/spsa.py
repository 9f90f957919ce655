"""Simultaneous perturbation: projected ascent along gradients that are estimated from logits alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import per_example
from lowcurve.attacks.active_set import strongest
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import Images, Rows, Walk
from lowcurve.attacks.targets import Target, aim, require_target
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.types import Inputs, Logits, Loss, PerExample

DECAY, DECAY_OF_SQUARES = 0.9, 0.999


@dataclass(frozen=True)
class SPSA(BallAttack):
    """x' = the point of highest loss on an ascent by Adam, projected into the ball, along the estimated gradient

        g = mean over v of v (l(p + delta v) - l(p - delta v)) / (2 delta),   v_i = -1 or 1, each as likely,

    at the current point p. No derivative is taken, so a network whose gradients are hidden by rounding or saturation is
    attacked like any other: where this fools what PGD does not, gradients are masked. The estimate is unbiased for the
    mean slope of l within delta; its variance falls as 1 / draws.

    ball: norm, radius and pixel box. delta, learning_rate: in pixel units; each step moves a pixel by about the learning
    rate, so steps * learning_rate should exceed an l_inf radius. The queries p + delta v may leave ball and box by delta
    a pixel (their center p does not): clipping them would bias the estimate wherever a pixel is black or white. loss,
    target: as in `PGD`. rows: at most so many inputs in one forward pass; the answer does not depend on it.

    Called: radius, one an example, takes the place of the ball's; start, of x's shape, that of x as the first point.
    Cost: steps * (2 draws + 1) forward passes; no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = SPSA("linf", 0.1)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Uesato et al. 2018, Algorithm 1; moosavi2019cure, Figure 7.
    """

    takes_radius = takes_start = True
    steps: int = 20
    draws: int = 64
    delta: float = 0.01
    learning_rate: float = 0.01
    loss: Loss = margin_loss
    target: Target = None
    rows: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.draws < 1 or self.rows < 1:
            found = (self.steps, self.draws, self.rows)
            raise InputError("at least one step, one draw and one row", found, "write SPSA(ball, steps=20, draws=64)")
        for name, length in (("delta", self.delta), ("learning_rate", self.learning_rate)):
            if not (math.isfinite(length) and length > 0):
                raise InputError(f"a finite {name} above 0 in pixel units", length, f"write {name}=0.01")
        require_target(self.target)

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk."""
        return (self,)

    perturb = strongest

    def begin(self, images: Images) -> Rows:
        """x itself, or the given start."""
        point = images.x if images.start is None else self.ball.project(images.start, images.x, images.radius)
        return {"point": point, "mean": torch.zeros_like(point), "square": torch.zeros_like(point)}

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """One step of Adam along the estimate."""
        point = rows["point"]
        with torch.no_grad():
            logits = images.look(point)
        slope = self.slope(images, rows)
        mean = DECAY * rows["mean"] + (1 - DECAY) * slope
        square = DECAY_OF_SQUARES * rows["square"] + (1 - DECAY_OF_SQUARES) * slope.square()
        count = per_example(rows["step"] + 1, point).to(point)
        length = (square / (1 - DECAY_OF_SQUARES**count)).sqrt()
        move = mean / (1 - DECAY**count) / torch.where(length > 0, length, 1) * (length > 0)
        point = self.ball.project(point + self.learning_rate * move, images.x, images.radius)
        return logits, {"point": point, "mean": mean, "square": square}

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The loss, or that of the target lowered."""
        return aim(self.loss, self.target, images, logits)

    def slope(self, images: Images, rows: Rows) -> Tensor:
        """The estimate of the gradient at rows["point"], from 2 draws forward passes of at most `rows` inputs."""
        most = max(1, self.rows // 2)
        parts = torch.split(torch.arange(len(images), device=images.x.device), most)
        return torch.cat([self._slope(images.take(p), rows["point"][p], rows["step"][p]) for p in parts])

    def _slope(self, images: Images, point: Inputs, step: Tensor) -> Tensor:
        """The same for so few images that a pair of queries for each fits into one forward pass."""
        together, everyone = max(1, self.rows // (2 * len(images))), torch.arange(len(images), device=point.device)
        streams, total = images.streams.at("directions").at_each(step), torch.zeros_like(point)
        for first in range(0, self.draws, together):
            draws = torch.arange(first, min(first + together, self.draws), device=point.device)
            rows = everyone.repeat(len(draws))
            signs = streams.take(rows).at_each(draws.repeat_interleave(len(images))).signs(point[rows])
            signs = signs.view(len(draws), *point.shape)
            queries = torch.cat((point + self.delta * signs, point - self.delta * signs)).flatten(0, 1)
            several = images.take(rows.repeat(2))
            with torch.no_grad():
                values = self.value(several, queries, images.look(queries))
            there, back = values.view(2, len(draws), len(images))
            # One by one, so that the sum does not depend on how many are looked at together.
            for sign, difference in zip(signs, there - back, strict=True):
                total += per_example(difference, point) * sign
        return total / (2 * self.delta * self.draws)
