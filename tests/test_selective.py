"""Longer searches of the suite strong: which images get them, what they find, and what a lighter effort says of itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import APGD, FGSM, Effort, NearlyFooled, Relay, Square, Suite, strong
from lowcurve.attacks.selective import Margins
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.known import fooled_by_gradients
from lowcurve.losses import margin_loss
from lowcurve.randomness import stream
from lowcurve.study.presets import SCALES, preset
from lowcurve.study.settings import Study

BALL = Ball(LINF, 0.1)
SHORT = Effort(steps=10, targets=1, queries=100, relays=1)


def linear(scale: float = 1.0) -> nn.Module:
    model = nn.Linear(2, 2, bias=False).requires_grad_(requires_grad=False)
    model.weight.copy_(scale * torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    return model


def images(*margins: float) -> Examples:
    """Return images of these margins under `linear`; an attack takes 0.2 from each."""
    x = torch.tensor([[0.5 + m / 2, 0.5 - m / 2] for m in margins])
    return Examples(x, torch.zeros(len(x), dtype=torch.long), ("a", "b"))


class Masked(nn.Module):
    """The linear network behind a staircase: its gradient is 0, and its margin falls with the pixels."""

    def forward(self, x):
        logits = linear()((x * 50).round() / 50)
        return logits + 0 * x.sum(1, keepdim=True)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_only_nearly_fooled_images_take_part_whatever_the_scale_of_the_logits(scale):
    few, first = images(0.22, 0.3, 0.15, 0.8), ("FGSM", FGSM(BALL))  # margins of 0.02, 0.1, -0.05 and 0.6 are left
    longer = NearlyFooled(APGD(BALL, steps=10, loss=margin_loss), near=0.2)
    without = evaluation.attack(linear(scale), few, Suite((first,)), progress=False)
    found = evaluation.attack(linear(scale), few, Suite((first, ("longer", longer))), progress=False)
    assert (found.forward_passes - without.forward_passes).tolist() == [11, 0, 0, 0]
    assert found.robust.tolist() == without.robust.tolist() == [True, True, False, True]


def test_a_search_that_got_as_far_as_the_attack_before_it_is_continued():
    wide = nn.Linear(400, 2).requires_grad_(requires_grad=False)
    wide.weight.copy_(torch.stack([torch.arange(400) % 7 - 3.0, torch.zeros(400)]))
    wide.bias.copy_(torch.tensor([200.0, 0.0]))  # no attack takes more than 0.1 * 686 from its margin
    few, one = images(0.8), Examples(torch.full((1, 400), 0.5), torch.zeros(1, dtype=torch.long), ("a", "b"))
    longer = NearlyFooled(Square(BALL, queries=60), near=0.0, matched=0.9)
    members = (("FGSM", FGSM(BALL)), ("Square", Square(BALL, queries=20)), ("longer", longer))
    masked = evaluation.attack(Masked(), few, Suite(members), progress=False)
    honest = evaluation.attack(wide, one, Suite(members), progress=False)
    assert [int(masked.forward_passes[0]), int(honest.forward_passes[0])] == [1 + 2 + 20 + 60, 1 + 2 + 20]


def test_the_relay_searches_where_a_short_search_got_anywhere():
    relay = Relay((Square(BALL, queries=20), APGD(BALL, steps=2, loss=margin_loss)))
    margins = Margins.begin(torch.ones(3), members=2)
    margins.record(0, torch.arange(3), torch.tensor([0.05, 0.05, 0.5]))  # by gradients
    margins.record(1, torch.arange(3), torch.tensor([0.2, 0.4, 0.2]))  # by a short search
    assert margins.lowest.tolist() == pytest.approx([0.05, 0.05, 0.2])
    assert margins.before.tolist() == pytest.approx([0.05, 0.05, 0.5])
    assert relay.takes_part(margins).tolist() == [True, False, False]
    assert relay.takes_part(margins.take(torch.tensor([1]))).tolist() == [False]


def test_how_far_a_member_came_next_to_those_before_it():
    margins = Margins.begin(torch.tensor([1.0, 1.0, 1.0, 1.0]), members=3)
    margins.record(0, torch.arange(4), torch.tensor([0.8, 0.5, 1.0, 0.5]))
    margins.record(1, torch.arange(3), torch.tensor([0.6, 0.9, 0.9]))
    margins.record(1, torch.arange(1), torch.tensor([0.7]))  # a second run; the lower margin counts
    assert margins.share_of_gain(1).tolist() == pytest.approx([2.0, 0.2, torch.inf, torch.inf])
    assert margins.share_of_gain(2).tolist() == [torch.inf] * 4
    assert margins.last.tolist() == pytest.approx([0.6, 0.9, 0.9, 0.5])


def test_as_one_attack_the_suite_chooses_the_same_images():
    few, calls = images(0.22, 0.8), []

    class Seen(APGD):
        def perturb(self, model, x, y, options):
            calls.append(len(x))
            return super().perturb(model, x, y, options)

    suite = Suite((("FGSM", FGSM(BALL)), ("longer", NearlyFooled(Seen(BALL, steps=2), near=0.2))))
    _ = suite(linear(), few.x, few.y, generator=stream(0))
    assert calls == [1]


def test_what_a_longer_search_by_gradients_fools_is_fooled_by_gradients():
    suite = Suite((("none", FGSM(Ball(LINF, 0.05))), ("longer", NearlyFooled(APGD(BALL, steps=5), near=0.9))))
    found = evaluation.attack(linear(), images(0.15), suite, progress=False)
    assert found.fooled_by.tolist() == ["longer"]
    assert fooled_by_gradients(found).tolist() == [True]


def test_no_effort_for_some_images_is_the_suite_in_full_for_all():
    names = [name for name, _ in strong("l2", 0.5, effort=Effort(targets=4, near=None)).members]
    assert names == ["APGD-CE", "MinimalNorm", "APGD-M", "APGD-T", "Square", "relay"]
    few, short = images(0.15, 0.22, 0.8), SHORT
    for effort in (short, replace(short, near=None)):
        assert evaluation.attack(linear(), few, strong(BALL, effort=effort), progress=False).robust.tolist() == [
            False, True, True,
        ]  # fmt: skip


def test_refusals():
    with pytest.raises(InputError, match=r"Expected an attack of runs in a ball, got Suite. Write APGD\("):
        NearlyFooled(Suite((("FGSM", FGSM(BALL)),)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Expected fractions of no less than 0, got .*Write near=0.2"):
        NearlyFooled(FGSM(BALL), near=-1.0)


def test_one_effort_at_every_scale_but_smoke_and_a_lighter_one_says_so():
    for data in ("digits", "mnist", "cifar10"):
        for scale in SCALES[1:]:
            study = preset(data, scale)
            assert study.evaluation.effort == Effort()
            assert study.attacks == "strong"
    assert preset("mnist", "smoke").attacks.startswith("strong, lighter than by default (steps 3 of 100, ")
    assert Effort(near=0.1).describe() == "lighter than by default (near 0.1 of 0.15)"
    assert Effort(steps=200, near=None).describe() == ""
    mixed = Effort(steps=200, targets=4, near=None).describe()
    assert mixed == "other than by default (targets 4 of 9, steps 200 instead of 100, all searches for every image)"
    all_searches = replace(Study().evaluation, effort=Effort(targets=4, near=None))
    told = Study(evaluation=all_searches).attacks
    assert told == "strong, other than by default (targets 4 of 9, all searches for every image)"
    light = Study(evaluation=replace(Study().evaluation, effort=Effort(queries=500)))
    assert light.attacks == "strong, lighter than by default (queries 500 of 3000)"
    assert replace(light, suite="moosavi2019cure").attacks == "moosavi2019cure"
