"""The adversarial training set: whose images, how far they are moved, and what mixing them with clean ones gives."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve.analysis.norms import L2, Ball
from lowcurve.attacks import PGD, DeepFool, RunnerUp
from lowcurve.data import Examples, digits
from lowcurve.errors import InputError
from lowcurve.evaluation import correct
from lowcurve.models import Network
from lowcurve.randomness import stream
from lowcurve.study.adversarial_set import adversarial_set, mix
from lowcurve.training import Hardware, Objective, Optimization, fit, make_fabric

CPU = make_fabric(Hardware(accelerator="cpu"))
ASCENT = PGD(Ball(L2, 3.0), steps=300, step_size=0.02, start="center", target=1)
"""The ascent in steps of one length, which an evaluation stops at the crossing."""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    data = digits()
    net = Network("small-convnet", data.shape, 10, *data.statistics(), width=4).build(seed=0)
    settings = Optimization(epochs=6, batch_size=32, learning_rate=5e-3)
    fit(net, Objective(), data.train, settings, fabric=CPU)
    return net


def sources(model: nn.Module, few: int) -> torch.Tensor:
    """The rows that the set is made from: the first few of each class that the network gets right."""
    train = digits().train
    right = torch.from_numpy(correct(model, train))
    rows = [torch.nonzero(right & (train.y == label)).flatten()[:few] for label in range(10)]
    return torch.cat(rows).sort().values


@pytest.mark.parametrize("method", [RunnerUp(), ASCENT], ids=["runner-up", "equal steps"])
def test_every_image_was_right_and_is_wrong_and_has_hardly_moved(model, method):
    train = digits().train
    found = adversarial_set(model, train, per_class=5, method=method)
    clean = train.take(sources(model, 5))
    assert_close(found.y, clean.y)
    assert found.y.bincount().tolist() == [5] * 10
    assert correct(model, clean).all()
    assert not correct(model, found).any()
    assert (found.shape, found.classes) == (train.shape, train.classes)
    distance, nearest = L2.length(found.x - clean.x), L2.length(nearby(model, clean) - clean.x)
    assert float(distance.min()) > 0
    assert 1 - 1e-3 < float((distance / nearest).median()) < 1.5


def nearby(model: nn.Module, clean: Examples) -> torch.Tensor:
    return DeepFool(L2)(model, clean.x, clean.y, generator=stream(0))


def test_most_of_them_are_taken_for_the_runner_up(model):
    train = digits().train
    found, clean = adversarial_set(model, train, per_class=5), train.take(sources(model, 5))
    second = model(clean.x).topk(2, dim=1).indices[:, 1]
    assert float((model(found.x).argmax(1) == second).double().mean()) > 0.9


def test_it_depends_on_neither_batch_size_nor_seed(model):
    first, again = (adversarial_set(model, digits().train, per_class=2, batch_size=size, seed=size) for size in (7, 64))
    assert_close(first.x, again.x, rtol=0, atol=1e-5)


def test_fine_tuning_on_both_learns_them(model):
    """The report's base network has an accuracy of a tenth on them and its fine-tuned one of three; here 0 and most."""
    train = digits().train
    moved = adversarial_set(model, train, per_class=20)
    tuned = Network("small-convnet", train.shape, 10, *digits().statistics(), width=4).build(seed=0)
    tuned.load_state_dict(model.state_dict())
    settings = Optimization(epochs=3, batch_size=32, learning_rate=2e-3)
    fit(tuned, Objective(), mix(train, moved), settings, fabric=CPU)
    levels = Examples((moved.x * 255).round().to(torch.uint8), moved.y, moved.classes)
    assert correct(model, moved).mean() == 0
    assert 0.1 < correct(model, levels).mean() < 0.6  # rounding to grey levels brings many of them back
    assert correct(tuned, moved).mean() > 0.6
    clean = [correct(net, digits().test).mean() for net in (model, tuned)]
    assert clean[1] > clean[0] - 0.02


def test_mixing_keeps_grey_levels_where_both_have_them():
    levels = Examples(torch.tensor([[0, 51]], dtype=torch.uint8), torch.tensor([0]), ("a", "b"))
    shares = Examples(torch.tensor([[0.4, 0.6]], dtype=torch.float64), torch.tensor([1]), ("a", "b"))
    assert_close(mix(levels, levels).x, torch.tensor([[0, 51], [0, 51]], dtype=torch.uint8))
    assert mix(shares, shares).x.dtype == torch.float64
    both = mix(levels, shares)
    assert_close(both.x, torch.tensor([[0.0, 0.2], [0.4, 0.6]]))
    assert_close(both.y, torch.tensor([0, 1]))


def test_names():
    assert RunnerUp() == DeepFool(L2, target=1, bisections=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: adversarial_set(nn.Identity(), points("ab"), per_class=0),
            "at least one image of each class, got 0. Write per_class=50",
        ),
        (
            lambda: mix(points("ab"), points("xyz")),
            r"examples of one shape and the same classes to mix, got \(2,\) with 2 classes and \(2,\) with 3",
        ),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()


def points(classes: str) -> Examples:
    return Examples(torch.tensor([[0.6, 0.4]]), torch.tensor([0]), tuple(classes))
