"""Networks whose robustness is false, each with one planted fault, for the audit that must notice it."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.data import digits
from lowcurve.losses import log_odds, loss_field
from lowcurve.models import Network
from lowcurve.models.modes import frozen
from lowcurve.randomness import temporary_seed
from lowcurve.training import Hardware, Objective, Optimization, fit, make_fabric

OVERFITTED = Path(__file__).with_name("overfitted.safetensors")
"""Written by `python tests/faulty_networks.py`."""


class KWinners(nn.Module):
    """k-winners-take-all: all but the largest tenth of the units are 0, and which they are jumps with the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= x.topk(max(1, x.shape[1] // 10), dim=1).values[:, -1:], x, 0)


class Around(nn.Module):
    """An honest network with something in front of it or behind it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Scaled(Around):
    """Logits so far apart that cross-entropy underflows."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__(inner)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


class Squashed(Around):
    """Logits through a function that saturates: the same classes without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(2 * self.inner(x)) + 1e-4 * self.inner(x).detach()


class Halved(Around):
    """Log-probabilities from a softmax in half precision, whose gradient underflows."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x).mul(5).half().softmax(1).float() + 1e-4).log() + 1e-3 * self.inner(x).detach()


class Softmax(Around):
    """Probabilities where logits are asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(1)


class Quantized(Around):
    """The input rounded to a few levels: flat between jumps."""

    levels = 5

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * (self.levels - 1)).round() / (self.levels - 1))


class Noisy(Around):
    """Noise of standard deviation 0.1 on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.1 * torch.randn_like(x))


class Shattered(Around):
    """A ripple on the input, too small to see, with a slope of its own: right at the grey levels of the digits, where it is
    steep upwards, and a matter of luck between them."""

    grey_levels, height = 16, 0.02

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + self.height * torch.sin(2 * math.pi * self.grey_levels * x))


class Detached(Around):
    """The way back to the pixels cut."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.detach())


class ByNumpy(Around):
    """The way back to the pixels refused by torch itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.from_numpy(x.cpu().numpy()).to(x))


class Rooted(Around):
    """A gradient that is not a number: the root of what is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + (x - x).sqrt())


class Purified(Around):
    """The input moved towards what the network is sure of, before the network looks at it."""

    steps = 3

    def forward(self, x: Tensor) -> Tensor:
        point = x.detach().clone()
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = point.requires_grad_()
                p = self.inner(leaf).log_softmax(1)
                entropy = -(p.exp() * p).sum()
                entropy.backward(inputs=[leaf])
            assert leaf.grad is not None
            point = (leaf - 0.02 * leaf.grad.sign()).detach()
        return self.inner(point)


class Counting(Around):
    """Honest, with a count of its answers in a buffer and a batch normalization that has been trained."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.normalization = nn.BatchNorm2d(1)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.inner(self.normalization(x))


class Dropped(Around):
    """Dropout that does not ask whether this is training."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.dropout(x, 0.2, training=True))


@dataclass(frozen=True)
class OneStep:
    """FGSM as it was trained with: a full step from the image, whether it raises the loss or not."""

    ball: Ball

    def __call__(self, model, x, y, *, generator):  # noqa: ARG002
        with frozen(model):
            slope = gradient(loss_field(model, y, log_odds), x)
        return ascent_step(x, slope, x, self.ball, size=self.ball.radii(x))


def fitted(*trainings: tuple[Objective, int, float], width: int = 8) -> nn.Module:
    """A small network trained on the digits: objectives one after the other, each for so many epochs at its rate."""
    model, train = untrained(width), digits().train
    for objective, epochs, rate in trainings:
        settings = Optimization(epochs=epochs, batch_size=32, learning_rate=rate)
        fit(model, objective, train, settings, fabric=make_fabric(Hardware(accelerator="cpu")))
    return model


def untrained(width: int) -> nn.Module:
    data = digits()
    return Network("small-convnet", data.shape, 10, *data.statistics(), width=width).build(seed=0)


def standard() -> nn.Module:
    """Honest, and not robust."""
    return fitted((Objective(), 6, 5e-3))


def robust() -> nn.Module:
    """Honest: trained against PGD at 0.1."""
    return fitted((Objective(), 4, 5e-3), (Objective(attack=PGD(Ball(LINF, 0.1), steps=3)), 4, 5e-3))


def k_winners() -> nn.Module:
    """Trained with k-winners-take-all in place of ReLU."""
    train = digits().train
    x, y = train.pixels(slice(None)), train.y
    with temporary_seed(0, "k winners"):
        layers = (nn.Linear(64, 400), KWinners(), nn.Linear(400, 400), KWinners(), nn.Linear(400, 10))
        model = nn.Sequential(nn.Flatten(), *layers)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def overfitted() -> nn.Module:
    """Trained against one step of 0.35 until that step led nowhere: most images stand under it, none under PGD. The training
    is chaotic, so that rounding on another processor makes another network of it: its weights are kept."""
    model = untrained(16)
    model.load_state_dict(load_file(OVERFITTED))
    return model.eval()


def overfit() -> nn.Module:
    """As `overfitted` was made."""
    return fitted((Objective(), 6, 5e-3), (Objective(attack=OneStep(Ball(LINF, 0.35))), 100, 1e-2), width=16)


if __name__ == "__main__":
    save_file(overfit().state_dict(), OVERFITTED)
