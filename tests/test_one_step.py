"""One-step attacks in closed form on linear models, beside FGSM and PGD, and where they part from them."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import FGSM, NFGSM, PGD, RSFGSM, OneStep
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, log_odds
from lowcurve.randomness import stream
from lowcurve.results import describe

BALL, ROUND = Ball(LINF, 0.1), Ball(L2, 0.1)
X = randomness.uniform(torch.zeros(50, 8, dtype=torch.float64), 0, 1, generator=stream(0, "one step"))
Y = torch.arange(50) % 2


def linear() -> nn.Linear:
    with randomness.temporary_seed(0, "linear"):
        return nn.Linear(8, 2).double()


class Wavy(nn.Module):
    """So much so that a step often lowers the loss."""

    def __init__(self) -> None:
        super().__init__()
        with randomness.temporary_seed(0, "wavy"):
            self.first, self.last = nn.Linear(8, 32).double(), nn.Linear(32, 2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sin(80 * self.first(x)))


def found(attack, model) -> torch.Tensor:
    return attack(model, X, Y, generator=stream(0))


def uphill(model: nn.Linear) -> torch.Tensor:
    """The gradient of the other class's logit against the true one's."""
    difference = (model.weight[1] - model.weight[0]).detach()
    return torch.where(Y[:, None] == 0, difference, -difference)


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("ball", [BALL, ROUND], ids=["l_inf", "l_2"])
def test_n_fgsm_on_a_linear_model(ball, noise):
    """x + n + radius * steepest(w), clipped to the pixel box and to nothing else."""
    model = linear()
    start = found(OneStep(ball, noise=noise, length=0.0, reach=9.0), model)
    assert_close(found(NFGSM(ball, noise=noise), model), (start + 0.1 * ball.norm.steepest(uphill(model))).clamp(0, 1))


def test_rs_fgsm_on_a_linear_model():
    """x + n + 1.25 radius * sign(w), brought back into the ball."""
    model = linear()
    start = found(OneStep(BALL, noise=1.0, length=0.0), model)
    moved = start + 0.125 * uphill(model).sign()
    assert_close(found(RSFGSM(BALL), model), (X + (moved - X).clamp(-0.1, 0.1)).clamp(0, 1))


def test_the_noise_is_uniform_and_n_fgsm_leaves_the_ball():
    inside = torch.full((400, 8), 0.5, dtype=torch.float64)
    inside = inside + randomness.uniform(inside, -0.1, 0.1, generator=stream(0, "inside"))
    labels = torch.arange(400) % 2
    noise = OneStep(BALL, noise=2.0, length=0.0, reach=2.0)(linear(), inside, labels, generator=stream(0)) - inside
    assert float(noise.abs().max()) <= 0.2
    assert_close(noise.mean().item(), 0.0, rtol=0, atol=0.01)
    assert_close(noise.std().item(), 0.4 / math.sqrt(12), rtol=0.03, atol=0)
    moved = NFGSM(BALL)(linear(), inside, labels, generator=stream(0)) - inside
    assert 0.28 < float(moved.abs().max()) <= 0.3
    assert 0.4 < float((moved.abs() > 0.1).double().mean()) < 0.6


@pytest.mark.parametrize("ball", [BALL, ROUND], ids=["l_inf", "l_2"])
def test_where_the_step_raises_the_loss_it_is_what_fgsm_and_pgd_find(ball):
    """Where it lowers the loss they return their start, so training with them is another training."""
    model = Wavy()
    start = found(OneStep(ball, noise=1.0, length=0.0), model)
    for step, search, begun in (
        (OneStep(ball), FGSM(ball), X),
        (RSFGSM(ball), PGD(ball, steps=1, step_size=0.125), start),
    ):
        one, best = found(step, model), search(model, X, Y, generator=stream(0), start=begun)
        better = log_odds(model(one), Y) > log_odds(model(begun), Y)
        assert 5 < int(better.sum()) < 45
        assert_close(one[better], best[better])
        assert_close(best[~better], begun[~better])


def test_confident_examples_are_attacked_too():
    """The gradient of cross-entropy is exactly 0 there, that of the log-odds is not."""
    model = linear().float()
    with torch.no_grad():
        model.weight.mul_(1e4)
    x, y = X.float(), model(X.float()).argmax(1)
    blind = OneStep(BALL, loss=cross_entropy)(model, x, y, generator=stream(0))
    seeing = OneStep(BALL)(model, x, y, generator=stream(0))
    assert float((blind == x).all(1).double().mean()) > 0.5
    assert bool(((seeing - x).abs().amax(1) > 0.05).all())


def test_names():
    assert RSFGSM(BALL) == OneStep(BALL, noise=1.0, length=1.25, reach=1.0)
    assert NFGSM(BALL) == OneStep(BALL, noise=2.0, length=1.0, reach=3.0)
    assert describe(NFGSM(BALL)).startswith("OneStep(norm=Norm(name='l_inf'), radius=0.1")


@pytest.mark.parametrize("shares", [{"noise": -1.0}, {"length": math.nan}, {"reach": math.inf}])
def test_errors_name_the_mend(shares):
    with pytest.raises(InputError, match=r"noise, length and reach of 0 radii or more, got .*\. Write OneStep\(ball"):
        OneStep(BALL, **shares)
