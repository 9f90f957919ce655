"""Going on after an end: whatever stopped a training, and wherever, it ends in the same bits."""

import itertools
import signal

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from trainings import (
    MEMBERS,
    Memory,
    Stopped,
    child,
    difficult_network,
    difficult_training,
    equal,
    stopping,
    trained,
)

from lowcurve.errors import InputError


@pytest.fixture(scope="module")
def uninterrupted():
    model = difficult_network()
    history = difficult_training(model)
    return model.state_dict(), history


def test_what_is_resumed_has_every_kind_of_state():
    """Or the tests below would say less than they seem to."""
    memory = Memory()
    history = difficult_training(difficult_network(), checkpoint=memory)
    last = memory.states[-1]
    scores = [row["validation robust accuracy"] for row in history]
    assert 0 < scores.index(max(scores)) < 3  # neither the first weights nor the last
    assert not equal(last["best"]["weights"], {k[7:]: v for k, v in last["average"].items() if k.startswith("module.")})
    weights = [state["adaptive weights"]["chords"]["current"] for state in memory.states]
    assert len(set(weights)) > 2
    assert any(0 < after < before for before, after in itertools.pairwise(weights))


@pytest.mark.parametrize("before", range(20))
def test_a_training_stopped_at_any_step_goes_on_as_if_it_had_not_been(uninterrupted, before):
    memory = Memory()
    with pytest.raises(Stopped):
        difficult_training(difficult_network(), checkpoint=memory, progress=stopping(before))
    assert (memory.states[-1]["step"] if memory.states else 0) == before - before % 2
    model = difficult_network()
    history = difficult_training(model, checkpoint=memory)
    weights, expected = uninterrupted
    assert history == expected
    assert equal(model.state_dict(), weights)


# In the first epoch, in the middle of the third, and at the border of the last two; checkpoints at 2, 10 and 14.
@pytest.mark.parametrize(
    "kills",
    [((11, 10),), pytest.param(((3, 2), (11, 10), (15, 14)), marks=pytest.mark.slow)],
    ids=["once", "again and again"],
)
def test_a_killed_training_ends_in_the_same_bits(kills, uninterrupted, tmp_path):
    for before, step in kills:
        killed = child("resume", tmp_path, before)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == step
        assert not (tmp_path / "result.pt").exists()
    last = child("resume", tmp_path, -1)
    assert last.returncode == 0, last.stderr
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    weights, history = uninterrupted
    assert found["history"] == history
    assert equal(found["weights"], weights)


@pytest.mark.parametrize("objective", MEMBERS.values(), ids=MEMBERS)
def test_every_member_goes_on_in_the_middle_of_an_epoch(objective):
    whole, expected = trained(objective, model=difficult_network())
    memory = Memory()
    with pytest.raises(Stopped):
        trained(objective, model=difficult_network(), checkpoint=memory, checkpoint_every=2, progress=stopping(7))
    assert memory.states[-1]["step"] == 6
    model, history = trained(objective, model=difficult_network(), checkpoint=memory)
    assert history == expected
    assert equal(model.state_dict(), whole.state_dict())


def test_a_training_that_was_done_is_not_done_again(uninterrupted):
    memory, model = Memory(), difficult_network()
    difficult_training(model, checkpoint=memory)
    model = difficult_network()
    history = difficult_training(model, checkpoint=memory, progress=stopping(0))
    assert history == uninterrupted[1]
    assert equal(model.state_dict(), uninterrupted[0])


def test_a_checkpoint_of_an_earlier_version_is_refused():
    memory = Memory()
    difficult_training(difficult_network(), checkpoint=memory)
    del memory.states[-1]["collapse"], memory.states[-1]["linearity"]
    with pytest.raises(
        InputError, match=r"of this version of lowcurve, got one without collapse, linearity\. Go on with"
    ):
        difficult_training(difficult_network(), checkpoint=memory)


def test_the_scale_of_the_loss_in_half_precision_is_part_of_the_state():
    def halved() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    whole, expected = trained(fabric=halved())
    memory = Memory()
    with pytest.raises(Stopped):
        trained(fabric=halved(), checkpoint=memory, checkpoint_every=2, progress=stopping(7))
    assert memory.states[-1]["loss scale"]["scale"] == 2.0**10
    resumed = halved()
    model, history = trained(fabric=resumed, checkpoint=memory)
    assert resumed.strategy.precision.scaler.get_scale() == 2.0**11
    assert history == expected
    assert equal(model.state_dict(), whole.state_dict())


def test_a_checkpoint_once_an_epoch_unless_told_otherwise():
    memory = Memory()
    trained(checkpoint=memory)
    assert [state["step"] for state in memory.states] == [5, 10]
    memory = Memory()
    trained(checkpoint=memory, checkpoint_every=4)
    assert [state["step"] for state in memory.states] == [4, 8, 10]
