"""The relay at the end of the suite strong: who takes part, where it begins, what it finds that neither part does alone."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import APGD, FGSM, PGD, Effort, Relay, Square, Suite, strong
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.losses import margin, margin_loss
from lowcurve.randomness import stream

BALL = Ball(LINF, 0.1)
RELAY = Relay((Square(BALL, queries=30), PGD(BALL, steps=10, loss=margin_loss)))


class Dimple(nn.Module):
    """z_0 - z_1 = 1 everywhere but in a narrow dimple around 0.05 on either side, which no slope leads to from outside."""

    def forward(self, x):
        depth = 1.0 - 25 * (x.flatten(1) - 0.55).abs().amax(1)
        fall = torch.where(depth > 0, 0.92 + 0.2 * depth, 0.0)
        return torch.stack([1 - fall, torch.zeros_like(fall)], 1)


@dataclass(frozen=True)
class Moved:
    """An attack that knows where to go."""

    by: float

    def __call__(self, model, x, y, *, generator):  # noqa: ARG002 (the signature of Attack)
        return x + self.by


def one() -> Examples:
    return Examples(torch.full((1, 6), 0.5), torch.tensor([0]), ("a", "b"))


def test_it_begins_where_the_others_came_nearest_and_gets_farther_than_they():
    few = one()
    alone = evaluation.attack(Dimple(), few, Suite((("relay", RELAY),)))
    near = evaluation.attack(Dimple(), few, Suite((("known", Moved(0.015)),)))
    both = evaluation.attack(Dimple(), few, Suite((("known", Moved(0.015)), ("relay", RELAY))))
    assert [alone.robust[0], near.robust[0], both.robust[0]] == [True, True, False]
    assert both.fooled_by.tolist() == ["relay"]
    assert float(both.distance[0]) <= 0.1 + 1e-6


def test_as_one_attack_the_suite_hands_the_nearest_point_over_too():
    x, y = one().x, one().y
    found = Suite((("known", Moved(0.015)), ("relay", RELAY)))(Dimple(), x, y, generator=stream(0))
    assert float(margin(Dimple()(found), y)) < 0
    start = x + 0.015
    assert float(margin(Dimple()(RELAY(Dimple(), x, y, generator=stream(0), start=start)), y)) < 0
    far = x + 0.001
    assert torch.equal(RELAY(Dimple(), x, y, generator=stream(0), start=far), far)


def test_only_images_that_are_nearly_fooled_take_part_whatever_the_scale_of_the_logits():
    """Margins of 0.21, 0.3 and 0.15 under an attack that takes 0.2 from each: a twentieth, a third and nothing are left."""
    for scale in (1.0, 100.0):
        model = nn.Linear(2, 2, bias=False).requires_grad_(requires_grad=False)
        model.weight.copy_(scale * torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        x = torch.tensor([[0.61, 0.4], [0.65, 0.35], [0.55, 0.4]])
        few = Examples(x, torch.zeros(3, dtype=torch.long), ("a", "b"))
        first = ("FGSM", FGSM(BALL))
        without = evaluation.attack(model, few, Suite((first,)))
        found = evaluation.attack(model, few, Suite((first, ("relay", RELAY))))
        assert found.robust.tolist() == without.robust.tolist() == [True, True, False]
        assert (found.forward_passes - without.forward_passes).tolist() == [30 + 11, 0, 0]


def test_strong_ends_with_it_and_does_without_where_no_turns_are_asked_for():
    ball = Ball(LINF, 0.1)
    names = [name for name, _ in strong(ball).members]
    assert names == ["APGD-CE", "APGD-M", "APGD-T", "Square", "long Square", "relay"]
    assert [name for name, _ in strong(ball, effort=Effort(relays=0)).members] == names[:-1]
    relay = strong(ball, effort=Effort(steps=7, queries=50, relays=2)).members[-1][1]
    kinds = [(type(run).__name__, run.steps) for run in relay.runs]
    assert kinds == [("Square", 15), ("APGD", 7), ("Square", 15), ("APGD", 7)]


def test_attacks_in_several_balls_are_refused():
    with pytest.raises(InputError, match=r"Expected attacks in one ball, got \[Ball.*Write Relay\(\(Square\(ball\)"):
        Relay((Square(BALL), APGD(Ball(LINF, 0.2), loss=margin_loss)))
    with pytest.raises(InputError, match=r"Expected attacks in one ball, got \[\]"):
        Relay(())
