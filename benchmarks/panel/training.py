"""Trainings of the panel, in plain torch, so that no fault of the package's training enters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import Ball
from panel.attacks import PLAIN, follow, slope
from panel.data import Data

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From network, images and labels to the mean loss of a step."""


def entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Fit:
    """A training with Adam and a rate that falls to 0.

    Args:
        epochs: Number of epochs.
        rate: Largest learning rate.
        loss: Loss of a step.
        batch: Images of a step.
    """

    epochs: int = 10
    rate: float = 3e-3
    loss: Loss = entropy
    batch: int = 64

    def __call__(self, model: nn.Module, data: Data) -> None:
        """Train the network in place and leave it in eval mode."""
        steps = self.epochs * -(-len(data.x) // self.batch)
        optimizer = torch.optim.Adam(model.parameters(), self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps)
        model.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(data.x)).split(self.batch):
                loss = self.loss(model, data.x[rows], data.y[rows])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
        model.eval()


def adversarial(ball: Ball, steps: int = 5) -> Loss:
    """Return the cross-entropy at points that PGD finds."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.eval()
        near = follow(model, x, y, ball, steps=steps, loss=PLAIN)
        model.train()
        return entropy(model, near, y)

    return loss


def one_step(ball: Ball) -> Loss:
    """Return the cross-entropy after one full step from the image: fast, and prone to catastrophic overfitting."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return entropy(model, follow(model, x, y, ball, steps=1, size=1.0, start=False, loss=PLAIN), y)

    return loss


def trades(ball: Ball, beta: float, *, noise: float = 1.0, steps: int = 5) -> Loss:
    """Return TRADES's loss. Its search starts `noise` radii from the image, where the gradient is 0."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        clean = model(x)
        target = clean.detach().softmax(1)

        def apart(z: Tensor, _: Tensor) -> Tensor:
            return F.kl_div(z.log_softmax(1), target, reduction="none").sum(1)

        near = follow(model, x, y, ball, steps=steps, loss=apart, spread=noise)
        return F.cross_entropy(clean, y) + beta * F.kl_div(
            model(near).log_softmax(1), clean.softmax(1), reduction="batchmean"
        )

    return loss


def input_gradient(weight: float) -> Loss:
    """Return the cross-entropy and the squared length of its input gradient."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        value = F.cross_entropy(model(x), y, reduction="sum")
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return value / len(x) + weight * slope.flatten(1).square().sum(1).mean()

    return loss


def curvature(weight: float, h: float) -> Loss:
    """Return the cross-entropy and the squared change of its gradient along the gradient's sign (CURE)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        def slope(at: Tensor, *, graph: bool) -> Tensor:
            at = at.detach().requires_grad_()
            total = F.cross_entropy(model(at), y, reduction="sum")
            return torch.autograd.grad(total, at, create_graph=graph)[0].flatten(1)

        z = F.normalize(slope(x, graph=False).sign(), dim=1).view_as(x)
        change = slope(x + h * z, graph=True) - slope(x, graph=True)
        return entropy(model, x, y) + weight * change.square().sum(1).mean()

    return loss


def smoothed_labels(share: float) -> Loss:
    """Return the cross-entropy with smoothed labels."""
    return lambda model, x, y: F.cross_entropy(model(x), y, label_smoothing=share)


def distilled(temperature: float, teacher: nn.Module) -> Callable[[nn.Module, Data], None]:
    """Return a training by defensive distillation: teacher and student are trained at a temperature and used at 1."""

    def fit(model: nn.Module, data: Data) -> None:
        Fit(20, 5e-3, lambda net, x, y: F.cross_entropy(net(x) / temperature, y))(teacher, data)

        def soft(net: nn.Module, x: Tensor, _: Tensor) -> Tensor:
            with torch.no_grad():
                target = (teacher(x) / temperature).softmax(1)
            return F.cross_entropy(net(x) / temperature, target)

        Fit(20, 5e-3, soft)(model, data)

    return fit


def noisy_step(ball: Ball) -> Loss:
    """Return the cross-entropy after one step from a far random point, without projection (N-FGSM)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        start = x + 2 * ball.radius * (2 * torch.rand_like(x) - 1)
        near = start + ball.radius * slope(model, start, y, PLAIN).sign()
        return entropy(model, near.clamp(0, 1), y)

    return loss


@dataclass(frozen=True)
class Free:
    """Free adversarial training: each batch is passed several times, and each backward pass also moves the images.

    Args:
        ball: The ball, in l_inf.
        epochs: Number of epochs, each with `replays` steps a batch.
        rate: Learning rate.
        replays: Steps on a batch.
    """

    ball: Ball
    epochs: int = 6
    rate: float = 3e-3
    replays: int = 4

    def __call__(self, model: nn.Module, data: Data) -> None:
        """Train the network in place and leave it in eval mode."""
        optimizer = torch.optim.Adam(model.parameters(), self.rate)
        model.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(data.x)).split(64):
                x, y = data.x[rows], data.y[rows]
                away = torch.zeros_like(x)
                for _ in range(self.replays):
                    near = (x + away).clamp(0, 1).requires_grad_()
                    optimizer.zero_grad()
                    entropy(model, near, y).backward()
                    away = (away + self.ball.radius * near.grad.sign()).clamp(-self.ball.radius, self.ball.radius)
                    optimizer.step()
        model.eval()
