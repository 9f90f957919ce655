"""Curvature regularization made again: what its items are built from, by its laws, and that nothing of it is left out."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lowcurve.analysis.norms import LINF
from lowcurve.attacks import DeepFool
from lowcurve.attacks.within import Within
from lowcurve.data import Examples, load
from lowcurve.errors import InputError
from lowcurve.figures.landscapes import nonlinear_share
from lowcurve.geometry import FrobeniusNorm, distance_bounds
from lowcurve.geometry.quadratics import quadratic_distance
from lowcurve.losses import loss_field
from lowcurve.papers.common import epochs
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.costs import compare_step_costs
from lowcurve.papers.common.evolution import h_in_pixels
from lowcurve.papers.common.lookup import read_cells
from lowcurve.papers.common.masking import compare_attacks
from lowcurve.papers.common.matching import find_nearest_epoch
from lowcurve.papers.cure import goals
from lowcurve.papers.cure import tables as moosavi2019cure
from lowcurve.papers.cure.networks import make_studies
from lowcurve.papers.cure.theorem import check_random_quadratics, compute_bracket
from lowcurve.penalties import CURE
from lowcurve.randomness import normal, stream, uniform
from lowcurve.results import Column, Table
from lowcurve.store import Run
from lowcurve.study.method_options import Cure
from lowcurve.study.presets import preset, shorten
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Term


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, name):
    return normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "moosavi2019", name))


def test_the_nearest_rise_in_one_dimension_is_the_root_of_the_quadratic():
    slope, bend = draw(50, 1, name="slope"), draw(50, 1, name="bend").abs()
    gap = uniform(torch.zeros(50, dtype=torch.float64), 0.1, 5, generator=stream(0, "gap"))
    size, nu = slope.abs()[:, 0], bend[:, 0]
    assert_close(quadratic_distance(slope, bend, gap), 2 * gap / (size + (size**2 + 2 * nu * gap).sqrt()))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_nearest_rise_is_the_least_over_all_directions_of_the_plane(sign):
    slope, values = draw(20, 2, name="g"), sign * draw(20, 2, name="values").abs()
    gap = 0.1 * torch.ones(20, dtype=torch.float64)
    angles = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    way = torch.stack([angles.cos(), angles.sin()])
    up, bend = slope @ way, values @ way.square()
    root = up.square() + 2 * bend * gap[:, None]
    reached = torch.where((root >= 0) & (up + root.sqrt() > 0), 2 * gap[:, None] / (up + root.sqrt()), torch.inf)
    least = reached.nan_to_num(torch.inf).amin(1)
    found = quadratic_distance(slope, values, gap)
    assert_close(found.isfinite(), least.isfinite())
    assert_close(found[least.isfinite()], least[least.isfinite()], rtol=1e-6, atol=0)


def test_a_gradient_across_the_top_eigenvector_goes_on_along_it():
    # g = (1, 0), eigenvalues (-1, 2): along the first axis at most 1/2 is reached, at r = (1/3, ·) the rest by the second.
    found = quadratic_distance(numbers([1.0, 0.0]), numbers([-1.0, 2.0]), numbers(2.0))
    missing = 2 - (1 / 3 - 1 / 18)
    assert_close(found, numbers((1 / 9 + missing) ** 0.5))


def test_what_never_rises_is_infinitely_far():
    assert quadratic_distance(numbers([1.0]), numbers([-1.0]), numbers(1.0)).tolist() == [float("inf")]  # at most 1/2
    assert quadratic_distance(numbers([0.0, 0.0]), numbers([-1.0, 0.0]), numbers(1.0)).tolist() == [float("inf")]


def test_theorem_1_brackets_random_quadratics_and_is_exact_along_the_eigenvector():
    found = read_cells(check_random_quadratics(200))
    assert [cells["within"] for cells in found.values()] == [1.0, 1.0]
    assert [cells["simply within"] for cells in found.values()] == [1.0, 1.0]
    assert found["g along u"]["lower / exact"] == pytest.approx(1, abs=1e-9)
    assert found["g anywhere"]["lower / exact"] < 1 < found["g anywhere"]["upper / exact"]
    slope, values, gap = draw(5, 4, name="one"), draw(5, 4, name="other"), torch.ones(5, dtype=torch.float64)
    exact, top = quadratic_distance(slope, values, gap), values.argmax(1, keepdim=True)
    bounds = distance_bounds(gap, slope.norm(dim=1), values.amax(1), slope.gather(1, top)[:, 0].abs())
    assert (bounds.lower <= exact * (1 + 1e-9)).all()
    assert (exact <= bounds.upper * (1 + 1e-9)).all()
    assert float(compute_bracket(1.0).lower) == pytest.approx(3**0.5 - 1)


def test_an_attack_within_a_ball_fools_whom_it_reaches_there():
    x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0, 1])  # boundaries at 0.1, 0.4, 0.3
    attack, generator = DeepFool(LINF), stream(0)
    for radius, moved in ((0.05, [False] * 3), (0.35, [True, False, True]), (0.5, [True] * 3)):
        found = Within(attack, radius)(torch.nn.Identity(), x, y, generator=generator)
        assert (found != x).any(1).tolist() == moved
        assert (LINF.length(found - x) <= radius).all()


def test_the_frobenius_norm_at_scale_is_the_exact_one_of_a_quadratic():
    weights = draw(6, 6, name="H")
    symmetric = weights + weights.T
    x = draw(4, 6, name="x")

    def field(x):
        return torch.einsum("bi,ij,bj->b", x, symmetric, x) / 2

    exact, at_scale = (FrobeniusNorm(draws=100, deflated=0, h=h)(field, x)["Frobenius norm"] for h in (None, 0.3))
    assert_close(exact, at_scale)
    assert_close(FrobeniusNorm(draws=2, deflated=6, h=0.3)(field, x)["Frobenius norm"], symmetric.norm().expand(4))


def test_a_plane_is_even_and_what_is_orthogonal_to_planes_is_not():
    row, column = np.mgrid[-1:1:9j, -1:1:11j]
    assert nonlinear_share(2 * row - 3 * column + 1) == pytest.approx(0, abs=1e-12)
    assert nonlinear_share(row * column) == pytest.approx(1)
    assert nonlinear_share(np.full((3, 3), 2.0)) == 0.0
    plane, saddle = row + column, row * column
    share = (saddle**2).sum() / ((saddle**2).sum() + (plane**2).sum())
    assert nonlinear_share(plane + saddle) == pytest.approx(share)


def test_two_attacks_that_are_one_lie_on_the_diagonal():
    x = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    examples = Examples(x, torch.tensor([0, 0, 0]), ("a", "b"))
    attack = DeepFool(LINF)
    found = compare_attacks({"net": torch.nn.Identity().eval()}, examples, ("one", attack), ("two", attack))
    cells = read_cells(found["below"])["net"]
    assert cells["below"] == cells["fooled by two only"] == cells["difference"] == cells["farthest"] == 0
    assert found["both attacks"].diagonal
    still = Within(attack, 0.0)
    cells = read_cells(
        compare_attacks({"net": torch.nn.Identity().eval()}, examples, ("none", still), ("two", attack))["below"]
    )
    assert cells["net"]["below"] == pytest.approx(2 / 3)  # the third was wrong before
    assert cells["net"]["fooled by two only"] == pytest.approx(2 / 3)


class Always(torch.nn.Module):
    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, x):
        return torch.eye(4)[self.label].expand(len(x), 4)


def test_the_epoch_of_the_nearest_accuracy_and_of_two_the_earlier():
    examples = Examples(
        torch.rand(10, 2, generator=stream(0)), torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 3, 3]), ("a", "b", "c", "d")
    )
    networks = [(1, Always(0).eval()), (2, Always(1).eval()), (3, Always(3).eval()), (4, Always(2).eval())]
    assert find_nearest_epoch(networks, 0.22, examples)[0] == 2  # accuracies 0.1, 0.2, 0.2, 0.5
    assert find_nearest_epoch(networks, 0.45, examples)[0] == 4
    with pytest.raises(InputError, match="at least one epoch to match"):
        find_nearest_epoch([], 0.5, examples)


def test_a_step_is_one_of_itself_and_the_penalty_costs_three_more():
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Softplus(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 4)]
    model = torch.nn.Sequential(*layers)
    x = torch.rand(4, 3, 8, 8, generator=stream(0))
    y = torch.tensor([0, 1, 2, 3])
    penalized = Objective(penalties={"curvature": Term(CURE(h=0.1), 1.0)})
    objectives = {"plain": Objective(), "again": Objective(), "CURE": penalized}
    table = compare_step_costs({name: (model, objective) for name, objective in objectives.items()}, x, y, rounds=1)
    found = read_cells(table)
    assert [found[name]["forward passes"] for name in found] == [1, 1, 2]
    assert found["plain"]["operations"] == found["again"]["operations"] == 1
    assert 2 < found["CURE"]["operations"] < 7


def test_a_penalty_of_every_fourth_step_is_spread_over_four():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Softplus(), torch.nn.Linear(8, 3))
    x, y = torch.rand(4, 3, 2, 2, generator=stream(0)), torch.tensor([0, 1, 2, 0])
    now_and_then = {k: Objective(penalties={"curvature": Term(CURE(h=0.1), 1.0, every=k)}) for k in (1, 4)}
    steps = {"plain": Objective(), **{f"every {k}": objective for k, objective in now_and_then.items()}}
    found = read_cells(
        compare_step_costs({name: (model, one) for name, one in steps.items()}, x, y, rounds=1, period=4)
    )
    assert [cells["forward passes"] for cells in found.values()] == [4, 8, 5]
    always, fourth = (float(found[f"every {k}"]["operations"]) - 1 for k in (1, 4))
    assert fourth == pytest.approx(always / 4)


def test_the_goals_are_told_beside_ours_and_costs_only_where_all_rows_are_of_one_run():
    left = {"standard": 0.0, "gradient norm": 0.2, "CURE + gradient norm": 0.3, "N-FGSM": 0.51, "CURE + N-FGSM": 0.4}
    ours = tuple((row, 0.8, share, share - 0.01) for row, share in left.items())
    columns = (Column("network"), *(Column(name, form=".1%") for name in ("clean", "PGD-20", "strong")))
    table = Table("", columns, ours, "", {"attacks": "1000 of all"})
    tables = {"attacked": table, "robustness": table}
    told = {claim.name: claim.shown for claim in goals.make_claims(tables, "cifar10")}
    assert told["CURE + gradient norm: strong"] == "29.0%"
    assert told["PGD-20: standard < gradient norm < CURE + gradient norm"].startswith("holds")
    assert told["strong: N-FGSM < CURE + N-FGSM"].startswith("does not hold")
    (cost,) = (shown for name, shown in told.items() if "a step costs" in name)
    assert cost == "not run"


def test_the_scale_of_a_released_penalty_counts_deviations():
    data = load("digits")
    _, (deviation,) = data.statistics()
    assert h_in_pixels(Study(cure=Cure(h=3.0, form="released")), data) == pytest.approx(3 * deviation)
    assert h_in_pixels(Study(cure=Cure(h=0.7)), data) == 0.7


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return epochs.keep_epochs(Context("smoke", "digits", Run(tmp_path_factory.mktemp("epochs")), seeds=1))


def small(method):
    study = shorten(preset("digits"))
    optimization = study.fine_tuning
    tuned = replace(optimization, epochs=3)
    return replace(study, methods=(method,), training=replace(study.training, epochs=2), fine_tuning=tuned)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_every_epoch_is_kept_and_the_last_is_the_network(context):
    found = dict(epochs.load_epochs(context, "CURE", small("CURE")))
    assert list(found) == [0, 1, 2, 3]
    _, _, models = context.load_or_train("cure", small("CURE"))
    assert_close(weights(found[3]), weights(models["CURE"]), rtol=0, atol=0)
    assert (weights(found[1]) != weights(found[2])).any()
    standard = dict(epochs.load_epochs(context, "normal", small("standard")))
    assert list(standard) == [1, 2]
    assert_close(weights(standard[2]), weights(found[0]), rtol=0, atol=0)


def test_rows_share_the_standard_network_and_nothing_is_trained_again(context):
    context.load_or_train("cure", small("CURE"))
    folder = context.run.folder
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("standard.safetensors")}
    assert len(files) == 1
    context.load_or_train("fine-tuned", small("DeepFool"))
    context.load_or_train("cure", small("CURE"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("standard.safetensors")} == files


def test_a_network_without_its_epochs_is_trained_again_to_the_same(context):
    before = dict(epochs.load_epochs(context, "CURE", small("CURE")))
    lost = next(context.run.folder.rglob("CURE-after-002.pt"))
    lost.unlink()
    after = dict(epochs.load_epochs(context, "CURE", small("CURE")))
    assert lost.is_file()
    assert_close(weights(after[2]), weights(before[2]), rtol=0, atol=0)


def test_a_context_that_keeps_no_epochs_has_none(tmp_path):
    plain = Context("smoke", "digits", Run(tmp_path), seeds=1)
    with pytest.raises(InputError, match="the weights of standard after each epoch"):
        list(epochs.load_epochs(plain, "normal", small("standard")))


def test_the_items_cover_every_table_and_figure():
    where = " ".join(item.where for item in moosavi2019cure.ITEMS)
    figures = {int(n) for group in re.findall(r"Figures? ([\d, and]+)", where) for n in re.findall(r"\d+", group)}
    assert figures == set(range(1, 16))
    assert {int(n) for n in re.findall(r"Table (\d)", where)} == {1, 2, 3}
    assert all(word in where for word in ("Theorem 1", "Remark 3", "Footnote 5", "cost"))


@pytest.mark.parametrize("data", ["cifar10", "svhn"])
def test_at_the_scale_of_the_paper_the_rows_are_the_recipes(data, tmp_path):
    found = make_studies(Context("paper", data, Run(tmp_path)))
    assert {study.data for study in found.values()} == {data}
    assert found["CURE"].cure.h == {"cifar10": 3.0, "svhn": 1.25}[data]
    assert found["fine-tuned"].methods == ("DeepFool",)
    assert found["CURE along the gradient"].cure.direction == "gradient"
    assert found["normal"].network == "resnet18"


def test_a_field_of_the_loss_serves_the_norm_at_scale():
    model = torch.nn.Linear(3, 2).double()
    x, y = draw(2, 3, name="inputs"), torch.tensor([0, 1])
    found = FrobeniusNorm(draws=10, deflated=0, h=1e-4)(loss_field(model, y), x)["Frobenius norm"]
    exact = FrobeniusNorm(draws=10, deflated=0)(loss_field(model, y), x)["Frobenius norm"]
    assert_close(found, exact, rtol=1e-2, atol=0)
