"""Objectives: what they add up, in which mode the model sees it, and how often it is asked."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from objectives import ATTACK, CURVATURE, SLOPE, Watched, X, Y, each, network, slopes, terms
from torch.testing import assert_close

from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import NFGSM, PGD, OneStep
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, margin_loss
from lowcurve.models.modes import set_training
from lowcurve.penalties import CURE, GradAlign, InputGradientNorm, Penalty
from lowcurve.randomness import stream
from lowcurve.study.method_options import TrainingAttack
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Schedule, Term

LARGE = Ball(LINF, 0.3)
NAMES = (
    "FGSM",
    "RS-FGSM",
    "N-FGSM",
    "CURE+N-FGSM",
    "gradient-norm+N-FGSM",
    "SORA",
    "PGD",
    "gradient-norm+PGD",
    "GradAlign",
    "ELLE-A",
)


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
class Seen(Penalty):
    """A penalty that keeps the inputs it is asked at."""

    inputs: list

    def evaluate(self, jet, generator):  # noqa: ARG002 (the signature of Penalty)
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
    assert_close(found["it"], alone.term_values(copy.deepcopy(model), X, Y, generator=draws)["it"].mean * 2.0)
    assert_close(found["loss"], terms(replace(both, penalties={}), copy.deepcopy(model))["loss"])


@pytest.mark.parametrize("attack", [PGD(LARGE, steps=3, step_size=0.1), OneStep(LARGE), NFGSM(LARGE)])
def test_a_scheduled_radius_is_that_share_of_the_attacks_own_and_the_steps_go_with_it(attack):
    growing = Objective(attack=attack, radius_schedule=Schedule(start=0.0, until=0.5))
    small = replace(attack, radius=LARGE.radius / 4)
    if isinstance(attack, PGD):
        small = replace(small, step_size=0.1 / 4)
    for progress, there in {0.0: None, 0.125: small, 0.5: attack}.items():
        found = growing.terms(network(), X, Y, generator=stream(0, "step"), progress=progress)
        assert_close(found, Objective(attack=there).terms(network(), X, Y, generator=stream(0, "step")))


def test_a_scheduled_radius_wants_an_attack_within_a_ball_and_never_exceeds_it():
    growing = Schedule(start=0.0, until=0.5)
    with pytest.raises(
        InputError, match=r"an attack within a ball to schedule, got NoneType\. Leave out radius_schedule"
    ):
        Objective(radius_schedule=growing)
    for wrong in (Schedule(start=2.0), Schedule(end=-0.1)):
        with pytest.raises(InputError, match=r"shares of the attack's radius, from 0 to 1"):
            Objective(attack=ATTACK, radius_schedule=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_radius_of_every_method_trained_at_attacked_inputs_grows_over_the_ramp(name):
    for ramp, shares in ((0.0, [1.0, 1.0, 1.0]), (0.2, [0.0, 0.5, 1.0])):
        study = Study(methods=(name,), training_attack=TrainingAttack(ramp=ramp)).resolve()
        schedule = objective_of(name, study, (1.0,)).radius_schedule
        assert [schedule(progress) for progress in (0.0, 0.1, 0.2)] == shares


def test_a_method_whose_attack_has_no_ball_has_no_ramp():
    study = Study(methods=("standard", "DeepFool"), training_attack=TrainingAttack(ramp=0.2)).resolve()
    with pytest.raises(InputError, match=r"whose radius can grow, got DeepFool, which has none\. Leave out --train"):
        objective_of("DeepFool", study, (1.0,))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("CURE+gradient-norm", {"curvature", "gradient"}),
        ("CURE+N-FGSM", {"curvature"}),
        ("gradient-norm+PGD", {"gradient"}),
        ("gradient-norm+N-FGSM", {"gradient"}),
    ],
)
def test_methods_of_two_parts_have_the_attack_of_one_and_the_penalties_of_both(name, parts):
    study = Study().resolve()
    found, attacked = objective_of(name, study, (1.0,)), name.split("+")[1] in ("N-FGSM", "PGD")
    assert set(found.penalties) == parts
    assert found.attack == (objective_of(name.split("+")[1], study, (1.0,)).attack if attacked else None)
    for part in set(name.split("+")) & {"CURE", "gradient-norm"}:
        assert objective_of(part, study, (1.0,)).penalties.items() <= found.penalties.items()


@dataclass(frozen=True)
class Failing(Penalty):
    """A penalty, and an attack, that fails."""

    def __call__(self, *_, **__):
        raise RuntimeError("on purpose")

    evaluate = __call__


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
    with set_training(model, training=False):
        assert {m.training for m in model.modules()} == {False}
        with set_training(model, training=True):
            assert {m.training for m in model.modules()} == {True}
        assert {m.training for m in model.modules()} == {False}
    assert {m.training for m in model.modules()} == {True}


@dataclass(frozen=True)
class Confidence(Penalty):
    """A penalty of a user's own, with no attribute but its formula."""

    def evaluate(self, jet, generator):  # noqa: ARG002 (the signature of Penalty)
        return jet.logits.square().sum(1)


def test_a_penalty_of_the_users_own_needs_its_formula_alone():
    model = network()
    found = terms(Objective(penalties={"own": Term(Confidence(), 0.5)}, statistics="frozen"), model)
    with torch.no_grad():
        assert_close(found["own"].detach(), 0.5 * model.eval()(X).square().sum(1).mean())
    assert Objective(penalties={"own": Term(Confidence(), 0.5)}).differentiates_twice


def test_what_is_no_penalty_is_refused_where_a_term_is_made():
    with pytest.raises(InputError, match=r"a penalty for a term, got function. Derive its class"):
        Term(lambda jet, **_: jet.values, 1.0)
    with pytest.raises(InputError, match=r"a penalty with a scale h to schedule, got Confidence. Leave out"):
        Term(Confidence(), 1.0, scale_schedule=Schedule(start=0.5))
