"""l_1 from end to end: the suite, its curve, the audit, the smallest radius, the command line and the reference."""

import math

import numpy as np
import pytest
import torch
from command import done
from torch import nn
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import randomness
from lowcurve.analysis.norms import L1
from lowcurve.attacks import APGD, Effort, MinimalNormWithin, minimum_norm
from lowcurve.attacks.active_set import carry_out
from lowcurve.attacks.base import Options
from lowcurve.attacks.sparse_ascent import SparseAscent, largest
from lowcurve.attacks.state import prepare
from lowcurve.randomness import stream

RADIUS = 0.5
SHORT = Effort(steps=20, targets=2, queries=100, relays=1, boundary=1)


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A smooth network and images that it classifies as labeled."""
    with randomness.temporary_seed(0, "l1 network"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 5)).eval()
    x = randomness.uniform(torch.zeros(10, 1, 6, 6), 0, 1, generator=stream(0, "l1 images"))
    return model, x, model(x).argmax(1)


def test_the_suite_and_the_smallest_radius_agree(made):
    model, x, y = made
    suite = lc.strong("l1", RADIUS, effort=SHORT)
    names = ["APGD-CE", "MinimalNorm", "APGD-M", "APGD-T", "Square", "long Square", "relay"]
    assert [name for name, _ in suite.members] == names
    found = lc.attack(model, x, y, suite, progress=False)
    assert 0 < found.robust.sum() < len(x)
    assert float(found.distance.max()) <= RADIUS * (1 + 1e-5)
    radii = lc.smallest_radius(model, x, y, "l1", known=[found], progress=False)
    assert np.isfinite(radii.radius).all()
    assert not (radii.radius[found.robust] < RADIUS * 0.99).any()  # a nearer point would be one that the suite missed
    assert_close(torch.from_numpy(radii.radius).float(), L1.length(radii.inputs - x), rtol=1e-5, atol=1e-6)
    inside = lc.smallest_radius(model, x, y, APGD("l1", 3.0, steps=20), rounds=4, progress=False).radius
    assert np.median(radii.radius - inside) < 3.0 / 2**4


@pytest.mark.slow
def test_the_suite_leaves_no_more_than_the_reference(made):
    pytest.importorskip("pyautoattack")
    model, x, y = made
    wide = nn.functional.pad(x, (0, 2, 0, 2))
    padded = nn.Sequential(Cut(), model).eval()
    reference = lc.attack(padded, wide, y, lc.attacks.AutoAttack("l1", RADIUS), progress=False)
    ours = lc.attack(padded, wide, y, lc.strong("l1", RADIUS, effort=SHORT), progress=False)
    assert (ours.robust <= reference.robust).all()
    assert reference.robust.sum() > 0
    assert float(reference.distance.max()) <= RADIUS * (1 + 1e-5)


class Cut(nn.Module):
    """Ignore what is beyond the sixth row and column."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :6, :6]


def test_it_first_ascends_in_larger_balls(made):
    model, x, y = made
    (run,) = APGD("l1", RADIUS, steps=10).runs
    assert isinstance(run, SparseAscent)
    lengths = []
    batch = prepare(model, x, y, run.ball, Options(stream(0)))
    observe = lambda numbers, state, values, logits: lengths.append(float(L1.length(state.point - x).max()))  # noqa: ARG005, E731
    carry_out(run, batch, stop=False, observe=observe)
    assert [round(max(lengths[a:b]) / RADIUS, 3) for a, b in ((0, 3), (3, 6), (6, 11))] == [3, 2, 1]
    lengths.clear()
    carry_out(run, prepare(model, x, y, run.ball, Options(stream(0), start=x)), stop=False, observe=observe)
    assert max(lengths) <= RADIUS * (1 + 1e-5)


def test_the_largest_entries_are_kept_with_those_that_are_no_smaller():
    g = torch.tensor([[3.0, -5.0, 1.0, 4.0], [1.0, 1.0, 0.0, 2.0]])
    kept = largest(g, torch.tensor([2.0, 1.0]), torch.tensor([[True, False, True, True], [True] * 4]))
    assert kept.tolist() == [[3.0, -5.0, 0.0, 4.0], [0.0, 0.0, 0.0, 2.0]]


def test_efforts_in_l1():
    assert minimum_norm("l1").restarts == 2
    assert minimum_norm("l1", effort=Effort(boundary=0)).restarts == 0
    for near in (None, 0.2):
        within = dict(lc.strong("l1", 1.0, effort=Effort(near=near)).members)["MinimalNorm"]
        assert isinstance(within, MinimalNormWithin)
        assert within.restarts == 2
    assert math.isclose(lc.Ball("l1", 2.0).widest(9), 9.0)


def test_the_audit_runs_in_l1(made):
    model, x, y = made
    audit = lc.audit(model, x, y, "l1", RADIUS, budget=lc.evaluation.audit.Budget(steps=5, apgd_steps=10, queries=50))
    assert audit.level in ("reliable as far as tested", "warnings", "too weak to judge")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_the_command_line_takes_l1(capsys):
    arguments = ("--data", "digits", "--scale", "smoke", "--norm", "l1", "--eps", "2", "--methods", "standard,PGD")
    assert done("study", *arguments, "--out", "run") == 0
    assert "l_1 radius 2" in capsys.readouterr().out
