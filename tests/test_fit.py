"""Training: it learns, it resumes exactly, processes agree, and what would go wrong in silence is refused."""

import copy
import csv
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_process as process
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.testing import assert_close

from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.data import Augmentation, Examples, digits
from lowcurve.errors import InputError
from lowcurve.evaluation import correct
from lowcurve.models import Network
from lowcurve.penalties import CURE, InputGradientNorm
from lowcurve.randomness import isolated, stream
from lowcurve.store import Run
from lowcurve.training import Hardware, Objective, Optimization, Schedule, Term, fabric, fit
from lowcurve.training.hardware import refuse_what_is_silently_wrong

SCRIPT = Path(__file__).with_name("training_process.py")
CPU = Hardware(accelerator="cpu")
FEW = process.examples()
CURVATURE = Objective(penalties={"curvature": Term(CURE(h=0.5), 1.0)})
ATTACKED = Objective(attack=PGD(Ball(LINF, 0.05), steps=2))
QUICK = Optimization(epochs=2, batch_size=8, learning_rate=1e-2)


def trained(objective=None, optimization=QUICK, model=None, examples=FEW, **options):
    model = process.plain_network() if model is None else model
    made = options.pop("fabric", None) or fabric(CPU)
    history = fit(model, objective or Objective(), examples, optimization, fabric=made, **options)
    return model, history


def child(*words: object, timeout: float = 120) -> subprocess.CompletedProcess:
    hidden = ("MASTER_PORT", "MASTER_ADDR", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Memory:
    """A checkpoint in memory, copied as a disk would."""

    def __init__(self) -> None:
        self.states = []

    def save(self, state) -> None:
        self.states.append(copy.deepcopy(dict(state)))

    def load(self):
        return copy.deepcopy(self.states[-1]) if self.states else None


class Stopped(Exception):
    pass


def stopping(before):
    def progress(steps, _heading):
        for step in steps:
            if step == before:
                raise Stopped
            yield step

    return progress


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
    trained(ATTACKED, optimization, process.difficult_network())
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
    expected = process.plain_network()
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
        pairs = zip(model.parameters(), process.plain_network().parameters(), strict=True)
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
    memory, model = Memory(), process.difficult_network()
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
    first, _ = trained(ATTACKED, model=process.difficult_network(), seed=1)
    second, _ = trained(ATTACKED, model=process.difficult_network(), seed=1)
    third, _ = trained(ATTACKED, model=process.difficult_network(), seed=2)
    assert equal(first.state_dict(), second.state_dict())
    assert not equal(first.state_dict(), third.state_dict())


def test_frozen_statistics_stay():
    model = process.difficult_network()
    before = model[1].running_mean.clone()
    trained(Objective(statistics="frozen"), model=model)
    assert torch.equal(model[1].running_mean, before)
    trained(model=model)
    assert not torch.equal(model[1].running_mean, before)


# --- going on after an end


@pytest.fixture(scope="module")
def uninterrupted():
    model = process.difficult_network()
    history = process.difficult_training(model)
    return model.state_dict(), history


@pytest.mark.parametrize("before", range(20))
def test_a_training_stopped_at_any_step_goes_on_as_if_it_had_not_been(uninterrupted, before):
    memory = Memory()
    with pytest.raises(Stopped):
        process.difficult_training(process.difficult_network(), checkpoint=memory, progress=stopping(before))
    assert (memory.states[-1]["step"] if memory.states else 0) == before - before % 2
    model = process.difficult_network()
    history = process.difficult_training(model, checkpoint=memory)
    weights, expected = uninterrupted
    assert history == expected
    assert equal(model.state_dict(), weights)


def test_a_training_killed_again_and_again_ends_in_the_same_bits(uninterrupted, tmp_path):
    # In the first epoch, in the middle of the third, and at the border of the last two; checkpoints at 2, 10 and 14.
    for before, step in ((3, 2), (11, 10), (15, 14)):
        killed = child("resume", tmp_path, before)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == step
        assert not (tmp_path / "result.pt").exists()
    last = child("resume", tmp_path, -1)
    assert last.returncode == 0, last.stderr
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    weights, history = uninterrupted
    assert found["history"] == history
    assert equal(found["weights"], weights)


def test_a_training_that_was_done_is_not_done_again(uninterrupted):
    memory, model = Memory(), process.difficult_network()
    process.difficult_training(model, checkpoint=memory)
    model = process.difficult_network()
    history = process.difficult_training(model, checkpoint=memory, progress=stopping(0))
    assert history == uninterrupted[1]
    assert equal(model.state_dict(), uninterrupted[0])


def test_a_checkpoint_once_an_epoch_unless_told_otherwise():
    memory = Memory()
    trained(checkpoint=memory)
    assert [state["step"] for state in memory.states] == [5, 10]
    memory = Memory()
    trained(checkpoint=memory, checkpoint_every=4)
    assert [state["step"] for state in memory.states] == [4, 8, 10]


# --- two processes


def test_an_evaluation_shared_by_two_processes_is_that_of_one(tmp_path):
    shared = child("attack", tmp_path)
    assert shared.returncode == 0, shared.stderr[-3000:]
    alone = process.attacked(None)
    assert 0 < alone.standing.mean() < 1
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert found["fallen to"] == alone.fallen_to.tolist()
        assert found["looks"].tolist() == alone.looks.tolist()
        assert_close(found["inputs"], alone.inputs, rtol=0, atol=1e-9)
        for name, values in process.measured(None).items():
            assert_close(found["measured"][name], torch.from_numpy(values))


def test_two_processes_take_the_steps_of_one(tmp_path):
    shared = child("share", tmp_path)
    assert shared.returncode == 0, shared.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, objective in process.OBJECTIVES.items():
        model, history = process.shared_training(fabric(CPU), objective)
        assert equal(ranks[0][name]["weights"], ranks[1][name]["weights"])
        start = process.plain_network().state_dict()
        for key, expected in model.state_dict().items():
            assert_close(ranks[0][name]["weights"][key], expected, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")
            assert float((expected - start[key]).abs().max()) > 1e-3
        for key, value in history[0].items():
            assert ranks[0][name]["history"][0][key] == pytest.approx(value, rel=1e-5), f"{name}: {key}"
        assert ranks[0][name]["history"] == ranks[1][name]["history"]


@pytest.mark.parametrize("objective", [CURVATURE, Objective(penalties={"g": Term(InputGradientNorm(L2), 1.0)})])
def test_a_static_graph_is_refused_with_penalties_only(objective):
    made = fabric(Hardware(accelerator="cpu", devices=2), strategy=DDPStrategy(static_graph=True))
    with pytest.raises(InputError, match="a dynamic graph for an objective with input-gradient penalties"):
        refuse_what_is_silently_wrong(made, objective)
    with pytest.raises(InputError, match="static_graph=True"):
        fit(process.plain_network(), objective, FEW, QUICK, fabric=made)
    refuse_what_is_silently_wrong(made, Objective())
    refuse_what_is_silently_wrong(made, ATTACKED)
    refuse_what_is_silently_wrong(fabric(Hardware(accelerator="cpu", devices=2, strategy="ddp")), objective)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_parameters_are_refused_with_penalties_only(strategy):
    class Stand:  # a Fabric of these asks for an accelerator
        pass

    made = Stand()
    made.strategy = strategy() if strategy is FSDPStrategy else strategy(lambda model, _mesh: model)
    with pytest.raises(InputError, match=f"whole parameters .* received {strategy.__name__}"):
        refuse_what_is_silently_wrong(made, CURVATURE)
    refuse_what_is_silently_wrong(made, Objective())


# --- what goes wrong


def test_a_loss_that_is_no_longer_finite_is_named_with_its_step():
    broken = Optimization(epochs=3, batch_size=8, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(InputError, match=r"a finite loss in training, received (nan|inf) at step [1-9]"):
        trained(optimization=broken)


def test_a_penalty_that_is_no_longer_finite_is_named():
    huge = Objective(penalties={"curvature": Term(CURE(h=0.5), math.inf)})
    with pytest.raises(InputError, match=r"a finite curvature in training, received (inf|nan) at step 0"):
        trained(huge)


def test_weights_that_are_not_finite_are_found_at_the_first_step():
    model = process.plain_network()
    model[0].weight.data[0] = math.nan
    with pytest.raises(InputError, match=r"a finite loss in training, received nan at step 0; .*look for NaN"):
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
    ],
)
def test_settings_that_cannot_train(settings, message):
    with pytest.raises(InputError, match=message):
        trained(optimization=Optimization(**settings))


@pytest.mark.parametrize("words", [{"accelerator": "abacus"}, {"precision": "12-maybe"}, {"strategy": "hope"}])
def test_hardware_that_is_none(words):
    with pytest.raises(InputError, match="hardware that Lightning Fabric knows"):
        fabric(Hardware(**{"accelerator": "cpu", **words}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is CUDA")
def test_hardware_that_is_not_here():
    with pytest.raises(InputError, match=r"hardware that Lightning Fabric knows .*accelerator='cuda'"):
        fabric(Hardware(accelerator="cuda"))


def test_no_examples():
    with pytest.raises(InputError, match="at least one example"):
        trained(examples=FEW.take([]))


# --- logs


def test_the_logs_hold_the_numbers_of_the_history(tmp_path):
    run = Run(tmp_path)
    made = fabric(CPU, loggers=run.loggers("standard"))
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
    made = fabric(CPU, loggers=Run(tmp_path).loggers("standard"))
    with pytest.raises(Stopped):
        trained(fabric=made, progress=stopping(7))
    with (tmp_path / "logs" / "standard" / "part-1" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5"]


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


# --- precision


@pytest.mark.parametrize("objective", [CURVATURE, ATTACKED], ids=["CURE", "PGD"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision, objective):
    made = fabric(Hardware(accelerator="cpu", precision=precision))
    optimization = Optimization(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.1)
    model, history = trained(objective, optimization, fabric=made, validation=FEW)
    reference, expected = trained(objective, optimization)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model[0].weight.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    tolerance = 1e-3 if precision == "64-true" else 0.05
    for name, value in expected[0].items():
        assert history[0][name] == pytest.approx(value, rel=tolerance, abs=1e-3)
    with torch.no_grad():
        assert_close(model.float()(FEW.x), reference(FEW.x), rtol=10 * tolerance, atol=10 * tolerance)


def test_points_of_the_plane_train_too():
    with isolated(0, "plane"):
        model = nn.Linear(2, 2)
    points = Examples(torch.rand(32, 2, generator=stream(0, "points")), torch.arange(32) % 2, ("a", "b"))
    _, history = trained(CURVATURE, model=model, examples=points)
    assert all(math.isfinite(row["curvature"]) for row in history)
