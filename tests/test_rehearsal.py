"""What a command will compute is tried on two images before its run is made, and the network is left as it was."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from command import SMOKE, refused
from test_network_calls import Layer, Net, Once, images
from torch import nn

from lowcurve.errors import InputError
from lowcurve.penalties import CURE
from lowcurve.study.rehearsal import rehearse_evaluation, rehearse_training
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Optimization, Term, fit

ALL = ("train", "measure", "attack")
CURVATURE = Objective(penalties={"curvature": Term(CURE(h=0.1), 1.0)})


def test_a_rehearsal_leaves_everything_as_it_was(caplog):
    model = Net(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))).train()
    model.between[0].eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert rehearse_evaluation(model, images(), Study(), ALL) == 3
    rehearse_training(model, CURVATURE, images())
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert bool((model.first.weight.grad == 1).all())
    assert model.second.weight.grad is None
    assert caplog.text == ""


def test_what_training_cannot_do_is_told_with_the_layer():
    model = Net(nn.Sequential(nn.Tanh(), Layer(Once.apply)))
    rehearse_training(model, Objective(), images())  # one derivative is enough
    with pytest.raises(InputError, match=r"in layer 'between\.1' \(Layer\): another one through Once"):
        rehearse_training(model, CURVATURE, images())


def test_a_network_without_gradient_is_told_before_an_attack():
    model = Net(lambda h: h.detach()).eval()
    rehearse_evaluation(model, images(), Study(), ("train",))
    for steps in (("attack",), ("measure",)):
        with pytest.raises(InputError, match="a field that is differentiable in its input"):
            rehearse_evaluation(model, images(), Study(), steps)


def test_a_network_that_fails_on_a_single_image_is_told():
    model = Net(nn.BatchNorm1d(8, track_running_stats=False)).eval()
    with pytest.raises(InputError, match=r"in layer 'between' \(BatchNorm1d\): Expected more than 1 value"):
        rehearse_evaluation(model, images(), Study(), ("attack",))


def distances(h):
    """Torch does not differentiate these twice."""
    return torch.cdist(h[:, None], torch.eye(8)[None].expand(len(h), 8, 8), p=1.5)[:, 0]


def test_a_missing_product_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="lowcurve"):
        rehearse_evaluation(Net(Layer(distances)).eval(), images(), Study(), ("measure",))
    assert "curvature cannot be measured. Expected a network that torch can differentiate" in caplog.text
    assert "in layer 'between' (Layer)" in caplog.text


def test_draws_of_numpy_cannot_be_repeated():
    noisy = Net(lambda h: h * np.random.default_rng().random())
    fit(noisy, Objective(), images(), Optimization(epochs=1))
    with pytest.raises(
        InputError, match=r"the same logits in all passes of a step, got logits that differ by .* from pass to"
    ):
        fit(noisy, CURVATURE, images(), Optimization(epochs=1))


NETWORKS = """
import torch
from torch import nn

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g

class Layer(nn.Module):
    def forward(self, x):
        return Once.apply(x)

def once():
    return nn.Sequential(nn.Flatten(), Layer(), nn.Linear(64, 10))

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(10, 10))
"""


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--methods", "standard,CURE", "--model", "nets_at_hand:once"), "in layer '1' (Layer)"),
        (("study", "--train", "--model", "nets_at_hand:wrong"), "in layer '2' (Linear): mat1 and mat2"),
        (("attack", "--model", "nets_at_hand:wrong"), "in layer '2' (Linear): mat1 and mat2"),
    ],
)
def test_no_run_is_made_for_a_network_that_fails(capsys, words, sentence):
    Path("nets_at_hand.py").write_text(NETWORKS)
    assert sentence in refused(capsys, *words, *SMOKE, "--out", "run")
    assert not Path("run").exists()
