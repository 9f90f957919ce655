"""Training with LCNN's penalty: its value, independence of the examples, and tracked and resumed norms."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from trainings import (
    FEW,
    LOW_CURVATURE,
    Memory,
    Stopped,
    equal,
    low_curvature_network,
    plain_network,
    stopping,
    trained,
)

from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models import CenteredSoftplus, summary
from lowcurve.models.lipschitz import LipschitzConv2d, LipschitzLinear, lipschitz_layers
from lowcurve.penalties import LCNNPenalty
from lowcurve.penalties.lcnn import PUBLISHED, RELEASED
from lowcurve.randomness import stream
from lowcurve.training import Hardware, Objective, Optimization, Term, make_fabric

X, Y = FEW.x[:8], FEW.y[:8]
every_objective = pytest.mark.parametrize("objective", LOW_CURVATURE.values(), ids=LOW_CURVATURE)
LONG = Optimization(epochs=3, batch_size=8, learning_rate=1e-2, average=0.8)


def of(penalty: LCNNPenalty, model: nn.Module) -> torch.Tensor:
    return penalty(Jet(loss_field(model.eval(), Y), X), generator=stream(0))


def layers(low: bool = False) -> nn.Sequential:
    """Layers with betas 4 and 0.5 and a fixed one, and with gammas 10 and 2 (or 1/2) and a fixed one."""
    second = LipschitzLinear(36, 36, gamma=0.5 if low else 2.0, learn=True, at_least_one=not low)
    first, fixed = LipschitzLinear(36, 36, gamma=10.0, learn=True), LipschitzLinear(36, 3, gamma=7.0)
    acts = CenteredSoftplus(4.0), CenteredSoftplus(0.5), CenteredSoftplus(9.0, learn=False)
    return nn.Sequential(nn.Flatten(), first, acts[0], second, acts[1], fixed, acts[2])


def test_the_penalty_is_the_weighted_sum_over_what_is_learned():
    assert_close(of(LCNNPenalty(0.1, 0.01), layers()).item(), 0.1 * 4.5 + 0.01 * math.log(20))
    assert_close(of(LCNNPenalty(0.0, 1.0), layers(low=True)).item(), math.log(5), rtol=1e-5, atol=0)
    assert_close(of(LCNNPenalty(0.0, 1.0, absolute=True), layers(low=True)).item(), math.log(20), rtol=1e-5, atol=0)
    assert_close(of(RELEASED, layers()), 10 * of(PUBLISHED, layers()))
    assert (PUBLISHED.beta, PUBLISHED.gamma, RELEASED.beta, RELEASED.gamma) == (1e-3, 1e-3, 1e-2, 1e-2)


def test_its_gradient_reaches_what_it_adds_up_and_nothing_else():
    model = layers()
    of(LCNNPenalty(0.1, 0.01), model).backward()
    found = {name: p.grad.item() for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == {"1.log_gamma", "2.log_beta", "3.log_gamma", "4.log_beta"}
    assert_close([found["1.log_gamma"], found["2.log_beta"]], [0.01, 0.1 * (4 - 1e-3)], rtol=1e-5, atol=0)


@every_objective
def test_duplicating_the_batch_changes_nothing(objective):
    model = low_curvature_network(batchnorm=False)
    one, two = (objective.terms(model, X.repeat(n, 1, 1, 1), Y.repeat(n), generator=stream(0)) for n in (1, 2))
    for name in one:
        assert_close(one[name], two[name], rtol=1e-5, atol=1e-7)


def test_it_looks_at_no_example_and_costs_no_pass():
    model, passes = low_curvature_network(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    objective = LOW_CURVATURE["LCNN"]
    terms = objective.terms(model, X, Y, generator=stream(0))
    assert len(passes) == 1
    assert not objective.differentiates_twice
    alone = Objective(penalties={"it": Term(LCNNPenalty(0.03, 0.01), 1.0)}, loss_weight=0.0)
    assert_close(alone.terms(model, X[:1] * 0, Y[:1], generator=stream(1))["it"], terms["it"])
    with_jet = Objective().terms(low_curvature_network(), X, Y, generator=stream(0))
    assert_close(terms["loss"], with_jet["loss"], rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_the_loss_beside_it_is_under_autocast_and_it_is_whole(precision):
    seen, model = set(), low_curvature_network()
    # The check before training, in whole precision, has no gradient.
    model.register_forward_hook(lambda _m, _x, logits: seen.add(logits.dtype) if torch.is_grad_enabled() else None)
    made = make_fabric(Hardware(accelerator="cpu", precision=precision))
    _, history = trained(LOW_CURVATURE["LCNN"], model=model, fabric=made)
    assert seen == {torch.bfloat16 if precision == "bf16-mixed" else torch.float64}
    _, whole = trained(LOW_CURVATURE["LCNN"], model=low_curvature_network())
    assert_close(history[-1]["it"], whole[-1]["it"], rtol=0.02, atol=0)
    assert history[-1]["it"] < history[0]["it"]


@every_objective
@pytest.mark.parametrize("before", [3, 7, 12])
def test_a_training_stopped_in_the_middle_goes_on_in_the_same_bits(objective, before):
    whole, expected = trained(objective, LONG, low_curvature_network())
    memory = Memory()
    with pytest.raises(Stopped):
        trained(
            objective, LONG, low_curvature_network(), checkpoint=memory, checkpoint_every=2, progress=stopping(before)
        )
    model, history = trained(objective, LONG, low_curvature_network(), checkpoint=memory)
    assert history == expected
    assert equal(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize("average", [None, 0.8])
def test_norms_are_followed_through_training(average):
    start = {name: float(layer.sigma) for name, layer in lipschitz_layers(low_curvature_network())}
    settings = Optimization(epochs=5, batch_size=8, learning_rate=1e-2, average=average)
    model, _ = trained(LOW_CURVATURE["LCNN"], settings, low_curvature_network())
    for row in summary(model):
        if row.norm is not None:
            layer = model.get_submodule(row.name)
            assert abs(float(layer.sigma) / start[row.name] - 1) > 0.01
            assert row.norm.lower * 0.97 < float(layer.sigma) <= row.norm.upper * (1 + 1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_betas_and_gammas_have_a_weight_decay_of_their_own(optimizer):
    model = low_curvature_network()
    settings = Optimization(optimizer=optimizer, weight_decay=0.1)
    others, apart = settings.optimizer_for(model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert (others["weight_decay"], apart["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)].split(".")[1] for p in apart["params"]} == {"log_beta", "log_gamma"}
    assert len(apart["params"]) == 4
    assert len(others["params"]) + 4 == len(names)
    own = Optimization(optimizer=optimizer, weight_decay=0.1, curvature_decay=0.7)
    assert own.optimizer_for(model).param_groups[1]["weight_decay"] == 0.7
    (alone,) = settings.optimizer_for(plain_network()).param_groups
    assert alone["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LCNNPenalty(0.0, 0.0), "weights of at least 0, not both 0"),
        (lambda: LCNNPenalty(-1.0, 2.0), "weights of at least 0, not both 0"),
        (lambda: of(LCNNPenalty(), plain_network()), "a network with betas to penalize, got none that is learned"),
        (
            lambda: of(LCNNPenalty(0.0, 1.0), plain_network()),
            "a network with gammas to penalize, got none that is learned",
        ),
        (
            lambda: trained(model=nn.Sequential(LipschitzConv2d(1, 3, 6), nn.Flatten())),
            "a layer prepared for the size of its input",
        ),
        (
            lambda: LCNNPenalty()(Jet(lambda x: x.sum(1), torch.zeros(1, 2)), generator=stream(0)),
            "a field that shows its model and labels",
        ),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
