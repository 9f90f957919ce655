"""Naive and adaptive attacks of the panel, in plain torch: they judge the audit, so they share no code with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import Ball

PerImage = Callable[[Tensor, Tensor], Tensor]
DRAWS = 32
"""Draws of a random network over which an answer is judged."""


def PLAIN(z: Tensor, y: Tensor) -> Tensor:
    """Return torch's cross-entropy, which saturates."""
    return F.cross_entropy(z, y, reduction="none")


def behind(z: Tensor, y: Tensor) -> Tensor:
    """Return by how much the best other logit exceeds the label's."""
    others = z.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - z.gather(1, y[:, None])[:, 0]


def _length(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1).view(-1, *[1] * (v.ndim - 1)).clamp_min(1e-20)


def _in_l1(away: Tensor, radius: float) -> Tensor:
    """Return the nearest differences whose absolute values add up to the radius at most."""
    size = away.flatten(1).abs()
    down = size.sort(1, descending=True).values
    over = (down.cumsum(1) - radius) / torch.arange(1, size.shape[1] + 1)
    last = (down > over).sum(1, keepdim=True).clamp_min(1)
    less = over.gather(1, last - 1).clamp_min(0)
    return (away.flatten(1).sign() * (size - less).clamp_min(0)).view_as(away)


def _upward(up: Tensor, ball: Ball) -> Tensor:
    """Return a step of length 1 in the ball's norm; in l_1 along a twentieth of the pixels."""
    if ball.norm.name == "l_2":
        return up / _length(up)
    if ball.norm.name == "l_inf":
        return up.sign()
    size = up.flatten(1).abs()
    count = max(1, size.shape[1] // 20)
    least = size.topk(count, 1).values[:, -1:]
    return (torch.where(size >= least, up.flatten(1).sign(), 0) / count).view_as(up)


def inside(near: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Return the points, moved into ball and box."""
    away = near - x
    if ball.norm.name == "l_1":
        away = _in_l1(away, ball.radius)
    elif ball.norm.name == "l_2":
        away = away * (ball.radius / _length(away)).clamp_max(1)
    else:
        away = away.clamp(-ball.radius, ball.radius)
    return (x + away).clamp(*ball.box)


def slope(model: nn.Module, x: Tensor, y: Tensor, loss: PerImage) -> Tensor:
    """Return the gradient of the loss, 0 where there is none."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = loss(model(x), y).sum()
        if not value.requires_grad:
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(value, x, allow_unused=True)
    return torch.zeros_like(x) if found is None else found.detach().nan_to_num(0, 0, 0)


def follow(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    steps: int,
    loss: PerImage,
    size: float | None = None,
    start: bool = True,
    spread: float = 1.0,
    way: Callable[[Tensor], Tensor] | None = None,
    visit: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return the last point of projected gradient ascent.

    Args:
        model: The network whose gradient is followed.
        x: Images.
        y: Labels.
        ball: Norm, radius and pixel box.
        steps: Number of steps.
        loss: Loss per image.
        size: Length of a step in radii; by default 2.5 / steps.
        start: Start at a random point.
        spread: Distance of the start, in radii.
        way: Function that gives the direction at a point, instead of the gradient.
        visit: Called with every point.
    """
    near, size = x, 2.5 / steps if size is None else size
    if start:
        near = inside(x + spread * ball.radius * (2 * torch.rand_like(x) - 1), x, ball)
    for _ in range(steps):
        up = way(near) if way else slope(model, near, y, loss)
        near = inside(near + size * ball.radius * _upward(up, ball), x, ball)
        if visit:
            visit(near)
    return near.detach()


@dataclass(frozen=True)
class Way:
    """One way to attack a defended network: through a twin with a better gradient.

    Args:
        twin: Network whose gradient is followed.
        draws: Passes over which the gradient is averaged.
        jitter: Standard deviation of the noise of these passes, in radii.
        penalty: Number per image that the attack also keeps low, such as a detector's.
    """

    twin: nn.Module
    draws: int = 1
    jitter: float = 0.0
    penalty: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, y: Tensor, ball: Ball, loss: PerImage) -> Callable[[Tensor], Tensor]:
        """Return the function from points to directions."""

        def mean(near: Tensor) -> Tensor:
            per_pixel = ball.radius / (x[0].numel() ** 0.5 if ball.norm.name == "l_2" else 1.0)
            draws = (near + self.jitter * per_pixel * torch.randn_like(near) for _ in range(self.draws))
            up = torch.stack([slope(self.twin, draw, y, loss) for draw in draws]).mean(0)
            if self.penalty is None:
                return up
            penalty = self.penalty
            return up / _length(up) - slope(lambda at: penalty(at), near, y, lambda value, _: value)  # type: ignore[arg-type]

        return mean


def is_right(model: nn.Module, x: Tensor, y: Tensor, draws: int = 1) -> Tensor:
    """Return for each image in how large a share of draws it is classified correctly."""
    with torch.no_grad():
        return torch.stack([(model(x).argmax(1) == y).float() for _ in range(draws)]).mean(0)


def naive(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, steps: int = 20, draws: int = 1) -> Tensor:
    """Return how robust each image is under PGD on cross-entropy from one start, or under FGSM with `steps` = 1."""
    settings = {"size": 1.0, "start": False} if steps == 1 else {}
    near = follow(model, x, y, ball, steps=steps, loss=PLAIN, **settings)
    return torch.minimum(is_right(model, x, y, draws), is_right(model, near, y, draws))


def adaptive(
    model: nn.Module,
    ways: Sequence[Way],
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    steps: int = 60,
    restarts: int = 2,
    random: bool = False,
) -> Tensor:
    """Return how robust each image is under attacks made for this network; the worst of all ways, losses and starts.

    Every point on the way of a deterministic network is tried. Of a random one the last points are compared over draws, and the
    worst is judged by new draws.
    """
    draws = DRAWS if random else 1
    best, worst = is_right(model, x, y, draws), x.clone()
    for way in ways:
        for loss in (behind, PLAIN):
            for _ in range(restarts):
                best, worst = _improve(model, way, loss, x, y, ball, steps, draws, best, worst)
    return torch.minimum(is_right(model, x, y, draws), is_right(model, worst, y, draws)) if random else best


def _improve(
    model: nn.Module, way: Way, loss: PerImage, x: Tensor, y: Tensor, ball: Ball, steps: int, draws: int,
    best: Tensor, worst: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    left = best.nonzero()[:, 0] if draws == 1 else torch.arange(len(x))
    if not len(left):
        return best, worst
    best, worst, few, labels = best.clone(), worst.clone(), x[left], y[left]

    def visit(near: Tensor) -> None:
        right = is_right(model, near, labels, draws)
        better = right < best[left]
        best[left], worst[left] = (
            torch.minimum(best[left], right),
            torch.where(better.view(-1, 1, 1, 1), near, worst[left]),
        )

    last = follow(
        model,
        few,
        labels,
        ball,
        steps=steps,
        loss=loss,
        way=way(few, labels, ball, loss),
        visit=visit if draws == 1 else None,
    )
    visit(last)
    return best, worst
