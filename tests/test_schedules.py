"""Weights and scales over training, weights that follow their penalty, and what cannot be an objective."""

from dataclasses import replace

import pytest
import torch
from objectives import CHORDS, CURVATURE, NEAR, SLOPE, Watched, X, Y, each, network, slopes, terms
from torch import nn
from torch.testing import assert_close

from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, margin
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, AdaptiveWeight, Distillation, GradAlign, InputGradientNorm
from lowcurve.randomness import stream
from lowcurve.training import Objective, Schedule, Term


def test_schedules():
    ramp = Schedule(start=0.2, end=1.0, until=0.5)
    assert [round(ramp(p), 12) for p in (0.0, 0.125, 0.25, 0.5, 0.8, 1.0)] == [0.2, 0.4, 0.6, 1.0, 1.0, 1.0]
    wave = Schedule(start=1.0, end=0.0, shape="cosine")
    assert [round(wave(p), 12) for p in (0.0, 1 / 3, 0.5, 2 / 3, 1.0, 2.0)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [Schedule(start=0.3, end=0.7, until=0.0)(p) for p in (0.0, 0.5)] == [0.7, 0.7]
    assert [Schedule()(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_a_schedule_in_steps_and_by_equal_ratios():
    """LCNN's tenths at 150 and 175 of 200 epochs; the 0.7 an epoch of the report on Tiny ImageNet, fourteen times."""
    steps = Schedule(milestones=(0.75, 0.875))
    assert [round(steps(epoch / 200), 9) for epoch in (0, 149, 150, 174, 175, 200)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    decay = Schedule(end=0.7**14, shape="exponential")
    assert_close([decay(epoch / 14) for epoch in range(15)], [0.7**epoch for epoch in range(15)])


def test_a_schedule_with_a_warm_up():
    triangle = Schedule(end=0.0, warm_up=0.4)
    assert [round(triangle(p), 12) for p in (0.0, 0.1, 0.4, 0.7, 1.0)] == [0.0, 0.25, 1.0, 0.5, 0.0]
    wave = Schedule(start=0.5, end=0.0, until=0.8, shape="cosine", warm_up=0.2)
    assert [round(wave(p), 12) for p in (0.0, 0.1, 0.2, 0.5, 0.8, 0.9)] == [0.0, 0.25, 0.5, 0.25, 0.0, 0.0]
    assert [Schedule(warm_up=1.0)(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_a_term_over_training():
    halves = Schedule(start=0.5)
    term = Term(CURE(h=0.4), weight=2.0, weight_schedule=Schedule(start=0.0), scale_schedule=halves)
    assert term.at(0.0) == (0.0, CURE(h=0.2))
    assert term.at(0.5) == (1.0, CURE(h=0.4 * 0.75))
    assert term.at(1.0) == (2.0, CURE(h=0.4))
    assert Term(InputGradientNorm(), weight=3.0).at(0.3) == (3.0, InputGradientNorm())


def test_progress_reaches_weight_and_scale():
    model = network().eval()
    term = Term(CURE(h=0.3), 2.0, weight_schedule=Schedule(start=0.5), scale_schedule=Schedule(start=0.1))
    at_half = terms(Objective(penalties={"it": term}, statistics="frozen"), model, progress=0.5)["it"]
    fixed = Term(CURE(h=0.3 * 0.55), 2.0 * 0.75)
    assert_close(at_half, terms(Objective(penalties={"it": fixed}, statistics="frozen"), model)["it"])


def test_the_loss_has_a_weight_over_training():
    model = network().eval()
    half = Schedule(start=0.0)
    for objective, share in (
        (Objective(), 1.0),
        (Objective(loss_weight=0.4), 0.4),
        (Objective(loss_schedule=half), 0.25),
    ):
        found = terms(replace(objective, statistics="frozen"), model, progress=0.25)["loss"]
        assert_close(found, share * cross_entropy(model(X), Y).mean())


def test_of_a_loss_that_weighs_nothing_only_the_penalties_are_followed():
    """Every parameter has a gradient all the same, which processes that share a step ask for."""
    model = network().eval()
    lesson = Term(Distillation(lambda x: x.flatten(1)[:, :3], temperature=2.0), 3.0)
    found = terms(Objective(penalties={"lesson": lesson}, loss_weight=0.0, statistics="frozen"), model)
    assert found["loss"].item() == 0
    target = (X.flatten(1)[:, :3] / 2).softmax(1)
    expected = -3 * (target * (model(X) / 2).log_softmax(1)).sum(1).mean()
    assert_close(sum(found.values()), expected)
    assert_close(slopes(sum(found.values()), model), slopes(expected, model))
    flat = Term(InputGradientNorm(of=margin), 1.0)  # the last bias drops out
    assert len(slopes(sum(terms(Objective(penalties={"flat": flat}, loss_weight=0.0), model).values()), model)) == 6


def test_parts_are_the_terms_with_their_weights_beside_them():
    model = network().eval()
    objective = Objective(penalties={"curvature": CURVATURE, "slope": SLOPE}, loss_weight=0.3, statistics="frozen")
    parts = objective.term_values(model, X, Y, generator=stream(0, "step"))
    assert {name: part.weight for name, part in parts.items()} == {"loss": 0.3, "curvature": 2.0, "slope": 0.5}
    assert_close({name: part.weight * part.mean for name, part in parts.items()}, terms(objective, model))


def test_a_weight_that_follows_its_penalty():
    """ELLE-A: measured without a graph while it weighs nothing, then `weight`, then less and less."""
    model = network().eval()
    chords = Term(ELLE(0.3), AdaptiveWeight(weight=50.0, deviations=1.0, patience=2))
    objective, weights = Objective(penalties={"chords": chords}, statistics="frozen"), []
    for step, error in enumerate([1.0, 1.0, 3.0, 1.0]):
        part = objective.term_values(model, X, Y, generator=stream(0, "step"))["chords"]
        plain = terms(Objective(penalties={"it": Term(ELLE(0.3), 1.0)}, statistics="frozen"), model)["it"]
        assert_close(part.mean, plain, rtol=0, atol=0)
        assert part.mean.requires_grad == (part.weight > 0)
        weights.append(part.weight)
        objective = objective.update({"loss": torch.tensor(7.0), "chords": torch.tensor(error)}, step=step)
    assert weights == [0.0, 0.0, 0.0, 50.0]
    assert objective.penalties["chords"].weight.current == 50 * 0.99


def test_a_weight_follows_at_the_steps_of_its_penalty_alone():
    lazy = Objective(penalties={"chords": Term(ELLE(0.3), AdaptiveWeight(), every=2)})
    for step, errors in ((0, 1), (1, 0), (2, 1)):
        assert lazy.update({"chords": torch.tensor(1.0)}, step=step).penalties["chords"].weight.errors == errors
    plain = Objective(penalties={"chords": CHORDS})
    assert plain.update({"chords": torch.tensor(1.0)}) is plain
    scheduled = Term(ELLE(0.3), AdaptiveWeight(current=3.0), weight_schedule=Schedule(start=0.0), every=2)
    assert scheduled.at(0.5)[0] == 2 * 3.0 * 0.5


def test_a_penalty_that_weighs_nothing_is_not_looked_at():
    model = network().eval()
    watched = Watched(model)
    rising = Objective(
        penalties={"it": Term(CURE(h=0.3), 1.0, weight_schedule=Schedule(start=0.0))}, statistics="frozen"
    )
    assert terms(rising, model, progress=0.0)["it"].item() == 0
    assert len(watched.modes) == 1
    terms(rising, model, progress=0.5)
    assert len(watched.modes) == 3


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_how_often_the_statistics_move_for_each_penalty(statistics):
    """Forward passes beside the loss's: what the docstring of Objective says."""
    own = {CURE(0.3): 1, GradAlign(0.3): 1, TRADES(NEAR, steps=3): 1, ELLE(0.3): 3, LLR(NEAR, steps=3): 4}
    for penalty, passes in own.items():
        model = network()
        before = int(model[2].num_batches_tracked)
        terms(Objective(penalties={"it": Term(penalty, 1.0)}, statistics=statistics), model)
        moved = int(model[2].num_batches_tracked) - before
        assert moved == (1 + passes if statistics == "batch" else 0)


ALONE = [
    CURE(0.3),
    CURE(0.3, differentiation="detached"),
    CURE(0.3, differentiation="first_order"),
    InputGradientNorm(),
    InputGradientNorm(of=margin),
    GradAlign(0.3),
    ELLE(0.3),
    LLR(NEAR, steps=2),
    LLR(NEAR, steps=2, differentiation="first_order"),
    TRADES(NEAR, steps=2),
    Distillation(lambda x: x.flatten(1)[:, :3], 2.0),
]


@pytest.mark.parametrize("one", ALONE, ids=lambda one: type(one).__name__)
def test_a_penalty_is_beside_another_what_it_is_alone(one):
    """Value and gradient, whatever they share. The first of two, since their numbers are drawn one after another."""
    model = network().eval()

    def found(*penalties) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        named = {str(number): Term(penalty, 2.0) for number, penalty in enumerate(penalties)}
        value = terms(Objective(penalties=named, statistics="frozen"), model)["0"]
        parameters = tuple(model.parameters())
        slope = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return value, slope

    alone = found(one)
    for other in ALONE:
        assert_close(found(one, other), alone)


def test_a_penalty_of_every_third_step_is_three_times_as_heavy_and_costs_nothing_between():
    model = network().eval()
    plain = terms(Objective(penalties={"it": Term(CURE(h=0.3), 2.0)}, statistics="frozen"), model)["it"]
    lazy = Objective(penalties={"it": Term(CURE(h=0.3), 2.0, every=3)}, statistics="frozen")
    watched = Watched(model)
    found = [terms(lazy, model, step=step)["it"] for step in range(7)]
    assert len(watched.modes) == 7 + 3
    assert_close(torch.stack(found), torch.stack([3 * plain if step % 3 == 0 else 0 * plain for step in range(7)]))


@each("objective")
def test_what_differentiates_twice(objective):
    expected = any(not isinstance(term.penalty, ELLE) for term in objective.penalties.values())
    assert objective.differentiates_twice == expected


def test_what_differentiates_once_alone():
    assert not Objective(penalties={"it": Term(CURE(h=0.3, differentiation="first_order"), 1.0)}).differentiates_twice


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective(statistics="running"), 'statistics "batch", "frozen" or "own", got \'running\''),
        (lambda: Objective(penalties={"loss": SLOPE}), 'penalties with names other than "loss"'),
        (lambda: Term(CURE(h=0.4), 1.0, scale_schedule=Schedule(start=0.0)), "a scale that stays above 0"),
        (
            lambda: Term(InputGradientNorm(), 1.0, scale_schedule=Schedule(start=0.5)),
            "a penalty with a scale h to schedule",
        ),
        (lambda: Schedule(shape="cubic"), "a schedule's shape"),
        (
            lambda: Schedule(end=0.0, shape="exponential"),
            r"an exponential course between factors above 0, .*\(1.0, 0.0\)",
        ),
        (lambda: Schedule(milestones=(0.5, 1.0)), r"milestones as shares of training between 0 and 1, .*\(0.5, 1.0\)"),
        (lambda: Schedule(warm_up=-0.1), "a warm-up from 0 to 1.0, where the schedule ends, got -0.1"),
        (lambda: Schedule(warm_up=0.3, until=0.2), "a warm-up from 0 to 0.2, where the schedule ends, got 0.3"),
        (
            lambda: Objective(penalties_at="both"),
            'penalties at the "clean" or at the "attacked" inputs, got \'both\'',
        ),
        (lambda: Term(CURE(h=0.4), 1.0, scale_schedule=Schedule(warm_up=0.1)), "a scale that stays above 0"),
        (lambda: Term(CURE(h=0.4), 1.0, every=0), "a penalty at every step, or every second, or third, got 0"),
        (lambda: terms(Objective(), nn.Flatten(0)), "logits of shape"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
