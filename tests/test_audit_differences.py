"""Test 4 of the audit where every image has a gradient: whether it is the network's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import Ball
from lowcurve.data import Examples
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.audit import Budget, audit
from lowcurve.evaluation.audit.differences import disagreement
from lowcurve.evaluation.audit.gradients import ANGLE, graph_intact
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.randomness import temporary_seed

SIDE, CLASSES, COUNT = 6, 4, 24


class Backwards(torch.autograd.Function):
    """The identity with a gradient that is changed."""

    @staticmethod
    def forward(ctx, x: Tensor, change) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, slope: Tensor):
        return ctx.change(slope), None


class Changed(nn.Module):
    """The identity with another gradient."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return Backwards.apply(x, self.change)


class Branches(nn.Module):
    """The sum of two networks behind stages of their own."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


class Detached(nn.Module):
    """The identity without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Rounded(nn.Module):
    """Rounding to levels, with the gradient of the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.round(8 * x) / 8 - x).detach()


class Clipped(nn.Module):
    """Pixels clipped to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


def mlp(act: type[nn.Module] = nn.ReLU, scale: float = 1.0) -> nn.Sequential:
    last = nn.Linear(40, CLASSES)
    with torch.no_grad():
        last.weight *= scale
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 40), act(), nn.Linear(40, 40), act(), last)


def convolutions(*stages: nn.Module) -> nn.Sequential:
    first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), *stages, second, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, CLASSES))


WRONG = {
    "a detached branch": lambda: Branches(mlp(), nn.Sequential(Detached(), mlp())),
    "a branch with a gradient of 0": lambda: Branches(convolutions(), convolutions(Changed(torch.zeros_like))),
    "a branch with its gradient reversed": lambda: Branches(
        mlp(nn.Tanh), nn.Sequential(Changed(torch.neg), mlp(nn.GELU))
    ),
    "channels that are mixed up in one block": lambda: convolutions(Changed(lambda slope: slope.flip(1))),
    "signs in place of a gradient": lambda: convolutions(Changed(lambda slope: torch.sign(slope.roll(1, 3)))),
}
RIGHT = {
    "convolutions": convolutions,
    "GELU": lambda: mlp(nn.GELU),
    "saturated logits": lambda: mlp(scale=1000.0),
    "tiny logits": lambda: mlp(scale=1e-6),
    "clipped pixels": lambda: nn.Sequential(Clipped(), convolutions()),
    "a gradient a thousand times too small": lambda: nn.Sequential(Changed(lambda slope: slope / 1000), mlp()),
    "a detached branch that is constant": lambda: Branches(mlp(), nn.Sequential(Detached(), mlp(scale=0.0))),
    "rounded pixels, straight through": lambda: nn.Sequential(Rounded(), mlp()),
    "half precision": lambda: mlp().to(torch.bfloat16),
}
BALLS = (Ball("linf", 0.1), Ball("l2", 0.5), Ball("l1", 2.0))


def state_of(make, ball: Ball) -> AuditState:
    with temporary_seed(3, "differences"):
        model = make().eval()
        x = torch.rand(COUNT, 1, SIDE, SIDE).round(decimals=1)  # some pixels lie on the box's faces
        z = model(x.to(next(model.parameters()))).detach().float()
    examples = Examples(x, z.argmax(1), tuple("abcd"))
    state = AuditState(model, examples, np.ones(COUNT, dtype=bool), ball, Budget(), 0, 256, z)
    state.attacked = claimed(COUNT)
    return state


def claimed(count: int) -> AttackResult:
    """The result of a suite that leaves every image robust, so that no gradient attack is needed to know what is claimed."""
    return AttackResult(
        np.ones(count, dtype=bool), np.zeros(count), None, np.full(count, ""), np.ones(count, dtype=int)
    )


@pytest.mark.parametrize("ball", BALLS, ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_a_gradient_that_is_not_the_networks_own_is_found(name, ball):
    state = state_of(WRONG[name], ball)
    found = graph_intact(state)
    assert found.outcome == "fail", found.evidence
    assert "A part of the network is detached" in found.means
    assert state.differentiable


@pytest.mark.parametrize("ball", BALLS, ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_and_one_of_another_scale_pass(name, ball):
    found = graph_intact(state_of(RIGHT[name], ball))
    assert found.outcome == "passed", found.evidence


def test_the_angle_of_two_equal_branches_is_45_degrees():
    """Two random linear maps of many pixels have gradients of the same length at a right angle."""
    with temporary_seed(0, "differences"):
        maps = [nn.Linear(4000, 2, bias=False) for _ in range(2)]
    model = Branches(maps[0], nn.Sequential(Detached(), maps[1]))
    x = torch.full((40, 4000), 0.5)
    z = model(x).detach()
    state = AuditState(
        model, Examples(x, z.argmax(1), ("a", "b")), np.ones(40, dtype=bool), BALLS[0], Budget(), 0, 64, z
    )
    sines = disagreement(state, np.arange(40))
    assert np.median(sines) == pytest.approx(0.5**0.5, abs=0.1)
    assert (sines > ANGLE).mean() > 0.9


def test_the_verdict_names_a_detached_branch():
    state = state_of(WRONG["a detached branch"], BALLS[0])
    few = Budget(
        steps=3, restarts=1, apgd_steps=3, queries=10, noise_draws=10, spsa_steps=1, spsa_draws=2, long_steps=5
    )
    found = audit(state.model, state.examples, state.ball, budget=few, attacked=claimed(COUNT), progress=False)
    assert "graph intact" in found.verdict
    assert found.remedies
