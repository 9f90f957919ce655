"""Two processes: they take the steps of one, see what one sees, and agree."""

import pytest
import torch
from torch.testing import assert_close
from training_process import DOUBLE, attacked, audited, course, gradients, measured, transferred
from trainings import EAGER, LOW_CURVATURE, MEMBERS, child, equal, low_curvature_network, penalized, plain_network

from lowcurve.penalties import ELLE
from lowcurve.training import make_fabric


@pytest.mark.slow
def test_an_evaluation_shared_by_two_processes_is_that_of_one(tmp_path):
    shared = child("attack", tmp_path)
    assert shared.returncode == 0, shared.stderr[-3000:]
    alone = attacked(None)
    assert 0 < alone.robust.mean() < 1
    assert transferred(None).any(axis=2).all()
    assert not transferred(None).all(axis=2).any()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert found["fallen to"] == alone.fooled_by.tolist()
        assert found["forward_passes"].tolist() == alone.forward_passes.tolist()
        assert_close(found["inputs"], alone.inputs, rtol=0, atol=1e-9)
        assert_close(found["transferred"], torch.from_numpy(transferred(None)))
        whole, by_chance = found["audited"]
        assert whole == audited(None)
        assert (2, "fail") in [
            finding[:2] for finding in by_chance
        ]  # what drops at random is found out, and nobody waits
        for name, values in measured(None).items():
            assert_close(found["measured"][name], torch.from_numpy(values))
        assert found["one image"].tolist() == attacked(None, 1).forward_passes.tolist()  # fewer than processes
        assert_close(found["one image's curvature"], torch.from_numpy(measured(None, 1)["Hessian norm"]))
        assert found["validated on one"][0]["validation accuracy"] in (0.0, 1.0)
    others = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)["audited"] for rank in (0, 1)]
    assert others[0] == others[1]


def test_one_process_alone_audits_as_none_does():
    """Of a network that draws at random, too: its draws are those of one evaluation, in their order."""
    assert audited(make_fabric(DOUBLE), random=True) == audited(None, random=True)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found; one pair does all, since starting it takes most of the time."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = child("share", folder)
    assert shared.returncode == 0, shared.stderr[-3000:]
    assert "Warning" not in shared.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", MEMBERS)
def test_the_gradient_of_two_processes_is_that_of_one(ranks, name):
    """In float64, on a network without BatchNorm, whose statistics would be each process's own. Differences of losses agree to
    the rounding that they amplify."""
    first, second = (rank["gradients"][name] for rank in ranks)
    assert equal(first, second)
    for parameter, expected in gradients(make_fabric(DOUBLE), MEMBERS[name]).items():
        size = float(expected.abs().max())
        assert size > 0 or parameter == "3.bias"  # which drops out of the gradient of a margin
        assert_close(first[parameter], expected, rtol=0, atol=1e-6 * size, msg=f"{name}: {parameter}")


def test_the_course_of_a_training_is_that_of_one(ranks):
    """Its history, with validation under attack, and a weight that follows the penalty's mean over both processes."""
    history, weights = course(make_fabric(DOUBLE), plain_network(), penalized(ELLE(0.5), EAGER))
    assert any(0 < row["validation robust accuracy"] < row["validation accuracy"] for row in history)
    for rank in ranks:
        found, reached = rank["course"]
        assert_close(found, history, rtol=1e-9, atol=1e-12)
        assert_close(reached, weights, rtol=1e-9, atol=1e-12)
    assert ranks[0]["course"][0] == ranks[1]["course"][0]


@pytest.mark.parametrize("name", LOW_CURVATURE)
def test_two_processes_follow_the_same_norms_as_one(ranks, name):
    """The penalty is of the network alone and the norms of the weights alone, so nothing of them is any process's own."""
    history, weights = course(make_fabric(DOUBLE), low_curvature_network(batchnorm=False), LOW_CURVATURE[name])
    for rank in ranks:
        found, reached = rank["low curvature"][name]
        assert_close(found, history, rtol=1e-9, atol=1e-12)
        assert_close(reached, weights, rtol=1e-8, atol=1e-10)
    assert equal(ranks[0]["low curvature"][name][1], ranks[1]["low curvature"][name][1])


def test_the_running_statistics_of_two_processes_become_one(ranks):
    first, second = (rank["statistics"] for rank in ranks)
    assert equal(first, second)
    assert float((first["1.running_mean"]).abs().max()) > 0.01
