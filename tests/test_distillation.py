"""Distillation in closed form; and defensive distillation, whose robustness is false and which the audit must notice."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.derivative_watch import watch_derivatives
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.data import digits, shuffled_batches
from lowcurve.errors import InputError
from lowcurve.evaluation import correct
from lowcurve.evaluation.audit import Audit, Budget, audit
from lowcurve.losses import TemperatureCrossEntropy, loss_field
from lowcurve.models import Network
from lowcurve.penalties import Distillation
from lowcurve.randomness import stream
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Term

X = randomness.uniform(torch.zeros(6, 8, dtype=torch.float64), 0, 1, generator=stream(0, "distilled"))
Y = torch.arange(6) % 3


def network(seed: int = 0) -> nn.Module:
    with randomness.temporary_seed(seed, "distilled"):
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)).double().eval()


def value(penalty: Distillation, model: nn.Module) -> torch.Tensor:
    return penalty(Jet(loss_field(model, Y), X), generator=stream(0))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_a_student_that_is_its_teacher_pays_the_entropy_and_has_nothing_to_learn(temperature):
    model = network()
    found = value(Distillation(model, temperature), model)
    p = (model(X) / temperature).softmax(1)
    assert_close(found, -(p * p.log()).sum(1))
    slopes = torch.autograd.grad(found.mean(), tuple(model.parameters()))
    assert_close(slopes, tuple(torch.zeros_like(weight) for weight in model.parameters()), rtol=0, atol=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_its_slope_in_the_logits_is_the_difference_of_predictions_by_the_temperature(temperature):
    teacher, student = network(0), network(1)
    z = student(X).detach().requires_grad_()
    found = Distillation(teacher, temperature)(Jet(loss_field(lambda _: z, Y), X), generator=stream(0))
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert_close(slope, ((z / temperature).softmax(1) - (teacher(X) / temperature).softmax(1)).detach() / temperature)


def test_a_teacher_who_is_certain_gives_labels():
    student = network(1)
    certain = Distillation(lambda x: 1e3 * nn.functional.one_hot(Y, 3).to(x), 5.0)
    assert_close(value(certain, student), TemperatureCrossEntropy(5.0)(student(X), Y))


def test_the_teacher_is_in_eval_mode_held_constant_and_given_back_as_it_came():
    teacher, student, modes = network(0).train(), network(1), []
    teacher[2].eval()
    teacher.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    objective = Objective(penalties={"teacher": Term(Distillation(teacher, 5.0), 1.0)})
    with watch_derivatives() as asked:
        total = sum(objective.terms(student, X, Y, generator=stream(0)).values())
    assert asked == []
    total.backward()
    assert modes == [(False, False)]
    assert [module.training for module in teacher] == [True, True, False, True]
    assert all(weight.requires_grad and weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())
    assert not Distillation(teacher, 5.0).differentiates_twice


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(network(), 0.0), "a temperature above 0, got 0.0"),
        (lambda: Distillation(network(), math.nan), "a temperature above 0, got nan"),
        (
            lambda: value(Distillation(lambda x: x[:, :2], 5.0), network()),
            r"a teacher of the student's classes, got logits of shape \(6, 2\) beside \(6, 3\)",
        ),
        (
            lambda: Distillation(network(), 5.0)(Jet(lambda x: x.sum(1), X), generator=stream(0)),
            "a field that shows its logits, got function",
        ),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- a network by defensive distillation, used at T = 1 as its authors have it

BALL = Ball(LINF, 0.1)
BUDGET = Budget(
    steps=10, restarts=2, landscape_images=20, neighbors=20, apgd_steps=10, queries=100, noise_draws=100, spsa_steps=5,
    spsa_draws=8, long_steps=20,
)  # fmt: skip


def trained(seed: int, penalty_of) -> nn.Module:
    """A small network of the digits; penalty_of: its jet and labels -> what is minimized, one number an example."""
    data = digits()
    model = Network("small-convnet", data.shape, 10, *data.statistics(), width=8).build(seed=seed).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for epoch in range(6):
        for x, y in shuffled_batches(data.train, 32, seed=seed, epoch=epoch):
            optimizer.zero_grad()
            penalty_of(Jet(loss_field(model, y, batch_statistics=True), x), y).mean().backward()
            optimizer.step()
    return model.eval()


def distilled(temperature: float) -> nn.Module:
    """The student of a teacher, both trained at this temperature."""
    teacher = trained(0, lambda jet, y: TemperatureCrossEntropy(temperature)(jet.logits, y))
    return trained(1, lambda jet, _: Distillation(teacher, temperature)(jet, generator=stream(0)))


def audited(model: nn.Module) -> tuple[Audit, dict[int, str]]:
    found = audit(model, digits().test.take(slice(60)), BALL, budget=BUDGET)
    return found, {finding.number: finding.outcome for finding in found.findings}


def test_defensive_distillation_is_noticed_by_its_saturated_loss():
    model = distilled(50.0)
    assert correct(model, digits().test).mean() > 0.9
    found, outcomes = audited(model)
    assert (outcomes[5], outcomes[6]) == ("flag", "fail")  # cross-entropy alone has no gradient, so 5 is a warning
    assert "loss saturation and logit scale" in found.verdict
    robust = {name: column.mean() for name, column in found.robust.items()}
    assert robust["PGD, cross-entropy"] > robust["PGD, margin"] + 0.2  # what it seemed to be, and what it is
    assert robust["PGD"] < robust["PGD, margin"] + 0.05  # the default attack is not deceived


@pytest.mark.slow
def test_distillation_at_temperature_one_is_not():
    _, outcomes = audited(distilled(1.0))
    assert outcomes[5] in ("passed", "flag")
    assert outcomes[6] == "passed"


def test_an_objective_to_describe_is_none_to_train_with():
    objective = objective_of("distillation", Study(), (1.0,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"the network that this method learns from, got none\. Write objective_of"):
        objective.terms(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), generator=stream(0))
