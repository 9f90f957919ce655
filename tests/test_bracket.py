"""Verified accuracy and the bracket of a study: what is proved stays below what attacks find."""

import numpy as np
import pytest
from torch import nn

import lowcurve as lc
from lowcurve.analysis.norms import L2, LINF
from lowcurve.errors import InputError, NotAvailable
from lowcurve.evaluation import Certified, SmallestRadius, certify
from lowcurve.study.certified_results import (
    bracket_results,
    certify_attacked,
    global_radii,
    verified_cell,
)
from lowcurve.study.settings import Evaluation, Study
from lowcurve.types import silent


@pytest.fixture(scope="module")
def model():
    return lc.load_pretrained("cure-small-convnet-digits")


@pytest.fixture(scope="module")
def images():
    return lc.load("digits").test.take(slice(8))


def test_verified_accuracy_is_above_zero_at_small_radii_and_below_the_attacked_one(model, images):
    study = Study(radius="3/255", evaluation=Evaluation(examples=8, certified=6, radii=(0.0, 1.0, 40.0)))
    certified = certify_attacked(study, "CURE", model, images, silent)
    assert len(certified.radius) == 6
    assert "CROWN in the ball around each image; 6 images" in certified.proof
    value, low, high = verified_cell(study, certified)
    assert low <= value <= high
    assert value > 0.8
    assert verified_cell(study, None) is None
    found = lc.smallest_radius(model, images, "linf", progress=False)
    results = bracket_results(study, "CURE", certified, found, {})
    assert [*results["bracket"].lines] == ["CURE", "CURE, certified"]
    above, below = results["bracket"].lines.values()
    assert all(a >= b for a, b in zip(above.y, below.y, strict=True))
    assert below.y[-1] == 0
    row = dict(zip([c.heading for c in results["verified"].columns], results["verified"].rows[0], strict=True))
    assert row["verified at 3/255"][0] == value
    assert row["verified at 2/255"][0] >= value
    assert 0.25 < row["certified / attacked"][0] <= 1


def test_l2_brackets_have_the_radii_of_the_literature():
    certified = Certified(np.array([0.0, 0.15, 0.3]), L2, "by hand")
    found = SmallestRadius(np.array([0.0, 0.3, np.inf]), None)
    table = bracket_results(Study(norm="l_2", radius="0.2"), "n", certified, found, {})["verified"]
    row = dict(zip([c.heading for c in table.columns], table.rows[0], strict=True))
    assert row["verified at 36/255"][0] == pytest.approx(2 / 3)
    assert row["verified at 72/255"][0] == pytest.approx(1 / 3)
    assert row["verified at 0.2"][0] == pytest.approx(1 / 3)
    assert row["attacked at 0.2"][0] == pytest.approx(2 / 3)
    assert row["certified / attacked"][0] == pytest.approx(0.5)


def test_the_larger_of_local_and_global_radii_counts(model, images):
    few = images.take(slice(3))
    both = certify(model, few, L2, progress=False)
    assert bool((both.radius >= global_radii(model, few, L2, progress=False)).all())
    assert "Lipschitz bounds (it has kinks) that hold everywhere" in both.proof
    scaled = global_radii(model, few, LINF, progress=False)
    assert scaled == pytest.approx(global_radii(model, few, L2, progress=False) / 8)


def test_a_network_without_certificates_is_told_with_its_layer_and_one_that_costs_too_much_with_its_work(model, images):
    odd = nn.Sequential(model, nn.Softmax(1)).eval()
    with pytest.raises(
        NotAvailable, match=r"^Expected operations with known derivative bounds, got .*_softmax in layer '1'"
    ):
        certify(odd, images, L2, progress=False)
    assert global_radii(odd, images, L2, progress=False) is None
    with pytest.raises(
        NotAvailable,
        match=r"cheap local bounds, got 1,728 units before nonlinearities, 1,024 of them from layer '1.0', and 2.4e\+07 multi",
    ):
        certify(model, images, LINF, work=1e8, progress=False)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(images.pixels(slice(1)).numel(), 3)).eval()
    with pytest.raises(
        NotAvailable,
        match=r"^Expected a network with cheap local bounds, got [\d.e+]+ multiplications for an image and radius",
    ):
        certify(linear, images, LINF, work=1, progress=False)
    assert len(certify(model, images.take(slice(1)), LINF, progress=False).radius) == 1
    with pytest.raises(InputError, match='bounds "best", "local" or "global"'):
        certify(model, images, "linf", bounds="everywhere")


def test_certify_takes_arrays_labels_and_balls_and_reads_its_radii(model, images):
    x, y = images.pixels(slice(3)), images.y[:3]
    found = lc.certify(model, x, y, lc.Ball("linf", 2 / 255), progress=False)
    assert repr(found).startswith("Certified radii in l_inf of 3 images: median 0.0")
    assert (
        found.verified(2 / 255).tolist()
        == lc.certify(model, x, y, "linf", [2 / 255], progress=False).verified(2 / 255).tolist()
    )
    assert found.verified(2 / 255).any()
