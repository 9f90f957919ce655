"""Objectives of every kind and the small network that they are taken of."""

import pytest
import torch
from torch import nn

from lowcurve import randomness
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.losses import margin_loss
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.penalties import CURE, ELLE, LLR, GradAlign, InputGradientNorm
from lowcurve.randomness import stream
from lowcurve.training import Objective, Term

NEAR = Ball(LINF, 0.1)


ATTACK = PGD(NEAR, steps=3)


CURVATURE, SLOPE = Term(CURE(h=0.3), weight=2.0), Term(InputGradientNorm(), weight=0.5)


CHORDS, ALIGNMENT = Term(ELLE(0.3), weight=2.0), Term(GradAlign(0.3), weight=0.5)


AT_ATTACKED = {"attack": ATTACK, "penalties_at": "attacked"}


# name: (objective, forward passes of the attack, forward passes beside it)
OBJECTIVES = {
    "plain": (Objective(), 0, 1),
    "CURE": (Objective(penalties={"curvature": CURVATURE}), 0, 2),
    "gradient norm": (Objective(penalties={"slope": SLOPE}), 0, 1),
    "both": (Objective(penalties={"curvature": CURVATURE, "slope": SLOPE}), 0, 2),
    "ELLE": (Objective(penalties={"chords": CHORDS}), 0, 4),
    "PGD": (Objective(attack=ATTACK), 4, 1),
    "PGD and CURE": (Objective(attack=ATTACK, penalties={"curvature": CURVATURE}), 4, 3),
    "PGD and ELLE": (Objective(attack=ATTACK, penalties={"chords": CHORDS}), 4, 4),
    "PGD and all": (
        Objective(attack=ATTACK, penalties={"a": CURVATURE, "b": SLOPE, "c": CHORDS, "d": ALIGNMENT}),
        4,
        7,
    ),
    "CURE there": (Objective(penalties={"curvature": CURVATURE}, **AT_ATTACKED), 4, 2),
    "LLR there": (Objective(penalties={"gap": Term(LLR(NEAR, steps=2), 1.0)}, **AT_ATTACKED), 4, 4),
    "margin": (Objective(loss=margin_loss), 0, 1),
    "CURE alone": (Objective(penalties={"curvature": CURVATURE}, loss_weight=0.0), 0, 2),
}


def each(*words: str) -> pytest.MarkDecorator:
    """Every row of OBJECTIVES, with these of its columns."""
    columns = [("objective", "attacking", "passes").index(word) for word in words]
    rows = [[row[k] for k in columns] for row in OBJECTIVES.values()]
    return pytest.mark.parametrize(words, rows, ids=OBJECTIVES)


X = randomness.uniform(torch.zeros(6, 1, 2, 3, dtype=torch.float64), 0.2, 0.8, generator=stream(0, "inputs"))


Y = torch.arange(6) % 3


def network() -> nn.Sequential:
    """A small smooth network with BatchNorm, in training mode, with statistics that are not those of the batch."""
    with randomness.temporary_seed(0, "objective"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    net[2].running_mean.fill_(0.1)
    net[2].running_var.fill_(0.7)
    return net


def terms(objective: Objective, model: nn.Module, x=X, y=Y, **words) -> dict[str, torch.Tensor]:
    return objective.terms(model, x, y, generator=stream(0, "step"), **words)


def slopes(total: torch.Tensor, model: nn.Module) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(total, tuple(model.parameters()))


class Watched:
    """Records, for every forward pass, whether the whole model was in training mode."""

    def __init__(self, model: nn.Module) -> None:
        self.modes: list[bool] = []
        with fold_batchnorm(model, X):
            pass  # which asks a network that it has not seen yet

        def look(*_: object) -> None:
            everywhere = {m.training for m in model.modules()}
            assert len(everywhere) == 1
            self.modes.append(everywhere.pop())

        model.register_forward_pre_hook(look)
