"""Errors of conversion and folding name the layer; with strict=False the layer is left unchanged."""

import math
import threading

import pytest
import torch
from conversion_networks import Dynamic, network
from torch import fx, nn
from torch.nn import functional as F

import lowcurve as lc
from lowcurve.errors import InputError
from lowcurve.models import CenteredSoftplus, LCNNConversion, LipschitzConversion, SmoothConversion, convert
from lowcurve.models.conversion import inspect_layers

X = torch.rand(4, 3, 2, 2)


class Written(nn.Module):
    """Two calls of one ReLU, written as `step` does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.step(self.act(self.body(x.flatten(1)))))

    def step(self, x):
        return self.act(x - 0.1)


class OtherInTraining(Written):
    def step(self, x):
        return F.relu(x - 0.1) if self.training else F.relu(x - 0.2)


class MakesATensor(Written):
    def step(self, x):
        return F.relu(x - torch.full((6,), 0.1))


class Draws(Written):
    def step(self, x):
        return F.relu(x * torch.rand(1))


class CountsOnItsInput(Written):
    def step(self, x):
        y = x - 0.1
        F.relu(y, inplace=True)
        return y


class CountsOnItsModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.act = nn.Linear(12, 5), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.body(x.flatten(1))
        return self.act(x) + 2 * x


class CountsOnItsModuleTwice(CountsOnItsModule):
    def forward(self, x):
        x = self.body(x.flatten(1))
        return self.act(self.act(x) - 2 * x)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 5)

    def forward(self, x):
        return self.body(x.flatten(1)), x


class HearsUnseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(12, 6), CenteredSoftplus(0.5), nn.Linear(6, 5)

    def forward(self, x):
        x = self.act(self.body(x.flatten(1)))
        return self.head(x) + x.tolist()[0][0]


class HoldsALock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 5)
        self.kept = threading.Lock()

    def forward(self, x):
        return self.body(x.flatten(1))


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: lc.convert(lc.convert(wide(), example=X), LCNNConversion(), example=X), "a network that is not converted yet, "
         r"got one converted by SmoothConversion\(beta=10.0, learn=True\)\. Convert the original network instead"),
        (lambda: lc.convert(nn.Sequential(lc.convert(wide(), example=X)), example=X), "a network that is not converted yet"),
        (lambda: lc.convert(nn.ReLU(), example=X), "a network that contains its layers, got a single ReLU. Put it into an"),
        (lambda: lc.convert(wide(), example=None), "an example batch of the network's inputs, got NoneType. Pass"),
        (lambda: lc.convert(wide(), example=X[0, 0, 0]), r"an example batch of the network's inputs, got \(2,\)"),
        (lambda: lc.fold(wide().eval(), example=X[:0]), r"an example batch of the network's inputs, got \(0, 3, 2, 2\)"),
        (lambda: lc.convert(wide(), example=X[:, :2]), r"an example that Sequential accepts, got shape \(4, 2, 2, 2\): "
         "RuntimeError: mat1 and mat2 .*. Pass a batch of its inputs, such as x"),
        (lambda: lc.inspect_layers(wide(), X.double()), "an example that Sequential accepts, got .*dtype"),
        (lambda: lc.fold(wide(), example=X), "a network in eval mode, because BatchNorm folds with its running statistics, "
         r"got training mode\. Write fold\(model.eval\(\), example=x\[:2\]\)"),
        (lambda: lc.fold(HearsUnseen().eval(), example=X), "layers whose results only torch functions use, got logits "
         "that differ by .*. Fold its parts one by one"),
        (lambda: lc.convert(Pair(), example=X), "a network whose output is one tensor, got tuple. Write lc.wrap"),
        (lambda: lc.convert(HoldsALock(), example=X), "a network that copy.deepcopy can copy, got TypeError: cannot pickle"),
        (lambda: under("vit", LipschitzConversion()), r"layers that LipschitzConversion supports, got norm1 \(no "
         r"Lipschitz form of LayerNorm\), attention \(no .*, 1 more\. Exclude them with only=, or leave them unchanged with"),
        (lambda: under("resnet", LipschitzConversion()), r"layers that LipschitzConversion supports, got maxpool \(its"),
        (lambda: lc.convert(Dynamic(), example=X), "a forward method around F.relu that torch.fx can follow, got that of "
         r"the network itself \(Dynamic\): symbolically traced variables cannot .*\. Give each call there its own module"),
        (lambda: lc.convert(nn.Sequential(Dynamic()), example=X), r"around F.relu .*, got that of 0 \(Dynamic\)"),
        (lambda: lc.convert(OtherInTraining(), example=X), "a forward method .*: it differs in training mode"),
        (lambda: lc.convert(MakesATensor(), example=X), "a forward .*: it creates a tensor, which the trace would make"),
        (lambda: lc.convert(Draws(), example=X), "a forward .*: it creates a tensor"),
        (lambda: lc.convert(fx.symbolic_trace(Written()), example=X), "a forward .*: it is already a torch.fx trace"),
        (lambda: lc.convert(CountsOnItsInput(), example=X), "nonlinearities that can work out of place, got a "
         r"change of .*\. Write x = F.relu\(x\)"),
        (lambda: lc.convert(CountsOnItsModule(), example=X), "nonlinearities that can work out of place"),
        (lambda: lc.convert(CountsOnItsModuleTwice(), example=X), "nonlinearities that can work out of place"),
        (lambda: lc.convert(wide(), example=X, only=["layer4.*"]), "a pattern that matches a layer, got 'layer4.*'. Write "
         "names such as 1, 2, 3"),
        (lambda: lc.models.load_original(lc.convert(wide(), example=X), {}), "the state dict of the original network, got "
         "1.weight missing, 1.bias missing, 3.weight missing. Load the state_dict"),
        (lambda: lc.models.load_original(wide(), wide().state_dict() | {"4.weight": X}), "got 4.weight unexpected"),
        (lambda: SmoothConversion(beta=0.0), "a positive number for beta, got 0.0. Write beta=10.0"),
        (lambda: LCNNConversion(gamma=math.inf), "a positive number for gamma, got inf"),
        (lambda: LCNNConversion(beta=-1.0), "a positive number for beta"),
        (lambda: LipschitzConversion(beta=math.nan), "a positive number for beta, got nan"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_hint(make, sentence):
    with pytest.raises(lc.InputError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


def under(name, conversion):
    model, x = network(name)
    return lc.convert(model, conversion, example=x)


@pytest.mark.parametrize(("make", "left"), [(Dynamic, ["relu"]), (MakesATensor, ["relu"]), (Draws, ["relu"])])
def test_what_cannot_be_rewritten_is_left_as_it_is(make, left):
    model = make().eval()
    with pytest.warns(UserWarning, match=r"left unchanged: relu \(") as caught:
        result = lc.convert(model, SmoothConversion(beta=1e5), example=X, strict=False)
    assert caught[0].filename == __file__
    assert list(result.conversion_report.left) == left
    assert list(result.conversion_report.replaced) == ["act"]
    assert type(result) is type(model)


def test_lcnn_bounds_what_it_can_and_names_the_rest():
    model, x = network("vit")
    with pytest.warns(UserWarning, match=r"norm1 \(outside the bound: .*, attention .*1 more"):
        result = lc.convert(model, LCNNConversion(), example=x)
    assert list(result.conversion_report.left) == [
        "norm1",
        "attention",
        "scaled_dot_product_attention",
        "norm2",
        "softmax",
    ]
    assert list(result.conversion_report.replaced) == ["patches", "mlp.0", "mlp.1", "mlp.2", "head"]


class ByHand(nn.Module):
    """A network with one nonlinearity that is written by hand."""

    def __init__(self, act):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(3, 4), nn.Linear(4, 2), act
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))

    def forward(self, x):
        return self.second(self.act(self.first(x)) * self.mask)


def zeroed(x):
    x = x.clone()
    x[x < 0] = 0
    return x


BY_HAND = {
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum, method": lambda x: x.maximum(torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, x.new_zeros(())),
    "minimum": lambda x: -torch.minimum(-x, torch.zeros(())),
    "mul": lambda x: x * (x > 0),
    "mul, float": lambda x: (x > 0).float() * x,
    "mul_": lambda x: x.clone().mul_(x.ge(0)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where, method": lambda x: x.where(x > 0, torch.zeros(())),
    "heaviside": lambda x: x * torch.heaviside(x, torch.zeros(())),
    "sign": lambda x: x * (1 + x.sign()) / 2,
    "abs": lambda x: (x + x.abs()) / 2,
    "builtin abs": lambda x: (x + abs(x)) / 2,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "setitem": zeroed,
    "clamp": lambda x: x.clamp(0, 6),
    "clip": lambda x: torch.clip(x, min=0.1),
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
}


@pytest.mark.parametrize("act", BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("conversion", [SmoothConversion(), LipschitzConversion()])
def test_a_kink_that_is_written_by_hand_is_never_left_without_a_word(act, conversion):
    model, example = ByHand(act), torch.ones(2, 3)
    with pytest.raises(InputError, match="has a kink"):
        convert(model, conversion, example=example)
    with pytest.warns(UserWarning, match="left unchanged: .*has a kink"):
        left = convert(model, conversion, example=example, strict=False).conversion_report.left
    assert any("has a kink" in reason for reason in left.values())
    assert inspect_layers(model, example, conversion).unsupported


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.relu(), lambda x: x.clamp(min=0), lambda x: torch.clamp_min(x, 0), lambda x: x.clone().relu_(),
        lambda x: x.clone().clamp_(min=0).flatten(1), lambda x: F.relu(x.clone(), inplace=True),
    ],
)  # fmt: skip
def test_relu_by_another_name_is_converted(act):
    converted = convert(ByHand(act), example=torch.ones(2, 3))
    assert not converted.conversion_report.left
    assert "CenteredSoftplus" in "".join(converted.conversion_report.replaced.values())


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x * torch.arange(4).gt(1), lambda x: torch.where(torch.arange(4) > 1, x, 0.0), lambda x: x * x.sigmoid(),
        lambda x: x + torch.ones(4).abs(), lambda x: x * torch.tensor(-2.0).abs(), lambda x: x / x.square().sum(1, True),
    ],
)  # fmt: skip
def test_what_has_no_kink_in_the_input_is_no_kink(act):
    assert not inspect_layers(ByHand(act), torch.ones(2, 3)).unsupported
