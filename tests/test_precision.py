"""Networks and images of every precision: pixels stay exact, results are numbers, and no precision is guessed wrongly."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from command import refused
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import FGSM, PGD, DeepFool, Effort, Square, strong
from lowcurve.data import digits
from lowcurve.evaluation.audit import audit
from lowcurve.geometry import Curvature, gradient_norm
from lowcurve.models import Factory, wrap
from lowcurve.network_calls import call, input_like, precision_of, rounding_of
from lowcurve.penalties import InputGradientNorm
from lowcurve.randomness import temporary_seed
from lowcurve.training import Hardware, Objective, Optimization, Term, fit, make_fabric

TYPES = {"float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
BALL = Ball(LINF, 2 / 255)
FEW = digits().test.take(slice(10))


@pytest.fixture(scope="module")
def base() -> nn.Sequential:
    """A network that classifies most digits correctly, with derivatives that are smooth."""
    data = digits().train
    with temporary_seed(0, "network"):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(108, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.pixels(slice(300))), data.y[:300]).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(params=TYPES.values(), ids=TYPES)
def low(request, base) -> nn.Module:
    return copy.deepcopy(base).to(request.param)


def test_attacks_stay_exactly_in_their_ball(low):
    for method in (PGD(BALL, steps=5), FGSM(BALL), Square(BALL, queries=20), PGD(Ball(L2, 0.02), steps=5)):
        found = evaluation.attack(low, FEW, method, progress=False)
        moved = found.inputs.double() - FEW.pixels(slice(None)).double()
        length = (L2 if method.norm == L2 else LINF).length(moved)
        assert float(length.max()) <= method.ball.radius * (1 + 1e-5)
        assert float(length.min()) > 0 or not found.robust.all() or isinstance(method, Square)
        np.testing.assert_allclose(found.distance, length, rtol=1e-4, atol=1e-7)
        assert found.inputs.dtype == (torch.float64 if precision_of(low) == torch.float64 else torch.float32)
        assert len(found.to_pandas()) == len(found.to_dict()["robust"]) == len(FEW)


def test_everything_evaluates_in_every_precision(low, base):
    assert evaluation.accuracy(low, FEW).value == evaluation.accuracy(base, FEW).value
    few = FEW.take(slice(4))
    found, plain = (evaluation.measure(m, few, [gradient_norm, Curvature(4)], progress=False) for m in (low, base))
    for name in ("gradient norm", "Hessian norm", "normalized curvature"):
        np.testing.assert_allclose(found[name], plain[name], rtol=0.05)
    assert (
        evaluation.attack(low, few, strong(Ball(LINF, 0.1), effort=Effort(2, 1, 5, 1)), progress=False)
        .inputs.isfinite()
        .all()
    )
    assert np.isfinite(evaluation.attack(low, few, DeepFool(L2), progress=False).distance).all()
    assert evaluation.transfer({"low": low, "plain": base}, few, FGSM(BALL), progress=False).shape == (2, 2, 4)
    assert np.isfinite(evaluation.adversarial_loss(low, few, FGSM(BALL), progress=False)).all()
    assert evaluation.smallest_radius(
        low, few, PGD(BALL, steps=2), largest=0.3, rounds=2, progress=False
    ).radius.shape == (4,)


@pytest.mark.slow
def test_the_audit_takes_every_precision(low):
    assert audit(low, FEW, Ball(LINF, 0.05), progress=False).verdict


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
def test_images_of_every_precision(base, dtype):
    x = FEW.pixels(slice(None)).to(dtype)
    assert evaluation.accuracy(base, x, FEW.y).value == evaluation.accuracy(base, FEW).value
    found = PGD(BALL, steps=4)(base, x, FEW.y)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert 0 < float((found - x.to(found.dtype)).abs().max()) <= BALL.radius * (1 + 1e-6)


class Odd(nn.Module):
    """A network whose first parameter has another type than its layers."""

    def __init__(self, first: torch.Tensor, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Parameter(first, requires_grad=False), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


FIRST = [
    torch.arange(4), torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.half), torch.zeros(2, dtype=torch.cfloat),
    torch.ones(1, dtype=torch.double),
]  # fmt: skip


@pytest.mark.parametrize("first", FIRST, ids=lambda tensor: str(tensor.dtype))
def test_the_first_parameter_does_not_decide_the_precision(base, first):
    model = Odd(first, base).eval()
    assert precision_of(model) == torch.float32
    assert evaluation.accuracy(model, FEW).value == evaluation.accuracy(base, FEW).value
    one, other = (evaluation.attack(m, FEW, PGD(BALL, steps=3), progress=False).inputs for m in (model, base))
    assert torch.equal(one, other)


class Buffers(nn.Module):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.register_buffer("weight", model[3].weight[:, :64].double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.flatten(1), self.weight)


def test_a_network_of_buffers_alone(base):
    model = Buffers(base).eval()
    assert (precision_of(model), input_like(model).dtype) == (torch.float64, torch.float64)
    assert evaluation.attack(model, FEW, PGD(BALL, steps=2), progress=False).inputs.dtype == torch.float64


def test_a_network_that_changes_its_precision_is_noticed(base):
    model, x = copy.deepcopy(base), FEW.pixels(slice(2))
    for dtype in (torch.float32, torch.float16, torch.float64):
        assert precision_of(model.to(dtype)) == dtype
        assert call(model, x).dtype == torch.float32
    assert rounding_of(model.to(torch.bfloat16), x) == 2**-7


def test_normalization_takes_the_precision_of_its_network(monkeypatch, base):
    monkeypatch.setattr("lowcurve.models.factories.Factory.build_bare", lambda *_: copy.deepcopy(base).half())
    model = Factory("a:b", (0.5,), (0.25,)).build(0).eval()
    assert call(model, FEW.pixels(slice(2))).isfinite().all()
    for dtype in TYPES.values():
        wrapped = wrap(copy.deepcopy(base).to(dtype), mean=(0.5,), std=(0.25,)).eval()
        assert evaluation.accuracy(wrapped, FEW).count == len(FEW)


@pytest.mark.parametrize(
    ("word", "name"), [("half", "16-true"), ("double", "64-true"), ("bfloat16", "bf16-true"), ("float32", "32-true")]
)
def test_the_words_of_torch_for_a_precision(word, name):
    assert make_fabric(Hardware(accelerator="cpu", precision=word))._precision.precision == name


@pytest.mark.parametrize(
    ("precision", "method", "sentence"),
    [
        ("half", "gradient-norm", "float32 weights for penalties, whose small differences half precision loses"),
        ("bf16-true", "gradient-norm", "float32 weights for penalties"),
        ("16-true", "standard", "float32 weights for adamw, whose constant 1e-8 is 0 in float16, got torch.float16"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_half_precision_is_refused_where_it_would_be_wrong(capsys, precision, method, sentence):
    words = ("--data", "digits", "--scale", "smoke", "--methods", method, "--precision", precision, "--out", "run")
    said = refused(capsys, "train", *words)
    assert sentence in said
    assert "Write precision bf16-mixed" in said
    assert not Path("run").exists()


@pytest.mark.parametrize("precision", ["double", "bfloat16", "bf16-mixed"])
def test_training_in_other_precisions(precision):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    penalties = {} if precision == "bfloat16" else {"slope": Term(InputGradientNorm(), weight=0.1)}
    history = fit(
        model, Objective(penalties=penalties), FEW, Optimization(epochs=1, batch_size=5),
        fabric=make_fabric(Hardware(accelerator="cpu", precision=precision)), progress=False,
    )  # fmt: skip
    assert np.isfinite(list(history[-1].values())).all()
