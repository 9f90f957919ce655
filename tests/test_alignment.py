"""PertAlign and SORA: closed forms, the step that follows the curvature, and the warning before robustness collapses."""

import logging
from dataclasses import replace

import pytest
import torch
from objectives import Watched, X, Y, network, slopes, terms
from torch import nn
from torch.testing import assert_close
from trainings import CPU, FEW, Memory, Stopped, plain_network, stopping, trained

from lowcurve.analysis.later_gradient import LaterGradient
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import NFGSM, PGD, SORA, OneStep
from lowcurve.data import digits
from lowcurve.errors import InputError
from lowcurve.evaluation import attack
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.models import Network
from lowcurve.penalties import CURE
from lowcurve.randomness import stream
from lowcurve.training import Objective, Optimization, Term, fit, make_fabric, regularized
from lowcurve.training.alignment import PERT_ALIGN, SLOPE_LEFT, pert_align

NEAR = Ball(LINF, 0.1)
ONE_STEP = {"FGSM": OneStep(NEAR), "N-FGSM": NFGSM(NEAR), "SORA": SORA(NEAR)}


class Valley(nn.Module):
    """A network of two classes whose log-odds against class 0 are slope x + bend x^2 / 2, in one pixel."""

    def __init__(self, slope: float, bend: float) -> None:
        super().__init__()
        self.slope, self.bend = nn.Parameter(torch.tensor(slope)), bend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = self.slope * x[:, :1] + self.bend * x[:, :1] ** 2 / 2
        return torch.cat([torch.zeros_like(height), height], 1)


# --- what is measured


def test_the_gradient_of_a_later_pass_is_that_of_the_loss_and_leaves_the_weights_gradients_alone():
    model, later = network().eval(), LaterGradient(X)
    mean = later.watch(cross_entropy(model(later.leaf), Y).mean())
    plain = cross_entropy(model(X), Y).mean()
    (0.3 * mean).backward()
    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(model(leaf), Y).sum(), leaf)
    assert_close(later.gradient, expected)
    for parameter, gradient in zip(model.parameters(), slopes(0.3 * plain, model), strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_alignment_is_a_mean_of_cosines_and_1_where_there_is_no_gradient():
    before, after = torch.eye(3), torch.eye(3) * torch.tensor([2.0, -1.0, 1.0])
    assert_close(pert_align(before, after), torch.tensor((2 - 1 + 1) / 4))
    assert_close(pert_align(before, torch.full((3, 3), torch.inf)), torch.tensor(1.0))
    assert_close(pert_align(torch.zeros(3, 3), after), torch.tensor(1.0))
    assert_close(pert_align(before * 1e-30, after * 1e-30), torch.tensor(0.5))


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_training_step_shows_its_alignment_after_the_backward_pass_at_no_further_pass(name):
    objective, model = Objective(attack=ONE_STEP[name], statistics="frozen"), network()
    watched = Watched(model)
    loss = objective.term_values(model, X, Y, generator=stream(0, "step"))["loss"]
    assert loss.measures() == {}
    loss.mean.backward()
    assert watched.modes == [False, False]
    model.eval()
    point, before = objective.attack.with_slope(model, X, Y, generator=stream(0, "step"))
    leaf = point.clone().requires_grad_()
    (after,) = torch.autograd.grad(cross_entropy(model(leaf), Y).sum(), leaf)
    assert_close(loss.measures()[PERT_ALIGN], pert_align(before, after))


def test_penalties_at_the_attacked_inputs_share_their_gradient():
    shared = Objective(
        attack=NFGSM(NEAR), penalties={"it": Term(CURE(h=0.1), 1.0)}, penalties_at="attacked", statistics="frozen"
    )
    apart = replace(shared, penalties={})
    found = [one.term_values(network(), X, Y, generator=stream(0, "step"))["loss"] for one in (shared, apart)]
    found[1].mean.backward()
    assert_close(found[0].measures(), found[1].measures())


def test_other_attacks_have_no_alignment():
    assert terms(Objective(attack=PGD(NEAR, steps=1)), network()).keys() == {"loss"}
    assert (
        Objective(attack=PGD(NEAR, steps=1)).term_values(network(), X, Y, generator=stream(0))["loss"].alignment is None
    )


# --- SORA


def test_sora_meets_the_quadratics_curvature_and_shortens_its_step_by_the_formula():
    """c = 1 + s <p, H p> / <p, g>, on a loss whose second derivative is constant."""
    attack = SORA(Ball(LINF, 0.1, box=(-9.0, 9.0)), noise=0.0, loss=lambda logits, _: logits[:, 1])
    x, y, model = torch.linspace(0.1, 0.2, 50)[:, None], torch.zeros(50).long(), Valley(1.0, -3.0)
    point, before = attack.with_slope(model, x, y, generator=stream(0))
    after = (1 - 3 * point).detach()
    moved = point - x
    assert bool((moved >= 0).all())
    assert 0.18 < float(moved.max()) <= 0.2
    assert_close(moved.mean().item(), 0.1, rtol=0, atol=0.02)
    assert_close(attack.slope_left(before, after), (1 - 3 * moved / (1 - 3 * x)).flatten())
    once = attack.update(-0.5)
    assert_close(once.linearity, 0.95 * 0.99 - 0.05 * 0.5)
    assert_close(once.step_length, 2 * 0.02 / (1 - once.linearity))
    assert attack.update(40.0).step_length == 2.0
    short, _ = once.with_slope(model, x, y, generator=stream(0))
    assert_close(short - x, moved * once.step_length / 2)


def test_sora_in_l_2_steps_along_the_gradient_and_reaches_no_further_than_three_radii():
    attack = SORA("l2", 0.1)
    moved = attack(network().eval(), X, Y, generator=stream(0)) - X
    assert float(L2.length(moved).max()) <= 0.3
    assert_close(attack.slope_left(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 5.0]])), torch.tensor([0.8]))


def test_sora_sees_the_network_in_the_mode_of_the_training_step_and_leaves_its_statistics():
    model = network()
    watched, before = Watched(model), model[2].num_batches_tracked.clone()
    terms(Objective(attack=SORA(NEAR)), model)
    assert watched.modes == [True, True]
    assert int(model[2].num_batches_tracked - before) == 1
    SORA(NEAR)(model, X, Y)
    assert watched.modes[2:] == [False]


def test_sora_follows_the_steps_before_in_a_training_and_goes_on_where_it_was():
    objective = Objective(attack=SORA(NEAR, linearity=0.5))
    whole, history = trained(objective)
    assert 0 < history[0]["step length"] < 2
    assert history[1]["step length"] != history[0]["step length"]
    memory = Memory()
    with pytest.raises(Stopped):
        trained(objective, checkpoint=memory, checkpoint_every=3, progress=stopping(7))
    again, resumed = trained(objective, checkpoint=memory)
    assert resumed == history
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_in_a_loop_of_ones_own_the_logs_have_the_step_before():
    model, objective = plain_network(), Objective(attack=SORA(NEAR, linearity=0.5), statistics="own")
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
    for step in range(3):
        loss, logs = regularized(model, FEW.x[:8], FEW.y[:8], objective=objective, step=step)
        with torch.no_grad():
            assert PERT_ALIGN not in regularized(model, FEW.x[:8], FEW.y[:8], objective=objective)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(set(logs))
        objective = objective.update(logs, step=step)
    assert found == [{"loss"}, {"loss", PERT_ALIGN, SLOPE_LEFT}, {"loss", PERT_ALIGN, SLOPE_LEFT}]
    assert objective.attack.linearity != 0.5


def test_what_is_refused():
    with pytest.raises(
        InputError, match=r"linearity from -1 to 1, bend above 0, and memory from 0 to below 1, got .*\. Write SORA"
    ):
        SORA(NEAR, bend=0.0)
    with pytest.raises(
        InputError, match=r"the objective's own loss in SORA, which compares its gradients, got .*\. Write SORA"
    ):
        Objective(margin_loss, attack=SORA(NEAR))


# --- the warning


def digits_training(attack, epochs: int, caplog) -> tuple[nn.Module, list[dict[str, float]], list[str]]:
    data = digits()
    mean, std = data.statistics()
    model = Network("small-convnet", data.shape, 10, mean, std, "relu", width=8).build(seed=0)
    optimization = Optimization(epochs=epochs, batch_size=64, learning_rate=8e-3)
    with caplog.at_level(logging.WARNING, "lowcurve"):
        history = fit(
            model, Objective(attack=attack), data.train, optimization, fabric=make_fabric(CPU), progress=False
        )
    return model, history, [record.getMessage() for record in caplog.records]


def withstand(model: nn.Module, ball: Ball) -> tuple[float, float]:
    """The shares of test images that withstand the single step, and PGD."""
    few = digits().test.take(slice(100))
    return tuple(
        float(attack(model, few, one, progress=False).robust.mean()) for one in (OneStep(ball), PGD(ball, steps=10))
    )


@pytest.mark.slow
def test_a_network_that_collapses_is_warned_of_once(caplog):
    ball = Ball(LINF, 0.5)
    model, _, said = digits_training(OneStep(ball), 16, caplog)
    single, many = withstand(model, ball)
    assert (single > 0.2, many < 0.05) == (True, True)
    assert len(said) == 1
    assert "PertAlign has fallen to" in said[0]
    assert "catastrophic overfitting" in said[0]


@pytest.mark.parametrize(
    "attack", [OneStep(Ball(LINF, 0.1)), NFGSM(Ball(LINF, 0.1)), SORA(Ball(LINF, 0.1))], ids=ONE_STEP
)
def test_one_that_does_not_is_not(attack, caplog):
    model, history, said = digits_training(attack, 3, caplog)
    single, many = withstand(model, attack.ball)
    assert single - many < 0.1
    assert min(row[PERT_ALIGN] for row in history) > 0.5
    assert said == []
