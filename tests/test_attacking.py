"""What attacks leave standing: closed forms of linear networks, the cost, suites, radii, transfer."""

import math

import numpy as np
import pytest
import torch
from known_margins import CLASSES, EXAMPLES, UNIFORM, inner, linear, perceptron
from torch import nn
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import FGSM, PGD, DeepFool, Effort, MinimalNorm, Suite, strong
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation import attacking, parts
from lowcurve.evaluation.independence import FEW
from lowcurve.losses import margin, margin_loss
from lowcurve.randomness import stream, temporary_seed


def boundary_distance(model: nn.Sequential, examples: Examples, norm) -> np.ndarray:
    """min_k (z_y - z_k) / ||w_y - w_k||_dual, negative where wrong: exact for a linear network inside the box."""
    weight = model[1].weight.detach()
    logits = model(examples.x).detach()
    gaps = logits.gather(1, examples.y[:, None]) - logits
    slopes = weight[examples.y][:, None] - weight[None]
    lengths = norm.dual.length(slopes.flatten(0, 1)).view(len(examples), 3)
    return torch.where(lengths > 0, gaps / lengths, math.inf).amin(1).numpy()


# --- measure


@pytest.mark.parametrize("norm", [L2, LINF])
def test_robust_images_are_farther_from_the_boundary_than_the_radius(norm):
    distance = boundary_distance(linear(), EXAMPLES, norm)
    radius = float(np.quantile(distance[distance > 0], 0.5))
    method = PGD(Ball(norm, radius), steps=100, loss=margin_loss, restarts=2)
    found = evaluation.attack(linear(), EXAMPLES, method, batch_size=16)
    clear = np.abs(distance / radius - 1) > 0.02
    assert clear.sum() > 40
    assert (found.robust == (distance > radius))[clear].all()
    assert 0.2 < found.robust.mean() < 0.8


@pytest.mark.parametrize("norm", [L2, LINF])
def test_distances_are_measured_on_the_inputs_that_were_found(norm):
    found = evaluation.attack(linear(), EXAMPLES, PGD(Ball(norm, 0.05), steps=5))
    assert_close(torch.from_numpy(found.distance), norm.length(found.inputs - EXAMPLES.x))
    assert found.distance.max() <= 0.05 * (1 + 1e-5)
    wrong = ~evaluation.correct(linear(), EXAMPLES)
    assert (found.distance[wrong] == 0).all()  # who is wrong already is not attacked
    assert found.distance[~wrong].min() > 0.02
    assert found.inputs.shape == EXAMPLES.x.shape
    after = linear()(found.inputs).argmax(1) == EXAMPLES.y
    assert (found.robust == (after.numpy() & evaluation.correct(linear(), EXAMPLES))).all()


def test_a_seed_decides_an_attack():
    method = PGD(Ball(LINF, 0.05), steps=1, step_size=0.01)
    first, again = (evaluation.attack(perceptron(), UNIFORM, method, seed=3) for _ in range(2))
    other = evaluation.attack(perceptron(), UNIFORM, method, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_the_global_chance_is_untouched():
    before = torch.get_rng_state()
    evaluation.attack(perceptron(), UNIFORM, PGD(Ball(L2, 0.05), steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_misclassified_image_is_not_robust_even_if_the_attack_corrects_it():
    found = evaluation.attack(linear(), EXAMPLES, lambda _model, x, _y, **_: x.flip(0))
    assert not found.robust[::10].any()


# --- the active set


class Counting(nn.Module):
    """Notes the sizes of the batches that it is shown; not in a number, which would make it another network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.batches = inner, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return self.inner(x)


SUITE = Suite((("weak", PGD(Ball(LINF, 0.02), steps=3)), ("PGD", PGD(Ball(LINF, 0.1), steps=40, restarts=2))))


@pytest.mark.parametrize("size", [1, 7, 20, 256])
def test_batch_size_and_order_change_no_result(size):
    model = perceptron().double()
    whole = evaluation.attack(model, EXAMPLES, SUITE)
    order = torch.randperm(50, generator=stream(0, "order"))
    turned = evaluation.attack(model, EXAMPLES.take(order), SUITE, batch_size=size)
    assert (turned.robust == whole.robust[order.numpy()]).all()
    assert (turned.fooled_by == whole.fooled_by[order.numpy()]).all()
    assert (turned.forward_passes == whole.forward_passes[order.numpy()]).all()
    assert_close(turned.inputs, whole.inputs[order], rtol=0, atol=1e-9)
    assert 0 < whole.robust.mean() < 1


def test_the_cost_follows_the_examples_that_are_hard():
    """Each is looked at until it falls, once more at the end of a walk, and twice to be counted."""
    model = Counting(linear())
    found = evaluation.attack(model, EXAMPLES, SUITE, batch_size=16)
    right = found.fooled_by != "clean"
    spent = found.forward_passes.sum() + right.sum() * 2 + (found.fooled_by != "weak").sum() * 3
    assert sum(model.batches) <= spent
    assert sum(model.batches) >= found.forward_passes.sum()
    assert max(model.batches) <= 16
    everybody = (3 + 1 + 2 * 41) * 50
    assert sum(model.batches) < 0.6 * everybody


def test_free_places_are_taken_by_those_who_wait():
    """Half of the examples fall at the first look, and yet the batches stay full until nobody waits."""
    sizes = []

    class Watched(Counting):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    many = inner(400)
    evaluation.attack(Watched(linear()), many, PGD(Ball(LINF, 0.05), steps=30), batch_size=40)
    steps = sizes[sizes.index(40) :]
    assert np.mean(steps) > 25
    assert max(sizes) == 40


def test_a_suite_names_the_attack_that_fooled_each_image():
    found = evaluation.attack(linear(), EXAMPLES, SUITE)
    weak = evaluation.attack(linear(), EXAMPLES, SUITE.members[0][1])
    assert set(found.fooled_by) == {"clean", "weak", "PGD", ""}
    assert (found.robust_to() == evaluation.correct(linear(), EXAMPLES)).all()
    assert found.robust_to("weak").sum() == weak.robust.sum()
    assert (found.robust_to("weak", "PGD") == found.robust).all()
    assert (found.forward_passes[found.fooled_by == ""] == 1 + 4 + 2 * 41).all()
    assert (found.forward_passes[found.fooled_by == "clean"] == 1).all()


def test_the_margin_at_each_answer_is_kept(tmp_path):
    """With every image, in every part and shard, and NaN where a member did not try the image."""
    found = evaluation.attack(linear(), EXAMPLES, SUITE)
    clean, by_weak, by_pgd = found.margins.T
    assert_close(torch.from_numpy(clean), margin(linear()(EXAMPLES.x), EXAMPLES.y).detach())
    assert (np.isnan(by_weak) == (found.fooled_by == "clean")).all()
    assert (np.isnan(by_pgd) == np.isin(found.fooled_by, ["clean", "weak"])).all()
    assert ((by_weak < 0) == (found.fooled_by == "weak")).all()
    assert (by_pgd[found.robust] > 0).all()
    assert_close(by_pgd[found.robust], margin(linear()(found.inputs), EXAMPLES.y).detach().numpy()[found.robust])
    shards = [evaluation.attack(linear(), EXAMPLES, SUITE, shard=(k, 2), ledger=tmp_path) for k in range(2)]
    np.testing.assert_allclose(evaluation.join(shards).margins, found.margins, atol=1e-6)
    np.testing.assert_array_equal(found.take(slice(7)).margins, found.margins[:7])


def test_an_attack_of_ones_own_is_a_member_like_any_other():
    def inverted(model, x, y, *, generator):  # noqa: ARG001
        return 1 - x

    suite = Suite((("inverted", inverted), ("PGD", PGD(Ball(LINF, 0.1)))))
    found = evaluation.attack(linear(), EXAMPLES, suite, batch_size=7)
    assert (found.fooled_by == "inverted").any()
    own = linear()(inverted(None, EXAMPLES.x, None, generator=None)).argmax(1) == EXAMPLES.y
    assert (found.robust_to("inverted") == (own.numpy() & found.robust_to())).all()
    x, y = EXAMPLES.x, EXAMPLES.y
    worst = margin(linear()(suite(linear(), x, y, generator=stream(0))), y)
    assert bool((worst <= margin(linear()(inverted(None, x, y, generator=None)), y)).all())


def test_a_model_in_training_mode_is_attacked_in_eval_mode_and_restored():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model.load_state_dict(model.eval().state_dict())
    there = evaluation.attack(model, UNIFORM, FGSM(Ball(LINF, 0.1)))
    model.train()
    model[3].weight.requires_grad_(False)
    again = evaluation.attack(model, UNIFORM, FGSM(Ball(LINF, 0.1)))
    assert_close(again.inputs, there.inputs)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]


def test_logits_times_a_hundred_change_nothing_under_the_default_suite():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.inner, self.scale = perceptron().double(), scale

        def forward(self, x):
            return self.inner(x) * self.scale

    suite = strong(Ball(LINF, 0.04), effort=Effort(30, 2, 200))
    labels = perceptron()(UNIFORM.x).argmax(1)
    examples = Examples(UNIFORM.x, labels, CLASSES)
    plain, hundred = (evaluation.attack(Scaled(scale), examples, suite) for scale in (1, 100))
    assert 0.2 < plain.robust.mean() < 0.8
    assert (plain.robust == hundred.robust).all()


def test_probabilities_in_place_of_logits_give_a_warning(caplog):
    model = nn.Sequential(linear(), nn.Softmax(1))
    evaluation.attack(model, EXAMPLES, FGSM(Ball(LINF, 0.1)))
    assert (
        "The model returns probabilities (in [0, 1], summing to 1). Return the logits before the softmax" in caplog.text
    )
    caplog.clear()
    evaluation.attack(linear(), EXAMPLES, FGSM(Ball(LINF, 0.1)))
    assert caplog.text == ""
    one, two = nn.Linear(EXAMPLES.x[0].numel(), 1), Examples(EXAMPLES.x, EXAMPLES.y.clamp(max=1), ("no", "yes"))
    nn.init.constant_(one.bias, -3.0)
    for last, warned in ((nn.Sigmoid(), True), (nn.Identity(), False)):
        evaluation.attack(lc.wrap(nn.Sequential(nn.Flatten(), one, last)).eval(), two, FGSM(Ball(LINF, 0.1)))
        assert ("before the softmax or the sigmoid" in caplog.text) is warned
        caplog.clear()


class Power(Exception):
    """What a power cut is to a test."""


def test_an_attack_that_is_interrupted_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr(attacking, "SAVED_EVERY", 0)
    whole = evaluation.attack(linear(), EXAMPLES, SUITE)
    ledger, left = {}, [300]

    class Cut(Counting):
        def forward(self, x):
            left[0] -= len(x)
            if left[0] < 0:
                raise Power
            return super().forward(x)

    with pytest.raises(Power):
        evaluation.attack(Cut(linear()), EXAMPLES, SUITE, ledger=ledger)
    assert [kept["tried"] for kept in ledger.values()] == [1]  # the weak one
    model = Counting(linear())
    rest = evaluation.attack(model, EXAMPLES, SUITE, ledger=ledger)
    assert (rest.fooled_by == whole.fooled_by).all()
    assert_close(rest.inputs, whole.inputs, rtol=0, atol=0)
    assert all(kept["finished"] for kept in ledger.values())
    again = Counting(linear())
    evaluation.attack(again, EXAMPLES, SUITE, ledger=ledger)
    assert sum(again.batches) == 3 * FEW + 2  # whether the logits depend on chance or on the batch, and nothing else


def test_many_examples_are_taken_a_chunk_at_a_time(monkeypatch):
    whole = evaluation.attack(linear(), EXAMPLES, SUITE)
    monkeypatch.setattr(parts, "MOST", 16)
    ledger, headings = {}, []

    def progress(ticks, heading):
        headings.append((heading, len(ticks)))
        yield from ticks

    found = evaluation.attack(linear(), EXAMPLES, SUITE, ledger=ledger, progress=progress, batch_size=16)
    assert (found.fooled_by == whole.fooled_by).all()
    assert_close(found.inputs, whole.inputs)
    assert list(ledger) == ["rows 0 to 15", "rows 16 to 31", "rows 32 to 47", "rows 48 to 49"]
    assert headings == [(f"attacking, {k} of 4", 200) for k in (1, 2, 3, 4)]


def test_a_killed_attack_goes_on_with_another_number_of_shards(tmp_path):
    whole = evaluation.attack(linear(), EXAMPLES, SUITE)
    part = evaluation.attack(linear(), EXAMPLES, SUITE, shard=(1, 3), ledger=tmp_path)
    assert (part.fooled_by == whole.fooled_by[1::3]).all()
    assert_close(part.inputs, whole.inputs[1::3], rtol=0, atol=0)
    model = Counting(linear())
    again = evaluation.attack(model, EXAMPLES, SUITE, ledger=tmp_path)
    assert (again.fooled_by == whole.fooled_by).all()
    assert_close(again.inputs, whole.inputs, rtol=0, atol=0)
    model.batches.clear()
    few = evaluation.attack(model, EXAMPLES, SUITE, ledger=tmp_path, keep_inputs=False, shard=(0, 2))
    assert sum(model.batches) == 2 * FEW + 1
    assert (few.fooled_by == whole.fooled_by[::2]).all()
    with pytest.raises(InputError, match=r"attacked images, got a result of attack\(..., keep_inputs=False\)"):
        _ = few.inputs
    other = evaluation.attack(model, EXAMPLES, SUITE, ledger=tmp_path, seed=1)  # other settings, another ledger
    assert not torch.equal(other.inputs, whole.inputs)


# --- against the radius


@pytest.mark.parametrize("norm", [L2, LINF])
def test_the_smallest_radius_of_a_linear_network_is_its_distance_to_the_boundary(norm):
    distance = boundary_distance(linear(), EXAMPLES, norm)
    largest = float(np.quantile(distance[distance > 0], 0.7))
    method = PGD(Ball(norm, largest), steps=60, loss=margin_loss)
    found = evaluation.smallest_radius(linear(), EXAMPLES, method, largest=largest, rounds=9, batch_size=16)
    right = evaluation.correct(linear(), EXAMPLES)
    assert (found.radius[~right] == 0).all()
    far = distance > largest * 1.02
    assert np.isinf(found.radius[far]).all()
    near = right & (distance < largest * 0.98)
    assert near.sum() > 20
    assert (found.radius[near] >= distance[near] * (1 - 1e-5)).all()
    assert (found.radius[near] <= distance[near] * 1.02 + largest / 2**8).all()
    assert_close(norm.length(found.inputs - EXAMPLES.x)[near], torch.from_numpy(found.radius[near]).float())
    radii = np.linspace(0, largest, 20)
    robust = found.robust_at(radii)
    assert (robust[0] == right).all()
    assert (robust[1:] <= robust[:-1]).all()
    clear = np.abs(distance[None] - radii[:, None]) > 0.02 * largest
    assert (robust == ((distance[None] > radii[:, None]) & right))[clear].all()


@pytest.mark.parametrize("norm", [L2, LINF])
def test_the_smallest_radius_by_a_minimum_norm_attack(norm):
    """Of a linear network it is the distance to the boundary, which the box may move away."""
    distance, right = boundary_distance(linear(), EXAMPLES, norm), evaluation.correct(linear(), EXAMPLES)
    found = evaluation.smallest_radius(linear(), EXAMPLES, norm.name, batch_size=16)
    assert (found.radius[~right] == 0).all()
    assert found.fooled.all()
    assert (found.radius[right] >= distance[right] * (1 - 1e-5)).all()
    assert np.median(found.radius[right] / distance[right]) < 1.01
    assert_close(norm.length(found.inputs - EXAMPLES.x), torch.from_numpy(found.radius).float())
    assert not evaluation.correct(linear(), Examples(found.inputs, EXAMPLES.y, EXAMPLES.classes)).any()
    nearest = evaluation.smallest_radius(
        linear(), EXAMPLES, Suite((("coarse", DeepFool(norm)), ("fine", PGD(norm, 0.2))))
    )
    assert (nearest.radius <= evaluation.smallest_radius(linear(), EXAMPLES, DeepFool(norm)).radius).all()


def test_what_is_known_already_counts():
    """No radius is larger than a known perturbation's length, whatever the new attack finds; and it begins there."""
    model, away = linear(), DeepFool(LINF, target="least-likely")
    known = evaluation.attack(model, EXAMPLES, PGD(LINF, 0.06))
    alone = evaluation.smallest_radius(model, EXAMPLES, away)
    found = evaluation.smallest_radius(model, EXAMPLES, away, known=[known])
    both = evaluation.smallest_radius(model, EXAMPLES, away, known=[alone, known])
    fooled = known.fooled & known.clean
    assert fooled.sum() > 10
    assert (found.radius[fooled] <= known.distance[fooled]).all()
    assert (alone.radius[fooled] > known.distance[fooled]).any()
    assert (both.radius <= np.minimum(alone.radius, found.radius)).all()
    assert (found.robust_at([0.06])[0] <= known.robust).all()
    improved = evaluation.smallest_radius(model, EXAMPLES, MinimalNorm(LINF, steps=5), known=[known])
    assert (improved.radius[fooled] < known.distance[fooled]).all()
    longer = evaluation.smallest_radius(
        model, EXAMPLES, PGD(LINF, 0.01), known=[known]
    )  # known beyond the largest radius
    assert (longer.radius[fooled] <= known.distance[fooled]).all()
    parts = [evaluation.attack(model, EXAMPLES, PGD(LINF, 0.06), shard=(k, 2)) for k in (0, 1)]
    shards = [evaluation.smallest_radius(model, EXAMPLES, away, known=[part], shard=part.shard) for part in parts]
    assert (evaluation.join(shards).radius == found.radius).all()
    for wrong in (evaluation.attack(model, EXAMPLES.take(slice(4)), PGD(LINF, 0.06)), parts[0]):
        with pytest.raises(InputError, match=r"known results on the same images, of shape \(50, 3, 2, 2\)"):
            evaluation.smallest_radius(model, EXAMPLES, "linf", known=[wrong])
    with pytest.raises(InputError, match="results of attack or smallest_radius, got float"):
        evaluation.smallest_radius(model, EXAMPLES, "linf", known=[0.1])


def test_an_evaluation_begins_at_a_given_start():
    """A linear network's gradient leads away from a start, so one step of length 0 stays there."""
    start = (EXAMPLES.x + 0.05).clamp(0, 1)
    still = PGD(LINF, 0.1, steps=1, step_size=1e-9)
    found = evaluation.attack(linear(), EXAMPLES, still, start=start, batch_size=16)
    assert_close(found.inputs[found.clean], start[found.clean], atol=1e-6, rtol=0)


def test_what_cannot_be_swept():
    method = PGD(Ball(LINF, 0.1))
    with pytest.raises(
        InputError, match="an attack with a norm, or one that takes a radius for each image, got function"
    ):
        evaluation.smallest_radius(linear(), EXAMPLES, lambda _model, x, _y, **_: x, largest=0.1)
    for largest, rounds in ((0.0, 3), (math.inf, 3), (0.1, -1)):
        with pytest.raises(InputError, match="a largest radius above 0 and rounds of at least 0"):
            evaluation.smallest_radius(linear(), EXAMPLES, method, largest=largest, rounds=rounds)


# --- from one network to another


def test_transfer_is_a_matrix_whose_diagonal_is_the_attack_itself():
    models = {"linear": linear(), "perceptron": perceptron()}
    method = PGD(Ball(LINF, 0.1), steps=5)
    robust = evaluation.transfer(models, EXAMPLES, method, batch_size=16)
    assert robust.shape == (2, 2, 50)
    for k, model in enumerate(models.values()):
        found = method(model, EXAMPLES.x, EXAMPLES.y, generator=stream(0, "attack", "PGD"))
        for t, other in enumerate(models.values()):
            right = evaluation.correct(other, EXAMPLES) & (other(found).argmax(1) == EXAMPLES.y).numpy()
            assert (robust[k, t] == right).mean() > 0.97
    assert robust[0, 0].sum() < robust[1, 0].sum()
    with pytest.raises(InputError, match="at least one network, by name, got none"):
        evaluation.transfer({}, EXAMPLES, method)


def test_the_adversarial_loss_of_a_linear_network():
    """With two classes the margin falls by radius * ||w_0 - w_1||_1, and cross-entropy is softplus of minus the margin."""
    with temporary_seed(0, "two"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    y = EXAMPLES.y % 2
    examples = Examples(EXAMPLES.x, y, ("a", "b"))
    found = evaluation.adversarial_loss(model, examples, PGD(Ball(LINF, 0.1)), batch_size=16)
    fall = 0.1 * (model[1].weight[0] - model[1].weight[1]).abs().sum()
    expected = nn.functional.softplus(fall - margin(model(EXAMPLES.x), y)).detach()
    assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


# --- what cannot be evaluated
