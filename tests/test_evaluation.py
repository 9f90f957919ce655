"""Evaluation: columns of numbers, their order, their batches, how far they are."""

import numpy as np
import pytest
import torch
from known_margins import CLASSES, EXAMPLES, UNIFORM, linear, perceptron
from torch.testing import assert_close

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.data import Examples
from lowcurve.geometry import Curvature, CurvatureProfile, gradient_norm
from lowcurve.losses import margin, margin_loss


def test_columns_of_one_and_of_several_names():
    measures = {"slope": gradient_norm, "all": Curvature(steps=6)}
    columns = evaluation.measure(perceptron(), UNIFORM, measures)
    curvature = ("gradient norm", "Hessian norm", "largest eigenvalue", "normalized curvature", "alignment")
    several = (*curvature, "residual", "residual of the largest eigenvalue")
    assert tuple(columns) == ("slope", *several)
    assert all(column.shape == (20,) for column in columns.values())
    np.testing.assert_allclose(columns["slope"], columns["gradient norm"], rtol=1e-5)


def test_a_column_may_hold_a_vector_an_example():
    assert evaluation.measure(perceptron(), UNIFORM, {"profile": CurvatureProfile()}, batch_size=7)[
        "profile"
    ].shape == (20, 12)


def test_columns_follow_the_order_of_the_examples():
    found = evaluation.measure(linear(), UNIFORM, {"brightness": lambda _, x: x.flatten(1).sum(1)}, batch_size=3)
    np.testing.assert_allclose(found["brightness"], UNIFORM.x.flatten(1).sum(1).numpy(), rtol=1e-6)


def test_the_label_is_the_examples_own():
    found = evaluation.measure(linear(), UNIFORM, {"loss": lambda field, x: field(x)}, loss=margin_loss, batch_size=6)
    expected = -margin(linear()(UNIFORM.x), UNIFORM.y).detach()
    assert_close(torch.from_numpy(found["loss"]), expected)


@pytest.mark.parametrize("size", [1, 3, 128])
def test_numbers_do_not_depend_on_the_batch_size(size):
    measures = {"all": Curvature(steps=12, tolerance=0)}
    once = evaluation.measure(perceptron(), UNIFORM, measures, batch_size=20)
    again = evaluation.measure(perceptron(), UNIFORM, measures, batch_size=size)
    for name in ("gradient norm", "Hessian norm", "largest eigenvalue", "alignment"):
        np.testing.assert_allclose(again[name], once[name], rtol=2e-3, atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved(caplog):
    sizes = []

    def hungry(field, x):
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return gradient_norm(field, x)

    found = evaluation.measure(linear(), UNIFORM, {"g": hungry}, batch_size=16)["g"]
    np.testing.assert_allclose(found, evaluation.measure(linear(), UNIFORM, {"g": gradient_norm})["g"], rtol=1e-6)
    assert max(sizes[3:]) <= 3
    assert "not enough memory for 16 at once" in caplog.text


def test_a_measure_says_how_many_fit():
    sizes = []

    class Wide:
        at_once = 3

        def __call__(self, field, x):
            sizes.append(len(x))
            return gradient_norm(field, x)

    assert evaluation.measure(linear(), UNIFORM, {"g": Wide()})["g"].shape == (20,)
    assert sizes == [3, 3, 3, 3, 3, 3, 2]


def test_progress_is_one_bar_that_comes_to_its_end():
    seen = []

    def progress(iterable, heading):
        for number in iterable:
            seen.append((number, heading))
            yield number

    evaluation.measure(linear(), UNIFORM, {"g": gradient_norm}, batch_size=8, progress=progress, heading="here")
    assert seen == [(tick, "here") for tick in range(200)]


def test_parameters_receive_nothing_and_the_mode_stays():
    model = perceptron()
    evaluation.measure(model, UNIFORM, {"all": Curvature(steps=2)})
    evaluation.attack(model, UNIFORM, PGD(Ball(LINF, 0.1), steps=2))
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_bytes_are_read_as_pixels():
    levels = Examples((UNIFORM.x * 255).round().to(torch.uint8), UNIFORM.y, CLASSES)
    found = evaluation.measure(linear(), levels, {"largest": lambda _, x: x.flatten(1).amax(1)})["largest"]
    np.testing.assert_allclose(found, levels.x.flatten(1).amax(1).numpy() / 255, rtol=1e-6)


# --- correct, attack


@pytest.mark.parametrize("size", [7, 512])
def test_correct(size):
    found = evaluation.correct(linear(), EXAMPLES, batch_size=size)
    assert found.tolist() == [k % 10 != 0 for k in range(50)]
