"""Training: what it learns, what its history holds, which weights it keeps, and what it refuses."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from trainings import (
    CPU,
    FEW,
    MEMBERS,
    NEAR,
    QUICK,
    Memory,
    Stopped,
    difficult_network,
    equal,
    plain_network,
    stopping,
    trained,
)

from lowcurve.attacks import FGSM, PGD, Noise
from lowcurve.data import Augmentation, Examples, digits
from lowcurve.errors import InputError
from lowcurve.evaluation import attack, correct
from lowcurve.models import Network
from lowcurve.penalties import CURE
from lowcurve.randomness import stream, temporary_seed
from lowcurve.store import Run
from lowcurve.training import Objective, Optimization, Schedule, Term, make_fabric

CURVATURE = Objective(penalties={"curvature": Term(CURE(h=0.5), 1.0)})
ATTACKED = MEMBERS["PGD"]


# --- learning


@pytest.fixture(scope="module")
def digits_training():
    data = digits()
    mean, std = data.statistics()
    model = Network("small-convnet", data.shape, 10, mean, std, width=8).build(seed=0)
    optimization = Optimization(epochs=6, batch_size=32, learning_rate=5e-3)
    before = torch.get_rng_state()
    _, history = trained(optimization=optimization, model=model, examples=data.train, validation=data.validation)
    return model, history, data, torch.equal(before, torch.get_rng_state())


def test_a_small_network_learns_the_digits(digits_training):
    model, history, data, _ = digits_training
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert correct(model, data.test).mean() > 0.9


def test_the_history_has_a_row_an_epoch(digits_training):
    model, history, data, _ = digits_training
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert set(history[0]) == {"epoch", "loss", "learning rate", "validation accuracy"}
    assert history[-1]["validation accuracy"] == correct(model, data.validation).mean()


def test_the_model_ends_in_eval_mode_and_the_global_chance_is_untouched(digits_training):
    model, _, _, untouched = digits_training
    assert not any(module.training for module in model.modules())
    assert untouched


def test_the_global_chance_is_untouched_by_dropout_attacks_and_augmentation():
    before = torch.get_rng_state()
    optimization = Optimization(epochs=1, batch_size=8, augmentation=Augmentation(1, True))
    trained(ATTACKED, optimization, difficult_network())
    assert torch.equal(before, torch.get_rng_state())


def test_an_epochs_row_is_the_mean_of_its_steps():
    plain = Optimization(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.0)
    model, history = trained(CURVATURE, plain)
    terms = CURVATURE.terms(model, FEW.x, FEW.y, generator=stream(0))
    assert_close(history[0]["loss"], terms["loss"].item(), rtol=1e-5, atol=1e-6)
    assert_close(history[0]["curvature"], terms["curvature"].item(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_takes_its_own_first_step(optimizer):
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    }
    settings = Optimization(
        epochs=2, batch_size=40, optimizer=optimizer, learning_rate=0.1, learning_rate_schedule=Schedule(),
        momentum=0.5, weight_decay=0.01,
    )  # fmt: skip
    model, history = trained(optimization=settings)
    expected = plain_network()
    by_hand = kinds[optimizer](expected.parameters())
    for _ in range(2):
        by_hand.zero_grad()
        nn.functional.cross_entropy(expected(FEW.x), FEW.y).backward()
        by_hand.step()
    for name, value in expected.state_dict().items():
        assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    assert history[1]["loss"] != history[0]["loss"]


def test_an_optimizer_that_is_none():
    with pytest.raises(InputError, match="an optimizer among sgd, adam, adamw"):
        trained(optimization=Optimization(optimizer="lion"))


def test_the_gradient_is_clipped_to_its_length():
    def step_length(clipping):
        settings = Optimization(
            epochs=1, batch_size=40, optimizer="sgd", learning_rate=1.0, weight_decay=0.0, gradient_clipping=clipping
        )
        model, _ = trained(optimization=settings)
        pairs = zip(model.parameters(), plain_network().parameters(), strict=True)
        return torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm().item()

    free = step_length(None)
    assert free > 0.1
    assert_close(step_length(0.1), 0.1, rtol=1e-4, atol=0)
    assert_close(step_length(100 * free), free)


def test_the_learning_rate_follows_its_schedule():
    _, history = trained(optimization=Optimization(epochs=4, batch_size=40, learning_rate=0.1))
    expected = [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert_close([row["learning rate"] for row in history], expected)


def test_the_weight_and_the_scale_of_a_penalty_follow_their_schedules():
    still = Optimization(epochs=4, batch_size=40, optimizer="sgd", learning_rate=0.0)
    doubled = Objective(penalties={"curvature": Term(CURE(h=0.5), 1.0, weight_schedule=Schedule(start=0.0, until=0.5))})
    _, history = trained(doubled, still)
    shares = [row["curvature"] / history[-1]["curvature"] for row in history]
    assert_close(shares, [0.0, 0.5, 1.0, 1.0], rtol=1e-4, atol=1e-6)
    wider = Objective(penalties={"curvature": Term(CURE(h=0.5), 1.0, scale_schedule=Schedule(start=0.1, until=0.25))})
    _, history = trained(wider, still)
    assert history[0]["curvature"] < 0.1 * history[1]["curvature"]
    assert_close(history[1]["curvature"], history[3]["curvature"])


# --- averages


def test_the_average_of_the_weights_is_the_result():
    settings = Optimization(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.3, average=0.5)
    memory, model = Memory(), difficult_network()
    trained(optimization=settings, model=model, checkpoint=memory, checkpoint_every=1)
    raw = [state["model"] for state in memory.states]
    expected = raw[0]
    for weights in raw[1:]:
        expected = {name: 0.5 * expected[name] + 0.5 * weights[name] for name in weights}
    found = model.state_dict()
    for name in found:
        if found[name].is_floating_point():
            assert_close(found[name], expected[name], msg=name)
    assert not torch.equal(found["5.weight"], raw[-1]["5.weight"])


def test_validation_looks_at_the_average():
    settings = Optimization(epochs=2, batch_size=10, optimizer="sgd", learning_rate=0.3, average=0.9)
    model, history = trained(optimization=settings, validation=FEW)
    assert history[-1]["validation accuracy"] == pytest.approx(correct(model, FEW).mean())


# --- augmentation


def test_augmentation_changes_what_is_seen():
    one = Optimization(epochs=1, batch_size=8, optimizer="sgd")
    plain, _ = trained(optimization=one)
    shifted, _ = trained(
        optimization=Optimization(epochs=1, batch_size=8, optimizer="sgd", augmentation=Augmentation(2))
    )
    again, _ = trained(optimization=Optimization(epochs=1, batch_size=8, optimizer="sgd", augmentation=Augmentation(2)))
    assert not equal(plain.state_dict(), shifted.state_dict())
    assert equal(shifted.state_dict(), again.state_dict())


def test_a_seed_decides_everything():
    first, _ = trained(ATTACKED, model=difficult_network(), seed=1)
    second, _ = trained(ATTACKED, model=difficult_network(), seed=1)
    third, _ = trained(ATTACKED, model=difficult_network(), seed=2)
    assert equal(first.state_dict(), second.state_dict())
    assert not equal(first.state_dict(), third.state_dict())


# --- fine-tuning


@pytest.mark.parametrize("objective", MEMBERS.values(), ids=MEMBERS)
def test_frozen_statistics_stay_whatever_is_minimized(objective):
    """Also in the average of the weights, and in the weights that are kept."""
    model = difficult_network()
    model[1].running_mean.fill_(0.1)
    before = {name: value.clone() for name, value in model[1].named_buffers()}
    settings = replace(QUICK, average=0.7, keep="best")
    trained(replace(objective, statistics="frozen"), settings, model, validation=FEW, validation_attack=FGSM(NEAR))
    assert equal(dict(model[1].named_buffers()), before)
    assert not torch.equal(model[1].weight, difficult_network()[1].weight)


def test_other_statistics_move():
    model = difficult_network()
    before = model[1].running_mean.clone()
    trained(model=model)
    assert not torch.equal(model[1].running_mean, before)


def test_a_warm_up_begins_at_nothing():
    triangle = Schedule(end=0.0, warm_up=0.5)
    _, history = trained(
        optimization=Optimization(epochs=4, batch_size=40, learning_rate=0.1, learning_rate_schedule=triangle)
    )
    assert_close([row["learning rate"] for row in history], [0.0, 0.05, 0.1, 0.05])
    assert history[1]["loss"] == pytest.approx(history[0]["loss"], rel=1e-6)  # nothing was learned from the first


# --- which weights are kept

UNSTEADY = Optimization(epochs=8, batch_size=10, learning_rate=0.1, learning_rate_schedule=Schedule())


def by_epoch(**options):
    """The history of an unsteady training, and the weights after each of its epochs."""
    memory = Memory()
    _, history = trained(optimization=UNSTEADY, checkpoint=memory, **options)
    return history, [state["model"] for state in memory.states]


@pytest.mark.parametrize("against", [None, PGD(NEAR, steps=3)], ids=["clean", "robust"])
def test_the_best_weights_are_those_of_the_highest_validation_accuracy(against):
    options = {"validation": FEW.take(slice(15)), "validation_attack": against}
    history, weights = by_epoch(**options)
    scores = [row["validation accuracy" if against is None else "validation robust accuracy"] for row in history]
    best = scores.index(max(scores))  # the first of equals
    assert max(scores) > 0
    assert best < 7
    model, again = trained(optimization=replace(UNSTEADY, keep="best"), **options)
    assert again == history
    assert equal(model.state_dict(), weights[best])
    assert not any(module.training for module in model.modules())


def test_of_equally_good_epochs_the_earlier_is_kept():
    options = {"validation": FEW.take(slice(4))}
    history, weights = by_epoch(**options)
    scores = [row["validation accuracy"] for row in history]
    assert scores.count(max(scores)) > 1
    model, _ = trained(optimization=replace(UNSTEADY, keep="best"), **options)
    assert equal(model.state_dict(), weights[scores.index(max(scores))])


def test_with_an_average_it_is_the_average_that_is_validated_and_kept():
    memory, settings = Memory(), replace(UNSTEADY, average=0.6, keep="best")
    options = {"validation": FEW.take(slice(15)), "validation_attack": FGSM(NEAR)}
    model, history = trained(optimization=settings, checkpoint=memory, **options)
    scores = [row["validation robust accuracy"] for row in history]
    best = scores.index(max(scores))
    assert max(scores) > scores[-1]
    averages = memory.states[best]["average"]
    assert equal(model.state_dict(), {name: averages[f"module.{name}"] for name in model.state_dict()})
    assert correct(model, options["validation"]).mean() == pytest.approx(history[best]["validation accuracy"])


def test_robust_accuracy_is_that_of_the_evaluation():
    """The attack sees the network in eval mode, has a stream of its own, and only who is right can stand."""
    whole = FEW.take(slice(30))
    for against in (PGD(NEAR, steps=3), Noise(NEAR)):
        model, history = trained(model=difficult_network(), validation=whole, validation_attack=against)
        batches, robust = [slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 30)], 0
        for rows in batches:
            few = whole.take(rows)
            few = few.take(torch.nonzero(torch.from_numpy(correct(model, few))).flatten())
            moved = against(model, few.pixels(slice(None)), few.y, generator=stream(0, "validation attack"))
            robust += int((model(moved).argmax(1) == few.y).sum())
        assert history[-1]["validation robust accuracy"] == robust / 30
        assert history[-1]["validation accuracy"] == correct(model, whole).mean()
    strong = attack(model, whole, PGD(NEAR, steps=3)).robust.mean()
    assert strong <= history[-1]["validation accuracy"]


def test_validation_leaves_training_alone():
    model, history = trained(ATTACKED, model=difficult_network())
    validated, longer = trained(
        ATTACKED, model=difficult_network(), validation=FEW, validation_attack=PGD(NEAR, steps=2)
    )
    assert equal(model.state_dict(), validated.state_dict())
    extra = {"validation accuracy", "validation robust accuracy"}
    assert [{name: row[name] for name in row if name not in extra} for row in longer] == history
    assert all(extra < set(row) for row in longer)


@pytest.mark.parametrize("empty", [None, FEW.take([])], ids=["none", "empty"])
def test_nothing_to_choose_weights_by(empty):
    message = "a validation split to choose weights by or to attack, got none. Give validation="
    with pytest.raises(InputError, match=message):
        trained(optimization=replace(QUICK, keep="best"), validation=empty)
    with pytest.raises(InputError, match=message):
        trained(validation=empty, validation_attack=FGSM(NEAR))
    _, history = trained(validation=empty)
    assert set(history[0]) == {"epoch", "loss", "learning rate"}


# --- what goes wrong


def test_a_loss_that_is_no_longer_finite_is_named_with_its_step():
    broken = Optimization(epochs=3, batch_size=8, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(InputError, match=r"a finite loss in training, got (nan|inf) at step [1-9]"):
        trained(optimization=broken)


def test_a_penalty_that_is_no_longer_finite_is_named():
    huge = Objective(penalties={"curvature": Term(CURE(h=0.5), math.inf)})
    with pytest.raises(InputError, match=r"a finite curvature in training, got (inf|nan) at step 0"):
        trained(huge)


def test_weights_that_are_not_finite_are_found_at_the_first_step():
    model = plain_network()
    model[0].weight.data[0] = math.nan
    with pytest.raises(InputError, match=r"a finite loss in training, got nan at step 0\. .*look for NaN"):
        trained(model=model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"batch_size": 0}, "a batch size of at least 1"),
        ({"learning_rate": -1.0}, "a learning rate of 0 or more"),
        ({"learning_rate": math.nan}, "a learning rate of 0 or more"),
        ({"average": 1.0}, "an average's decay from 0 to below 1"),
        ({"gradient_clipping": 0.0}, "a length above 0 to clip gradients to"),
        ({"keep": "first"}, 'the "last" or the "best" weights to keep, got \'first\''),
    ],
)
def test_settings_that_cannot_train(settings, message):
    with pytest.raises(InputError, match=message):
        trained(optimization=Optimization(**settings))


def test_no_examples():
    with pytest.raises(InputError, match="at least one example"):
        trained(examples=FEW.take([]))


# --- logs


def test_the_logs_hold_the_numbers_of_the_history(tmp_path):
    run = Run(tmp_path)
    made = make_fabric(CPU, loggers=run.loggers("standard", ("csv", "tensorboard")))
    _, history = trained(CURVATURE, fabric=made, validation=FEW)
    with (tmp_path / "logs" / "standard" / "part-1" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [5, 10]
    for row, expected in zip(rows, history, strict=True):
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-5)
    events = tensorboard_scalars(tmp_path / "logs" / "standard" / "part-1")
    assert set(events) == set(history[0])
    for name, series in events.items():
        assert_close(series, [(5, history[0][name]), (10, history[1][name])], rtol=1e-5, atol=1e-6)


def test_the_log_of_a_training_that_was_stopped_holds_what_was_done(tmp_path):
    made = make_fabric(CPU, loggers=Run(tmp_path).loggers("standard"))
    with pytest.raises(Stopped):
        trained(fabric=made, progress=stopping(7))
    with (tmp_path / "logs" / "standard" / "part-1" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5"]


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_points_of_the_plane_train_too():
    with temporary_seed(0, "plane"):
        model = nn.Linear(2, 2)
    points = Examples(torch.rand(32, 2, generator=stream(0, "points")), torch.arange(32) % 2, ("a", "b"))
    _, history = trained(CURVATURE, model=model, examples=points)
    assert all(math.isfinite(row["curvature"]) for row in history)
