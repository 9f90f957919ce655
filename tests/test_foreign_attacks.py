"""Attacks of torchattacks, foolbox, adversarial-library and ART, and plain functions, as members of a suite."""

import copy
import functools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision_stub import import_library

import lowcurve as lc
from lowcurve.attacks import AutoAttack, Suite, foreign
from lowcurve.attacks.acceptance import region_of
from lowcurve.errors import InputError
from lowcurve.randomness import stream, temporary_seed

pytestmark = pytest.mark.filterwarnings("ignore")
R, ROUND = 0.1, 0.5


def library(name: str, *unused: str):
    """A library of attacks. Its tests are skipped where it is not installed."""
    try:
        return import_library(name, *unused)
    except ImportError:
        pytest.skip(f"{name} is not installed")


def torchattacks():
    return library("torchattacks")


def foolbox():
    return library("foolbox").attacks


def adv_lib():
    return library("adv_lib.attacks", "visdom")


def art():
    return library("art.attacks.evasion")


def network(classes: int = 5) -> nn.Module:
    with temporary_seed(0, "foreign", classes):
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 64, classes)
        return nn.Sequential(*layers).eval()


MODEL = network()
X = torch.rand(12, 1, 8, 8, generator=stream(0, "foreign images"))
Y = MODEL(X).argmax(1)


def other() -> nn.Module:
    """Another network in training mode, with which an attack was made."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


def estimator(low: float = 0.0, high: float = 1.0):
    classifier = library("art.estimators.classification").PyTorchClassifier
    return classifier(other(), nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(low, high))


# name: (the attack, what the library itself answers)
DETERMINISTIC = {
    "torchattacks by class": (
        lambda: foreign(torchattacks().PGD, "linf", R, random_start=False, alpha=R / 4),
        lambda: torchattacks().PGD(MODEL, eps=R, alpha=R / 4, random_start=False)(X, Y),
    ),
    "torchattacks with another model": (
        lambda: foreign(torchattacks().BIM(other(), eps=R, alpha=R / 4), "linf"),
        lambda: torchattacks().BIM(MODEL, eps=R, alpha=R / 4)(X, Y),
    ),
    "torchattacks minimal": (
        lambda: foreign(torchattacks().DeepFool(other()), "l2"),
        lambda: torchattacks().DeepFool(MODEL)(X, Y),
    ),
    "foolbox": (
        lambda: foreign(foolbox().L2PGD(random_start=False), "l2", ROUND),
        lambda: foolbox().L2PGD(random_start=False)(bounded(), X, Y, epsilons=ROUND)[1],
    ),
    "foolbox by class": (
        lambda: foreign(foolbox().FGSM, "linf", R),
        lambda: foolbox().FGSM()(bounded(), X, Y, epsilons=R)[1],
    ),
    "foolbox minimal": (
        lambda: foreign(foolbox().LinfDeepFoolAttack(), "linf"),
        lambda: foolbox().LinfDeepFoolAttack()(bounded(), X, Y, epsilons=None)[0],
    ),
    "adversarial-library": (
        lambda: foreign(functools.partial(adv_lib().pgd_linf, steps=10, random_init=False), "linf", R),
        lambda: adv_lib().pgd_linf(MODEL, X, Y, R, steps=10, random_init=False),
    ),
    "adversarial-library minimal": (
        lambda: foreign(adv_lib().fmn, "linf", steps=30),
        lambda: adv_lib().fmn(MODEL, X, Y, norm=math.inf, steps=30),
    ),
    "adversarial-library in l_1": (
        lambda: foreign(adv_lib().fmn, "l1", steps=30),
        lambda: adv_lib().fmn(MODEL, X, Y, norm=1, steps=30),
    ),
    "foolbox in l_1": (
        lambda: foreign(foolbox().L1FMNAttack(steps=30), "l1"),
        lambda: foolbox().L1FMNAttack(steps=30)(bounded(), X, Y, epsilons=None)[0],
    ),
    "ART in l_1": (
        lambda: foreign(art().ProjectedGradientDescent, "l1", 2.0, eps_step=0.5, max_iter=10),
        lambda: art_answer(art().ProjectedGradientDescent, norm=1, eps=2.0, eps_step=0.5, max_iter=10, verbose=False),
    ),
    "ART by class": (
        lambda: foreign(art().ProjectedGradientDescent, "linf", R, eps_step=R / 4, max_iter=10),
        lambda: art_answer(art().ProjectedGradientDescent, norm=np.inf, eps=R, eps_step=R / 4, max_iter=10, verbose=False),
    ),
    "ART on bytes": (
        lambda: foreign(art().FastGradientMethod(estimator(0, 255), eps=255 * R), "linf"),
        lambda: art_answer(art().FastGradientMethod, eps=R),
    ),
    "ART minimal": (
        lambda: foreign(art().DeepFool, "l2"),
        lambda: art_answer(art().DeepFool, verbose=False),
    ),
}  # fmt: skip


def bounded():
    return library("foolbox").PyTorchModel(MODEL, bounds=(0, 1), device="cpu")


def art_answer(kind, **options) -> torch.Tensor:
    made = estimator()
    made._model._model = MODEL
    return torch.from_numpy(kind(made, **options).generate(X.numpy(), np.eye(5)[Y.numpy()]))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_answer_is_the_librarys_own(name):
    make, reference = DETERMINISTIC[name]
    attack, expected = make(), reference().detach()
    assert_close(attack(MODEL, X, Y), expected, rtol=1e-4, atol=1e-5)
    result = lc.attack(MODEL, X, Y, attack, progress=False)
    assert len(X) - result.robust.sum() > 0
    assert set(result.fooled_by) <= {"", attack.name}
    if attack.radius is not None:
        assert float(result.distance.max()) <= attack.radius * (1 + 1e-5)


RANDOM = {
    "torchattacks": lambda: foreign(torchattacks().PGD, "linf", R),
    "torchattacks in l_1": lambda: foreign(torchattacks().FAB, "l1", 2.0),
    "torchattacks AutoAttack": lambda: foreign(
        torchattacks().FAB(other(), norm="L2", eps=1.0), "l2", ROUND, box=(-1, 1)
    ),
    "foolbox": lambda: foreign(foolbox().LinfPGD().repeat(2), "linf", R),
    "foolbox without a distance": lambda: foreign(foolbox().LinearSearchBlendedUniformNoiseAttack(steps=20), "l2"),
    "adversarial-library": lambda: foreign(adv_lib().apgd, "linf", R, n_iter=20),
    "ART": lambda: foreign(art().SquareAttack, "linf", R, max_iter=20),
}


@pytest.mark.parametrize("name", RANDOM)
def test_in_the_ball_and_in_the_box_and_the_world_is_left_as_it_was(name):
    attack, model = RANDOM[name](), copy.deepcopy(MODEL).train()
    low, high = attack.box
    x = X * (high - low) + low
    y = MODEL(x).argmax(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    found = attack(model, x, y, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert bool(region_of(attack).contains(x, found).all())
    assert float((found - x).abs().amax()) > 0
    assert torch.equal(found, attack(model, x, y, seed=3))
    assert attack(model, x[:0], y[:0]).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", ["torchattacks", "foolbox", "adversarial-library"])
def test_a_radius_for_each_image_and_the_smallest_radius(name):
    attack = RANDOM[name]()
    shares = torch.linspace(0, 1, 12).mul(4).round() / 4
    found = attack(MODEL, X, Y, radius=R * shares)
    lengths = attack.norm.length(found - X)
    assert float((lengths - R * shares * (1 + 1e-5)).max()) <= 0
    moved = MODEL(found).argmax(1) != Y if name == "adversarial-library" else shares > 0  # it moves no others
    assert moved.any()
    assert_close(lengths[moved], (R * shares)[moved], rtol=0.05, atol=0)
    found = lc.smallest_radius(MODEL, X, Y, attack, largest=0.3, rounds=5, progress=False).radius
    ours = lc.smallest_radius(MODEL, X, Y, lc.PGD("linf", 0.3), rounds=5, progress=False).radius
    assert np.median(found - ours) < 0.3 / 2**5
    assert (found < ours + 0.3 / 2**3).all()


def test_an_attack_on_the_nearest_point_gives_the_smallest_radius_at_once():
    attack = foreign(foolbox().LinfDeepFoolAttack(), "linf")
    result = lc.attack(MODEL, X, Y, attack, progress=False)
    found = lc.smallest_radius(MODEL, X, Y, attack, progress=False)
    assert_close(found.radius, np.where(result.robust, np.inf, result.distance).astype(np.float64))
    limit = float(np.median(result.distance))
    within = foreign(foolbox().LinfDeepFoolAttack(), "linf", limit)
    assert (lc.attack(MODEL, X, Y, within, progress=False).robust == (result.distance > limit)).all()
    both = Suite((("ours", lc.PGD("linf", 0.3)), ("theirs", attack)))
    together = lc.smallest_radius(MODEL, X, Y, both, rounds=6, progress=False).radius
    assert (together <= found.radius + 0.3 / 2**6).all()


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0)])
def test_ours_find_what_adversarial_library_finds(norm, radius):
    """An oracle beside foolbox: no fewer images in the ball, and no farther points without one."""
    ball = lc.Ball(norm, radius)
    members = [foreign(adv_lib().apgd, ball, n_iter=50), foreign(adv_lib().apgd_targeted, ball, n_iter=50)]
    theirs = lc.attack(MODEL, X, Y, Suite(tuple((one.name, one) for one in members)), progress=False)
    ours = lc.attack(MODEL, X, Y, lc.strong(ball, effort=lc.attacks.Effort(50, 4, 200)), progress=False)
    assert 0 < theirs.robust.sum() < len(X)
    assert (ours.robust <= theirs.robust).all()
    nearest = foreign(adv_lib().ddn, norm, levels=None) if norm == "l2" else foreign(adv_lib().fmn, norm, steps=100)
    there, here = (
        lc.attack(MODEL, X, Y, one, progress=False).distance for one in (nearest, lc.attacks.MinimalNorm(norm))
    )
    assert np.median(here / there) < 1.01


def test_towards_a_class():
    for make in (
        lambda target: foreign(torchattacks().PGD, "linf", 0.3, target=target, alpha=0.05),
        lambda target: foreign(foolbox().LinfPGD(), "linf", 0.3, target=target),
        lambda target: foreign(art().ProjectedGradientDescent, "linf", 0.3, target=target, max_iter=20),
        lambda target: foreign(adv_lib().pgd_linf, "linf", 0.3, target=target),
    ):
        try:
            attack = make("least-likely")
        except pytest.skip.Exception:
            continue
        least = MODEL(X).scatter(1, Y[:, None], math.inf).argmin(1)
        assert float((MODEL(attack(MODEL, X, Y)).argmax(1) == least).double().mean()) > 0.3


def steepest(model, x, y, eps=R):
    """A plain function of another person."""
    x = x.detach().requires_grad_()
    model.train()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)[0]
    return (x + eps * gradient.sign()).clamp(0, 1), "and more"


def test_a_plain_function_is_a_member_of_a_suite():
    attack = foreign(steepest, "linf")
    assert (attack.radius, attack.name) == (R, "steepest")
    ours = lc.attack(MODEL, X, Y, lc.attacks.FGSM("linf", R), progress=False)
    assert (lc.attack(MODEL, X, Y, attack, progress=False).robust == ours.robust).all()
    suite = Suite((("theirs", attack), ("ours", lc.PGD("linf", R))))
    result = lc.attack(MODEL, X, Y, suite, progress=False)
    assert set(result.fooled_by) <= {"", "theirs", "ours"}
    assert (result.fooled_by == "theirs").sum() == (~ours.robust).sum()
    scaled = nn.Sequential(lc.Normalize((-1.0,), (2.0,)), MODEL)  # the same network on the box [-1, 1]
    moved = foreign(steepest, "linf", 2 * R, box=(-1.0, 1.0))
    assert_close((moved(scaled, 2 * X - 1, Y) + 1) / 2, attack(MODEL, X, Y), rtol=0, atol=1e-5)


def fast_gradient_method(model_fn, x, eps, norm, clip_min=None, clip_max=None, y=None, targeted=False):
    """With the arguments of cleverhans, whose labels come last."""
    assert (norm, clip_min, clip_max) == (math.inf, 0.0, 1.0)
    point, _ = steepest(model_fn, x, y, -eps if targeted else eps)
    return point


def test_labels_by_name_and_arguments_that_are_fixed():
    expected = foreign(steepest, "linf", R)(MODEL, X, Y)
    assert_close(foreign(fast_gradient_method, "linf", R)(MODEL, X, Y), expected)
    fixed = functools.partial(fast_gradient_method, norm=math.inf, eps=R)
    assert_close(foreign(fixed, "linf")(MODEL, X, Y), expected)
    with pytest.raises(InputError, match="the norm of fast_gradient_method, linf, got l_2"):
        foreign(fixed, "l2", R)
    towards = MODEL(foreign(fast_gradient_method, "linf", R, target=1)(MODEL, X, Y))
    runner_up = MODEL(X).topk(2).indices[:, 1]
    assert (towards.log_softmax(1) - MODEL(X).log_softmax(1))[range(12), runner_up].gt(0).all()


@pytest.mark.parametrize(
    "answer",
    [lambda x: x + 0.9 * R * (x > 0.95), lambda x: x * math.nan, lambda x: 0.5 + 0 * x],
    ids=["outside the box", "NaN", "outside the ball"],
)
def test_what_is_not_accepted_does_not_count(answer, caplog):
    attack = foreign(lambda _model, x, _y: answer(x), "linf", R)
    assert torch.equal(attack(MODEL, X, Y), X)
    assert f"<lambda>: {len(X)} of {len(X)} answers do not count" in caplog.text
    assert lc.attack(MODEL, X, Y, attack, progress=False).robust.all()


def test_the_audit_takes_another_attack_as_its_reference():
    def random_search(model, x, y):
        with torch.no_grad():
            tries = [(x + 0.3 * torch.randn_like(x).sign()).clamp(0, 1) for _ in range(20)]
            margins = torch.stack([lc.losses.margin(model(at), y) for at in tries])
        return torch.stack(tries)[margins.argmin(0), torch.arange(len(x))]

    class Rounded(nn.Module):
        """Its gradient is 0 everywhere."""

        def forward(self, x):
            return MODEL((x * 20).round() / 20)

    budget = lc.evaluation.audit.Budget(queries=3, noise_draws=2, spsa_draws=1, spsa_steps=1, images=12)
    ball = lc.Ball("linf", 0.3)
    reference = foreign(random_search, ball)
    found = lc.audit(Rounded(), X, Y, ball, budget=budget, reference=reference, progress=False)
    finding = next(finding for finding in found.findings if finding.number == 19)
    robust = lc.attack(Rounded(), X, Y, reference, progress=False).robust
    assert f"{robust.sum()} under the reference" in finding.evidence
    assert not (found.robust["worst case"] & ~robust).any()


def spread(_model, x, _y, eps):
    return x + eps


REFUSED = [
    (lambda: foreign(lc.PGD("linf", R), "linf", R), "an attack of another library, got PGD. Give it as it is"),
    (lambda: foreign(MODEL, "linf", R), r"a function \(model, x, y\) -> x', got Sequential"),
    (lambda: foreign(lambda x: x, "linf", R), r"a function \(model, x, y\) -> x', got function"),
    (
        lambda: foreign(type("A", (), {"run_standard_evaluation": 0})(), "linf", R),
        "an attack that can be called, got AutoAttack of its authors. Write lc.attacks.AutoAttack",
    ),
    (lambda: foreign(spread, "linf"), "a radius for spread, got none"),
    (lambda: foreign(foolbox().LinfPGD(), "linf"), "a radius for foolbox LinfProjected"),
    (lambda: foreign(foolbox().LinfPGD(), "l2", R), "linf, got l_2. Write 'linf', or give another attack"),
    (lambda: foreign(foolbox().LinfPGD(), "linf", R, steps=3), "no options for an attack that is already made, got steps"),
    (lambda: foreign(steepest, "linf", R, target=1)(MODEL, X, Y), "an attack that can be led to a class, got steepest"),
    (lambda: foreign(steepest, "linf", R, target=0), "a target None"),
    (lambda: foreign(lambda _, x, _y: x[:, 0], "linf", R)(MODEL, X, Y), r"images of shape \(12, 1, 8, 8\) from"),
    (lambda: foreign(lambda _, x, _y: x.no(), "linf", R)(MODEL, X, Y), "<lambda> to run on these images, got Attr"),
    (lambda: foreign(functools.partial(steepest, targeted=True), "linf", R), "which was made for one, got none"),
    (lambda: lc.attack(MODEL, X, Y, foolbox().LinfPGD()), "an attack of this package, got Linf.* of foolbox. Write lc.att"),
    (lambda: lc.attack(MODEL, X, Y, AutoAttack("linf", R), radius=torch.ones(12)), "takes a radius for each image, got A"),
    (lambda: lc.smallest_radius(MODEL, X, Y, foreign(lambda _, x, _y: x, "linf", R)), "takes a radius for each image"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
