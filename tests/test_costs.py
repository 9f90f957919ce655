"""What penalties and attacks cost, in forward passes F by count of operations: what their docstrings say."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import FGSM, NFGSM, PGD, RSFGSM, SORA
from lowcurve.losses import loss_field, margin
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, Distillation, GradAlign, InputGradientNorm
from lowcurve.randomness import stream

BALL = Ball(LINF, 0.1)
X, Y = torch.rand(4, 1, 6, 6, generator=stream(0, "pixels")), torch.arange(4) % 3


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        counting = flop_registry.get(func._overloadpacket)
        self.count += counting(*args, **(kwargs or {}), out_val=result) if counting else 0
        return result


def operations(function) -> int:
    with Operations() as counted:
        function()
    return counted.count


def network() -> nn.Module:
    """Smooth, with a last layer that costs next to nothing."""
    with randomness.temporary_seed(0, "counted"):
        convolutions = [nn.Conv2d(channels, 32, 3, padding=1) for channels in (1, 32, 32, 32)]
        layers = [layer for convolution in convolutions for layer in (convolution, nn.Softplus(5))]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)).eval()


MODEL = network()
PASS = operations(lambda: MODEL(X))


def step(penalty=None) -> float:
    """A training step's passes: loss, penalty and the backward pass of both."""

    def once() -> None:
        jet = Jet(loss_field(MODEL, Y), X)
        total = jet.values.mean()
        if penalty is not None:
            total = total + penalty(jet, generator=stream(0)).mean()
        total.backward()

    return operations(once) / PASS


PENALTIES = {
    "gradient norm": (InputGradientNorm(), 3),
    "gradient norm, first order": (InputGradientNorm(differentiation="first_order"), 7),
    "gradient norm of the margin": (InputGradientNorm(of=margin), 3),
    "gradient norm of the margin, first order": (InputGradientNorm(of=margin, differentiation="first_order"), 7),
    "CURE": (CURE(0.3), 9),
    "CURE, detached": (CURE(0.3, differentiation="detached"), 7),
    "CURE, first order": (CURE(0.3, differentiation="first_order"), 15),
    "CURE, first order, detached": (CURE(0.3, differentiation="first_order_detached"), 9),
    "LLR": (LLR(BALL, steps=3), 2 * 3 + 6),
    "GradAlign": (GradAlign(), 9),
    "ELLE": (ELLE(), 9),
    "TRADES": (TRADES(BALL, steps=10), 2 * 10 + 4),
    "TRADES, one step": (TRADES(BALL, steps=1), 2 + 4),
    "distillation": (Distillation(MODEL, 5.0), 1),
}


@pytest.mark.parametrize(("penalty", "passes"), PENALTIES.values(), ids=PENALTIES)
def test_what_a_penalty_adds_to_a_plain_step_of_three_passes(penalty, passes):
    assert_close(step(), 3.0, rtol=1e-6, atol=0)
    assert_close(step(penalty) - 3, float(passes), rtol=0, atol=0.05)


def test_penalties_of_one_jet_share_its_passes():
    """TRADES, distillation and the margin's gradient beside one clean pass."""
    model, seen = network(), []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    jet = Jet(loss_field(model, Y), X)
    for penalty in (InputGradientNorm(of=margin), Distillation(MODEL, 5.0), TRADES(BALL, steps=4)):
        penalty(jet, generator=stream(0))
    assert len(seen) == 1 + (1 + 4 + 1)  # for TRADES: the clean pass in eval mode, the ascent, its end


ATTACKS = {
    "N-FGSM": (NFGSM(BALL), 2),
    "RS-FGSM": (RSFGSM(BALL), 2),
    "SORA": (SORA(BALL), 2),
    "FGSM": (FGSM(BALL), 3),
    "PGD-10": (PGD(BALL, steps=10), 21),
}


@pytest.mark.parametrize(("attack", "passes"), ATTACKS.values(), ids=ATTACKS)
def test_what_an_attack_adds(attack, passes):
    found = operations(lambda: attack(MODEL, X, Y, generator=stream(0))) / PASS
    assert_close(found, float(passes), rtol=1e-6, atol=0)
