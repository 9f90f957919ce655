"""Where training runs: precision, compiling, and what of it would go wrong in silence with penalties."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.testing import assert_close
from trainings import FEW, MEMBERS, NEAR, QUICK, Memory, difficult_network, equal, plain_network, trained

from lowcurve.analysis.norms import L2
from lowcurve.attacks import FGSM, PGD
from lowcurve.errors import InputError
from lowcurve.penalties import CURE, ELLE, InputGradientNorm
from lowcurve.randomness import temporary_seed
from lowcurve.study.measured_network import launch_fabric
from lowcurve.training import Hardware, Objective, Optimization, Schedule, Term, fit, make_fabric
from lowcurve.training.hardware import is_one_cpu_process, require_correct_strategy

CURVATURE, ATTACKED = MEMBERS["CURE"], MEMBERS["PGD"]
STILL = replace(QUICK, epochs=1, learning_rate=0.0)
SLOPE = Objective(penalties={"slope": Term(InputGradientNorm(), 0.1)})
PENALIZED = {name: objective for name, objective in MEMBERS.items() if objective.penalties}
penalized = pytest.mark.parametrize("objective", PENALIZED.values(), ids=PENALIZED)
HALVES = ["bf16-mixed", "16-mixed"]


def halved(precision: str = "bf16-mixed") -> Fabric:
    """Mixed precision on the CPU, in float16 with a scale of the loss as on a GPU."""
    scaler = torch.amp.GradScaler("cpu") if precision == "16-mixed" else None
    return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision(precision, "cpu", scaler)])


# --- precision


@pytest.mark.parametrize("objective", [CURVATURE, ATTACKED], ids=["CURE", "PGD"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision, objective):
    made = make_fabric(Hardware(accelerator="cpu", precision=precision))
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


def passes(objective: Objective, precision: str, steps: int = 1) -> list[tuple[bool, torch.dtype]]:
    """Of every forward pass in training, whether the model was in training mode, and in what its logits came."""
    model, seen = plain_network(), []
    model.register_forward_hook(lambda module, _, logits: seen.append((module.training, logits.dtype)))
    settings = Optimization(epochs=steps, batch_size=40)
    trained(objective, settings, model, fabric=halved(precision))
    return seen


def checked(seen: list[tuple[bool, torch.dtype]]) -> list[tuple[bool, torch.dtype]]:
    """The passes after the checks of the network, two for its draws and two in eval mode for its second derivatives."""
    assert [training for training, _ in seen[:4]] == [True, True, False, False]
    return seen[4:]


@pytest.mark.parametrize("precision", HALVES)
def test_what_a_penalty_sees_is_whole_and_all_else_is_half(precision):
    half, whole = torch.bfloat16 if precision == "bf16-mixed" else torch.float16, torch.float32
    assert passes(Objective(), precision) == [(True, half)]
    assert checked(passes(CURVATURE, precision)) == [(True, whole)] * 2
    assert passes(ATTACKED, precision) == [(False, half)] * 3 + [(True, half)]
    lazy = replace(CURVATURE, penalties={"it": Term(CURE(h=0.5), 1.0, every=2)})
    assert checked(passes(lazy, precision, steps=3)) == [(True, whole)] * 2 + [(True, half)] + [(True, whole)] * 2
    clean = replace(CURVATURE, attack=FGSM(NEAR))
    assert checked(passes(clean, precision)) == [(False, half)] * 2 + [(True, half)] + [(True, whole)] * 2
    there = replace(clean, penalties_at="attacked")
    assert checked(passes(there, precision)) == [(False, half)] * 2 + [(True, whole)] * 2
    rounded = half if half is torch.bfloat16 else whole  # no difference is lost, but float16 has no room for gradients
    assert checked(passes(SLOPE, precision)) == [(True, rounded)]
    both = replace(CURVATURE, penalties={**CURVATURE.penalties, **SLOPE.penalties})
    assert checked(passes(both, precision)) == [(True, whole)] * 2


@penalized
@pytest.mark.parametrize("precision", HALVES)
def test_penalties_are_the_same_number_in_every_mixed_precision(objective, precision):
    """Bit for bit: nothing of them is rounded to half, and none sees the scale of the loss.

    Only a gradient norm is rounded, to bfloat16, where nothing else uses the pass.
    """
    if objective.penalties_at == "attacked":
        objective = replace(objective, attack=None)  # the attack is in half precision, and finds another point
    _, expected = trained(objective, STILL)
    _, found = trained(objective, STILL, fabric=halved(precision))
    rounded = precision == "bf16-mixed" and all(t.penalty.rounds_like_the_loss for t in objective.penalties.values())
    for name in objective.penalties:
        assert found[0][name] == pytest.approx(expected[0][name], rel=0.02 if rounded else 0)


@pytest.mark.parametrize("precision", HALVES)
def test_the_mean_of_many_losses_is_not_rounded_to_half(precision):
    _, expected = trained(optimization=replace(STILL, batch_size=1))
    _, found = trained(optimization=replace(STILL, batch_size=1), fabric=halved(precision))
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-3)


def test_a_small_loss_keeps_its_gradient_under_the_scale():
    """Whole steps whose gradient float16 could not hold, with and without the scale: powers of 2 change nothing."""
    small = Objective(penalties={"it": Term(InputGradientNorm(), 1e-6)}, loss_weight=0.0)
    settings = Optimization(epochs=1, batch_size=8, optimizer="sgd", learning_rate=1.0, weight_decay=0.0)
    model, _ = trained(small, settings)
    half, _ = trained(small, settings, fabric=halved("16-mixed"))
    assert not equal(model.state_dict(), plain_network().state_dict())
    assert_close(half.state_dict(), model.state_dict(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("objective", [Objective(), CURVATURE, ATTACKED], ids=["plain", "CURE", "PGD"])
@pytest.mark.parametrize("precision", HALVES)
def test_the_gradient_that_is_clipped_is_not_scaled(objective, precision):
    settings = Optimization(
        epochs=1, batch_size=40, optimizer="sgd", learning_rate=1.0, weight_decay=0.0, gradient_clipping=0.1
    )
    model, _ = trained(objective, settings, fabric=halved(precision))
    pairs = zip(model.parameters(), plain_network().parameters(), strict=True)
    assert torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm().item() == pytest.approx(0.1, rel=1e-4)
    free, _ = trained(objective, replace(settings, gradient_clipping=1e6), fabric=halved(precision))
    whole, _ = trained(objective, replace(settings, gradient_clipping=1e6))
    assert_close(free.state_dict(), whole.state_dict(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_in_half_precision_are_refused_with_penalties_only(precision):
    made = make_fabric(Hardware(accelerator="cpu", precision=precision))
    with pytest.raises(InputError, match=r"float32 weights for penalties.*float16\. Write precision bf16-mix"):
        trained(PENALIZED["CURE, first order"], fabric=made)
    trained(fabric=make_fabric(Hardware(accelerator="cpu", precision="bf16-true")), optimization=STILL)


# --- compiling

compiled = Hardware(accelerator="cpu", compile=True)
# torch's own imports for compiling warn of its other parts.
quietly = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@quietly
@pytest.mark.parametrize("name", ["CURE", "CURE, detached", "LLR", "several"])
def test_penalties_that_differentiate_twice_run_the_network_as_it_was(name):
    model = torch.compile(plain_network(), backend="eager")  # by whomever
    if name == "CURE":
        del model._compile_kwargs  # and before Fabric was imported, which notes how
    _, expected = trained(MEMBERS[name])
    memory = Memory()
    _, history = trained(MEMBERS[name], model=model, checkpoint=memory)
    assert_close(history, expected, rtol=1e-5, atol=1e-6)
    assert list(memory.states[-1]["model"]) == list(plain_network().state_dict())


@quietly
def test_only_passes_of_such_a_penalty_are_not_compiled():
    torch.compiler.reset()
    compiled_calls: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        return lambda *inputs: (compiled_calls.append(1), graph(*inputs))[1]

    model = torch.compile(plain_network(), backend=backend)
    lazy = Objective(penalties={"curvature": Term(CURE(h=0.5), 1.0, every=2)})
    for objective, step, expected in [(lazy, 0, False), (lazy, 1, True), (replace(lazy, attack=FGSM(NEAR)), 0, True)]:
        compiled_calls.clear()
        objective.terms(model, FEW.x, FEW.y, step=step)
        assert bool(compiled_calls) == expected
    torch.compiler.reset()


@quietly
def test_kinks_are_found_although_compiling_would_hide_them():
    with temporary_seed(0, "kinks"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match="a smooth field for first_order differences, got one made with Relu"):
        trained(PENALIZED["CURE, first order"], model=model, fabric=make_fabric(compiled))


@quietly
@compiler
@pytest.mark.slow
def test_a_compiled_training_is_that_of_the_eager_network():
    """An attack (eval mode, input gradients), penalties that differentiate once, an average, the best weights, a resume."""
    penalties = {
        "curvature": Term(CURE(h=0.5, differentiation="first_order"), 1.0),
        "chords": Term(ELLE(0.5), 10.0),
    }
    objective = Objective(attack=PGD(NEAR, steps=2), penalties=penalties, statistics="frozen")
    settings = Optimization(epochs=2, batch_size=20, average=0.5, keep="best")
    options: Any = {"validation": FEW, "validation_attack": FGSM(NEAR)}
    whole, expected = trained(objective, settings, difficult_network(), **options)
    memory, model = Memory(), difficult_network()
    _, history = trained(objective, settings, model, fabric=make_fabric(compiled), checkpoint=memory, **options)
    assert_close(history, expected, rtol=1e-5, atol=1e-5)
    assert_close(model.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-5)
    assert [list(state["model"]) for state in memory.states] == [list(whole.state_dict())] * 2
    memory.states.pop()
    resumed, again = trained(objective, settings, difficult_network(), checkpoint=memory, **options)  # by an eager one
    assert_close(again, expected, rtol=1e-5, atol=1e-5)
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@quietly
@compiler
@pytest.mark.slow
def test_batch_statistics_of_a_compiled_network():
    objective = replace(ATTACKED, penalties={"chords": Term(ELLE(0.5), 10.0)})
    model, whole = difficult_network(), difficult_network()
    for network in (model, whole):
        network[3].p = 0.0  # dropout draws other numbers once it is compiled
    calm = replace(QUICK, optimizer="sgd")  # Adam divides rounding by rounding
    _, history = trained(objective, calm, model, fabric=make_fabric(compiled))
    _, expected = trained(objective, calm, whole)
    assert_close(history, expected, rtol=1e-5, atol=1e-5)
    assert_close(model.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


# --- refusals


@pytest.mark.parametrize("objective", [CURVATURE, Objective(penalties={"g": Term(InputGradientNorm(L2), 1.0)})])
def test_a_static_graph_is_refused_with_penalties_only(objective):
    made = make_fabric(Hardware(accelerator="cpu", devices=2), strategy=DDPStrategy(static_graph=True))
    with pytest.raises(InputError, match="a dynamic graph for an objective with input-gradient penalties"):
        require_correct_strategy(made, objective)
    with pytest.raises(InputError, match="static_graph=True"):
        fit(plain_network(), objective, FEW, QUICK, fabric=made)
    require_correct_strategy(made, Objective())
    require_correct_strategy(made, ATTACKED)
    require_correct_strategy(make_fabric(Hardware(accelerator="cpu", devices=2, strategy="ddp")), objective)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_parameters_are_refused_with_penalties_only(strategy):
    class Stand:  # a Fabric of these asks for an accelerator
        pass

    made = Stand()
    made.strategy = strategy() if strategy is FSDPStrategy else strategy(lambda model, _mesh: model)
    with pytest.raises(InputError, match=f"whole parameters .* got {strategy.__name__}"):
        require_correct_strategy(made, CURVATURE)
    require_correct_strategy(made, Objective())


@pytest.mark.parametrize("name", ["CURE, first order", "CURE, secant", "LLR, first order"])
@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.Dropout(0.1)], ids=["BatchNorm", "dropout"])
def test_differences_of_losses_want_frozen_statistics_and_say_so_before_the_first_step(name, layer):
    def never(_steps, _heading):
        raise AssertionError("training has begun")

    model = nn.Sequential(layer, *plain_network()).eval()
    way = MEMBERS[name].penalties["it"].penalty.differentiation
    message = f'frozen statistics with it by "{way}", got {type(layer).__name__}.*. Write Objective'
    with pytest.raises(InputError, match=message):
        trained(replace(MEMBERS[name], statistics="batch"), model=model, progress=never)
    trained(replace(MEMBERS[name], statistics="batch"), optimization=STILL)  # a network without such layers
    trained(MEMBERS[name], STILL, model)


@pytest.mark.parametrize("words", [{"accelerator": "abacus"}, {"precision": "12-maybe"}, {"strategy": "hope"}])
def test_hardware_that_is_none(words):
    with pytest.raises(InputError, match="hardware that Lightning Fabric knows"):
        make_fabric(Hardware(**{"accelerator": "cpu", **words}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is CUDA")
def test_hardware_that_is_not_here():
    with pytest.raises(InputError, match=r"hardware that Lightning Fabric knows .*accelerator='cuda'"):
        make_fabric(Hardware(accelerator="cuda"))


# --- a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("precision", ["32-true", *HALVES])
@pytest.mark.parametrize("objective", MEMBERS.values(), ids=MEMBERS)
def test_a_gpu_takes_the_steps_of_a_cpu(objective, precision):
    """Penalties as on the CPU whatever the precision is; gradients clipped as they are, not as they are scaled."""
    settings = Optimization(
        epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.1, gradient_clipping=0.5, weight_decay=0.0,
        learning_rate_schedule=Schedule(),
    )  # fmt: skip
    model, history = trained(objective, settings, fabric=make_fabric(Hardware(accelerator="cuda", precision=precision)))
    whole, expected = trained(objective, settings)
    tolerance = 1e-3 if precision == "32-true" else 3e-2
    assert_close(history, expected, rtol=tolerance, atol=tolerance)
    assert_close(model.cpu().state_dict(), whole.state_dict(), rtol=tolerance, atol=tolerance)


@quietly
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_compiles():
    objective = replace(ATTACKED, penalties={"chords": Term(ELLE(0.5), 10.0)})
    made = make_fabric(Hardware(accelerator="cuda", compile=True, precision="bf16-mixed"))
    model, history = trained(objective, QUICK, fabric=made)
    whole, expected = trained(
        objective, QUICK, fabric=make_fabric(Hardware(accelerator="cuda", precision="bf16-mixed"))
    )
    assert_close(history, expected, rtol=3e-2, atol=3e-2)
    assert_close(model.state_dict(), whole.state_dict(), rtol=3e-2, atol=3e-2)


def test_an_evaluation_by_one_process_on_the_cpu_needs_no_fabric(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert all(map(is_one_cpu_process, (Hardware(), Hardware(accelerator="cpu"))))
    others = ({"devices": 2}, {"nodes": 2}, {"precision": "bf16-mixed"}, {"accelerator": "cuda"}, {"compile": True})
    assert not any(is_one_cpu_process(Hardware(**other)) for other in others)
    launch_fabric.cache_clear()
    alone = launch_fabric(Hardware(accelerator="cpu"))
    assert (alone.device.type, alone.global_rank, alone.world_size, alone.is_global_zero) == ("cpu", 0, 1, True)
    alone.barrier()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not is_one_cpu_process(Hardware())
    assert is_one_cpu_process(Hardware(accelerator="cpu"))
