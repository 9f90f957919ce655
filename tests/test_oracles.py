"""Independent implementations as oracles: foolbox for PGD and FGSM, pyautoattack for Auto-PGD and for the suite."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from trained import public

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import APGD, FGSM, PGD, SUITES, AutoAttack, Effort, strong
from lowcurve.data import Examples, Limits, load
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.randomness import stream, temporary_seed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # foolbox imports a name that scipy will drop
    foolbox = pytest.importorskip("foolbox")
pyautoattack = pytest.importorskip("pyautoattack")


@pytest.fixture(scope="module")
def lenet(networks, weights_dir, data_dir):
    """The public standard MNIST network and 60 test images."""
    test = load("mnist", data_dir=data_dir, limits=Limits(train=1, validation=1, test=60)).test
    return public(networks.lenet5, weights_dir / "mnist_lenet5_clntrained.pt"), test


@pytest.fixture(scope="module")
def resnet(networks, weights_dir, data_dir):
    """The public ResNet-20 and 60 test images."""
    test = load("cifar10", data_dir=data_dir, limits=Limits(train=1, validation=1, test=60)).test
    return public(networks.resnet20, weights_dir / "resnet20-12fca82f.th"), test


@pytest.mark.parametrize(
    ("which", "radius"),
    [
        ("lenet", 0.1),
        pytest.param("resnet", 0.5 / 255, marks=pytest.mark.slow),
        pytest.param("resnet", 2 / 255, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("norm", [LINF, L2])
def test_pgd_and_fgsm_agree_with_foolbox(which, radius, norm, request):
    """From the center, with the same steps: the same path, so the same images stand, and the same points are reached."""
    model, data = request.getfixturevalue(which)
    x, y = data.pixels(slice(None)), data.y
    reach = radius * (1 if norm == LINF else 8)
    library = foolbox.attacks.LinfPGD if norm == LINF else foolbox.attacks.L2PGD
    theirs = library(rel_stepsize=0.125, steps=20, random_start=False)
    ours = PGD(Ball(norm, reach), steps=20, step_size=0.125 * reach, start="center", loss=cross_entropy)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attacked = theirs(wrapped, x, y, epsilons=reach)[1]
    with torch.no_grad():
        expected = (model(x).argmax(1) == y) & (model(attacked).argmax(1) == y)
    found = evaluation.attack(model, data, ours).robust
    assert abs(found.mean() - expected.double().mean()) <= 0.035  # two of 60: ours takes the best of the path
    assert (found <= expected.numpy()).mean() >= 0.98
    once = foolbox.attacks.FGSM() if norm == LINF else foolbox.attacks.FGM()
    point = once(wrapped, x, y, epsilons=reach)[1]
    own = FGSM(Ball(norm, reach))(model, x, y, generator=stream(0))
    # On confident images the gradient of their cross-entropy is rounding, and a sign of nothing is anything: most images.
    alike = nn.functional.cosine_similarity((own - x).flatten(1), (point - x).flatten(1))
    assert float(alike.median()) > 0.99


@pytest.mark.parametrize("norm", [LINF, L2])
@pytest.mark.slow
def test_auto_pgd_is_as_strong_as_the_reference(norm, lenet):
    model, data = lenet
    x, y = data.pixels(slice(None)), data.y
    reach = 0.1 if norm == LINF else 1.5
    name = "Linf" if norm == LINF else "L2"
    with temporary_seed(0, "reference"):
        reference = pyautoattack.AutoAttack(
            model, norm=name, eps=reach, version="custom", attacks=["apgd-ce"], device="cpu", seed=0
        )
        reference.apgd.n_restarts = 1
        answer = reference.run_standard_evaluation(x, y, batch_size=60)
    answer = answer[0] if isinstance(answer, tuple) else answer
    with torch.no_grad():
        expected = (model(answer).argmax(1) == y).numpy() & (model(x).argmax(1) == y).numpy()
    found = evaluation.attack(model, data, APGD(Ball(norm, reach))).robust
    assert 0.2 < expected.mean() < 0.8
    assert found.sum() <= expected.sum() + 1
    assert (found != expected).mean() <= 0.05


def tiny(classes: int = 5) -> nn.Module:
    """A smooth network on 1 x 8 x 8 images that falls to a small radius but for a few."""
    with temporary_seed(0, "tiny", classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


def images(classes: int = 5) -> Examples:
    x = torch.rand(16, 1, 8, 8, generator=stream(0, "tiny images"))
    with torch.no_grad():
        y = tiny(classes)(x).argmax(1)
    return Examples(x, y, tuple("abcdefgh"[:classes]))


@pytest.mark.parametrize("classes", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_strong_leaves_no_more_than_autoattack(classes, caplog):
    ball = Ball(LINF, 0.05)
    reference = evaluation.attack(tiny(classes), images(classes), AutoAttack(ball)).robust
    found = evaluation.attack(tiny(classes), images(classes), strong(ball, effort=Effort(50, 4, 200))).robust
    assert 0 < reference.sum() < 16
    assert (found <= reference).all()
    assert ("without APGD-T, which needs 4 classes; this network has 2" in caplog.text) == (classes == 2)


def test_autoattack_leaves_the_world_as_it_was_and_knows_other_boxes():
    model, ball = tiny(), Ball(LINF, 0.4, box=(-4.0, 4.0))
    few = images()
    few = SimpleNamespace(x=8 * few.x - 4, y=few.y)
    state, seen = torch.get_rng_state(), []

    def tracer(*_):
        seen.append(1)

    sys.settrace(tracer)
    try:
        found = AutoAttack(ball)(model, few.x, few.y, generator=stream(0))
        kept = sys.gettrace()
    finally:
        sys.settrace(None)
    assert kept is tracer
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert float((found - few.x).abs().max()) <= 0.4 + 1e-5
    assert float(found.abs().max()) <= 4
    assert float((found - few.x).abs().max()) > 0.39
    assert_close(AutoAttack(ball)(model, few.x[:0], few.y[:0], generator=stream(0)), few.x[:0])


def test_autoattack_refuses_points_and_says_when_it_is_not_there(monkeypatch):
    with pytest.raises(InputError, match=r"images of shape \(batch, channels, height, width\), got \(3, 2\)"):
        AutoAttack(Ball(LINF, 0.1))(nn.Linear(2, 2), torch.rand(3, 2), torch.zeros(3).long(), generator=stream(0))
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InputError, match=r"the library pyautoattack, got .* without it\. Run pip install 'lowcurve"):
        AutoAttack(Ball(LINF, 0.1))(tiny(), images().x, images().y, generator=stream(0))


def test_the_papers_suites_are_what_the_papers_say():
    ball = Ball(LINF, 8 / 255)
    suites = {name: make(ball, Effort(7, 2, 30)) for name, make in SUITES.items()}
    members = {name: [member for member, _ in suite.members] for name, suite in suites.items()}
    assert members == {
        "strong": ["APGD-CE", "APGD-M", "APGD-T", "Square", "long Square", "relay"],
        "moosavi2019cure": ["PGD-20"],
        "srinivas2022lcnn": ["PGD-10"],
        "yu2018-mnist": ["FGSM", "BIM", "C&W"],
        "yu2018-cifar10": ["FGSM", "BIM", "C&W"],
        "autoattack": ["AutoAttack standard"],
    }
    strongest = dict(suites["strong"].members)
    assert (strongest["APGD-CE"].steps, len(strongest["APGD-T"].runs), strongest["long Square"].attack.queries) == (
        7,
        2,
        30,
    )
    assert dict(suites["moosavi2019cure"].members)["PGD-20"].step_size == 8 / 255 * 0.255
    paper = dict(suites["yu2018-cifar10"].members)
    assert (paper["BIM"].step_size, paper["BIM"].steps, paper["C&W"].loss) == (1 / 255, 10, margin_loss)
    assert dict(suites["yu2018-mnist"].members)["BIM"].step_size == 0.1
    assert np.isclose(dict(suites["srinivas2022lcnn"].members)["PGD-10"].step_size, 0.8 / 255)
