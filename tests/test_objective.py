"""Objectives: what they add up, in which mode the model sees it, and how often it is asked."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, margin, margin_loss
from lowcurve.models.modes import mode
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, Distillation, GradAlign, InputGradientNorm, Surge
from lowcurve.randomness import stream
from lowcurve.training import Objective, Schedule, Term

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
    with randomness.isolated(0, "objective"):
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

        def look(*_: object) -> None:
            everywhere = {m.training for m in model.modules()}
            assert len(everywhere) == 1
            self.modes.append(everywhere.pop())

        model.register_forward_pre_hook(look)


@each("objective")
def test_the_terms_are_the_loss_and_the_penalties_by_name(objective):
    found = terms(objective, network())
    assert list(found) == ["loss", *objective.penalties]
    for term in found.values():
        assert term.shape == ()
        assert term.requires_grad


@each("objective", "attacking", "passes")
@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_how_often_and_in_which_mode_the_model_is_asked(objective, attacking, passes, statistics):
    """The clean pass is shared; the attack sees the model in eval mode, and everything else in one and the same mode."""
    model = network()
    watched = Watched(model)
    terms(replace(objective, statistics=statistics), model)
    assert watched.modes == [False] * attacking + [statistics == "batch"] * passes


@each("objective", "passes")
@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_the_statistics_of_batchnorm_move_unless_they_are_frozen(objective, passes, statistics):
    model = network()
    before = copy.deepcopy(dict(model[2].named_buffers()))
    terms(replace(objective, statistics=statistics), model)
    if statistics == "frozen":
        assert_close(dict(model[2].named_buffers()), before, rtol=0, atol=0)
    else:
        assert int(model[2].num_batches_tracked) == passes
        assert float((model[2].running_mean - before["running_mean"]).abs().max()) > 1e-3


@each("objective")
@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_the_mode_is_restored(objective, statistics):
    model = network()
    model[2].eval()  # a user who keeps BatchNorm in eval mode finds it so
    before = [m.training for m in model.modules()]
    terms(replace(objective, statistics=statistics), model)
    assert [m.training for m in model.modules()] == before


@each("objective")
@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_duplicating_the_batch_changes_nothing(objective, statistics):
    objective = replace(objective, statistics=statistics)
    model = network()
    once, twice = (terms(objective, copy.deepcopy(model), X.repeat(n, 1, 1, 1), Y.repeat(n)) for n in (1, 2))
    assert_close(once, twice)
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    assert_close(
        slopes(sum(terms(objective, first).values()), first),
        slopes(sum(terms(objective, second, X.repeat(2, 1, 1, 1), Y.repeat(2)).values()), second),
    )


@each("objective")
def test_the_world_is_left_as_it_was(objective):
    model, x, state = network(), X.clone(), torch.get_rng_state()
    terms(objective, model, x)
    assert_close(torch.get_rng_state(), state)
    assert_close(x, X, rtol=0, atol=0)
    assert not x.requires_grad
    assert [p for p in model.parameters() if p.grad is not None] == []


def test_the_same_stream_gives_the_same_terms_and_another_stream_others():
    short = PGD(ATTACK.ball, steps=1, step_size=0.01)  # too short to forget where it started
    objective, model = Objective(attack=short, statistics="frozen"), network()
    first, again, other = (objective.terms(model, X, Y, generator=stream(k))["loss"] for k in (0, 0, 1))
    assert_close(first, again, rtol=0, atol=0)
    assert float((first - other).detach().abs()) > 1e-6


@pytest.mark.parametrize("loss", [cross_entropy, margin_loss])
def test_the_plain_loss_is_the_mean_over_examples(loss):
    model = network()
    found = terms(Objective(loss, statistics="frozen"), model)["loss"]
    assert_close(found, loss(model.eval()(X), Y).mean())
    assert_close(slopes(found, model), slopes(loss(model(X), Y).mean(), model))


def test_penalties_are_weighted_means_over_examples_and_leave_the_loss_alone():
    model = network().eval()
    found = terms(Objective(penalties={"curvature": CURVATURE, "slope": SLOPE}, statistics="frozen"), model)
    field = loss_field(model, Y)
    leaf = X.clone().requires_grad_()
    g = torch.autograd.grad(field(leaf).sum(), leaf, create_graph=True)[0].flatten(1)
    assert_close(found["slope"], 0.5 * g.square().sum(1).mean())
    moved = (X + 0.3 * g.detach().sign().reshape(X.shape) / math.sqrt(6)).requires_grad_()
    other = torch.autograd.grad(field(moved).sum(), moved, create_graph=True)[0].flatten(1)
    assert_close(found["curvature"], 2.0 * (other - g).square().sum(1).mean())
    assert_close(found["loss"], terms(Objective(statistics="frozen"), model)["loss"])


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_adversarial_training_takes_the_loss_at_the_attacks_output(statistics):
    model = network()
    found = terms(Objective(attack=ATTACK, statistics=statistics), copy.deepcopy(model))["loss"]
    moved = ATTACK(copy.deepcopy(model).eval(), X, Y, generator=stream(0, "step"))
    assert float((moved - X).abs().amax((1, 2, 3)).min()) > 0.05
    expected = cross_entropy(model.train(statistics == "batch")(moved), Y).mean()
    assert_close(found, expected)
    clean = terms(Objective(statistics=statistics), copy.deepcopy(model))["loss"]
    assert float((found - clean).detach()) > 0.01


@dataclass(frozen=True)
class Seen:
    """A penalty that keeps the inputs it is asked at."""

    inputs: list

    def __call__(self, jet, **_):
        self.inputs.append(jet.x.detach())
        return jet.values


def test_penalties_are_taken_at_the_clean_inputs_unless_asked_for_at_the_attacked_ones():
    seen, moved = [], ATTACK(network().eval(), X, Y, generator=stream(0, "step"))
    for words, there in (({}, X), ({"penalties_at": "attacked"}, moved)):
        for attack, expected in ((ATTACK, there), (None, X)):
            terms(Objective(attack=attack, penalties={"seen": Term(Seen(seen), 1.0)}, **words), network())
            assert_close(seen.pop(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
@pytest.mark.parametrize("penalty", [CURE(h=0.3), InputGradientNorm(), GradAlign(0.3)])
def test_a_penalty_at_the_clean_inputs_is_what_it_is_without_the_attack(penalty, statistics):
    """And the loss is what it is without the penalty."""
    both = Objective(attack=ATTACK, penalties={"it": Term(penalty, 2.0)}, statistics=statistics)
    model = network()
    found = terms(both, copy.deepcopy(model))
    alone = replace(both, attack=None)
    draws = stream(0, "step")
    ATTACK(copy.deepcopy(model).eval(), X, Y, generator=draws)  # which takes its numbers first
    assert_close(found["it"], alone.parts(copy.deepcopy(model), X, Y, generator=draws)["it"].mean * 2.0)
    assert_close(found["loss"], terms(replace(both, penalties={}), copy.deepcopy(model))["loss"])


@dataclass(frozen=True)
class Failing:
    """A penalty, and an attack, that fails."""

    def __call__(self, *_, **__):
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    "objective", [Objective(attack=Failing()), Objective(penalties={"it": Term(Failing(), 1.0)}, statistics="frozen")]
)
def test_the_mode_is_restored_after_a_failure(objective):
    model = network()
    model[3].eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="on purpose"):
        terms(objective, model)
    assert [m.training for m in model.modules()] == before


def test_a_mode_within_a_mode():
    model = network()
    with mode(model, training=False):
        assert {m.training for m in model.modules()} == {False}
        with mode(model, training=True):
            assert {m.training for m in model.modules()} == {True}
        assert {m.training for m in model.modules()} == {False}
    assert {m.training for m in model.modules()} == {True}


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
    parts = objective.parts(model, X, Y, generator=stream(0, "step"))
    assert {name: part.weight for name, part in parts.items()} == {"loss": 0.3, "curvature": 2.0, "slope": 0.5}
    assert_close({name: part.weight * part.mean for name, part in parts.items()}, terms(objective, model))


def test_a_weight_that_follows_its_penalty():
    """ELLE-A: measured without a graph while it weighs nothing, then `weight`, then less and less."""
    model = network().eval()
    chords = Term(ELLE(0.3), Surge(weight=50.0, deviations=1.0, patience=2))
    objective, weights = Objective(penalties={"chords": chords}, statistics="frozen"), []
    for step, error in enumerate([1.0, 1.0, 3.0, 1.0]):
        part = objective.parts(model, X, Y, generator=stream(0, "step"))["chords"]
        plain = terms(Objective(penalties={"it": Term(ELLE(0.3), 1.0)}, statistics="frozen"), model)["it"]
        assert_close(part.mean, plain, rtol=0, atol=0)
        assert part.mean.requires_grad == (part.weight > 0)
        weights.append(part.weight)
        objective = objective.after({"loss": torch.tensor(7.0), "chords": torch.tensor(error)}, step=step)
    assert weights == [0.0, 0.0, 0.0, 50.0]
    assert objective.penalties["chords"].weight.now == 50 * 0.99


def test_a_weight_follows_at_the_steps_of_its_penalty_alone():
    lazy = Objective(penalties={"chords": Term(ELLE(0.3), Surge(), every=2)})
    for step, errors in ((0, 1), (1, 0), (2, 1)):
        assert lazy.after({"chords": torch.tensor(1.0)}, step=step).penalties["chords"].weight.errors == errors
    plain = Objective(penalties={"chords": CHORDS})
    assert plain.after({"chords": torch.tensor(1.0)}) is plain
    scheduled = Term(ELLE(0.3), Surge(now=3.0), weight_schedule=Schedule(start=0.0), every=2)
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
        (lambda: Objective(statistics="running"), 'statistics "batch" or "frozen", received \'running\''),
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
        (lambda: Schedule(warm_up=-0.1), "a warm-up from 0 to 1.0, where the schedule ends, received -0.1"),
        (lambda: Schedule(warm_up=0.3, until=0.2), "a warm-up from 0 to 0.2, where the schedule ends, received 0.3"),
        (
            lambda: Objective(penalties_at="both"),
            'penalties at the "clean" or at the "attacked" inputs, received \'both\'',
        ),
        (lambda: Term(CURE(h=0.4), 1.0, scale_schedule=Schedule(warm_up=0.1)), "a scale that stays above 0"),
        (lambda: Term(CURE(h=0.4), 1.0, every=0), "a penalty at every step, or every second, or third, received 0"),
        (lambda: terms(Objective(), nn.Flatten(0)), "logits of shape"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
