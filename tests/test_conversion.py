"""Inspection and conversion: recorded calls, separated calls, bounds of the change, and an unchanged original."""

import copy
import logging
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conversion_networks import LIPSCHITZ, NETWORKS, Inception, Mixed, SharedBlock, SharedResNet, network
from safetensors.torch import load, save
from torch import fx, nn
from torch.nn import functional as F
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import randomness
from lowcurve.models import CenteredSoftplus, LCNNConversion, LipschitzConversion, SmoothConversion, summary
from lowcurve.models.conversion.batchnorm_folding import fold_batchnorm
from lowcurve.models.conversion.layer_kinds import distance_from_relu
from lowcurve.randomness import stream

every_network = pytest.mark.parametrize("name", NETWORKS)
CONVERSIONS = (SmoothConversion(), LCNNConversion(), LipschitzConversion())
CASES = [(name, r) for name in NETWORKS for r in CONVERSIONS if isinstance(r, SmoothConversion) or name in LIPSCHITZ]
every_conversion = pytest.mark.parametrize(("name", "conversion"), CASES)


def converted(name: str, conversion: SmoothConversion | LCNNConversion | LipschitzConversion, dtype=torch.float32):
    """A network, its conversion and an example. LipschitzConversion() does not support overlapping pooling windows."""
    model, x = network(name, dtype)
    loose = isinstance(conversion, LipschitzConversion) and name in ("resnet", "inception")
    only = (lambda name, _: "pool" not in name) if loose else None
    return model, lc.convert(model, conversion, example=x, only=only), x


def everything(model: nn.Module) -> dict[str, object]:
    """Return everything that must not change in a network."""
    hooks = {
        name: [len(value) for key, value in vars(m).items() if "hooks" in key] for name, m in model.named_modules()
    }
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "hooks": hooks,
        "modes": {name: m.training for name, m in model.named_modules()},
        "classes": {name: type(m) for name, m in model.named_modules()},
        "gradients": {name: p.grad is None for name, p in model.named_parameters()},
        "wanted": {name: p.requires_grad for name, p in model.named_parameters()},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "chance": torch.get_rng_state(),
    }


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    for key in ("state", "chance"):
        assert_close(after.pop(key), before.pop(key), rtol=0, atol=0)
    assert after == before


# --- inspection


@every_network
def test_looking_changes_nothing(name):
    model, x = network(name)
    model[0].train() if isinstance(model, nn.Sequential) else model.train()
    before = everything(model)
    for conversion in CONVERSIONS:
        assert str(lc.inspect_layers(model, x, conversion))
    assert_same(before, everything(model))


@every_network
def test_every_call_of_a_nonlinearity_is_seen(name):
    model, x = network(name)
    found = lc.inspect_layers(model, x)
    bends = [call for call, one in zip(found.calls, found.outcomes, strict=True) if one.replacement]
    assert len(bends) == len({call.name for call in bends}) == NETWORKS[name][2]
    assert found.unsupported == {}


def test_the_table_of_a_block_names_each_call():
    block, x = SharedBlock(2, 4, 2).eval(), torch.rand(2, 2, 6, 6)
    assert str(lc.inspect_layers(block, x, LCNNConversion())).splitlines() == [
        "call          layer        input         output        under LCNNConversion",
        "downsample.0  Conv2d       (2, 2, 6, 6)  (2, 4, 3, 3)",
        "downsample.1  BatchNorm2d  (2, 4, 3, 3)  (2, 4, 3, 3)  -> LipschitzBatchNorm2d",
        "conv1         Conv2d       (2, 2, 6, 6)  (2, 4, 3, 3)",
        "bn1           BatchNorm2d  (2, 4, 3, 3)  (2, 4, 3, 3)  -> LipschitzBatchNorm2d",
        "relu          ReLU         (2, 4, 3, 3)  (2, 4, 3, 3)  -> CenteredSoftplus(beta=5)",
        "conv2         Conv2d       (2, 4, 3, 3)  (2, 4, 3, 3)",
        "bn2           BatchNorm2d  (2, 4, 3, 3)  (2, 4, 3, 3)  -> LipschitzBatchNorm2d",
        "relu_1        ReLU         (2, 4, 3, 3)  (2, 4, 3, 3)  -> CenteredSoftplus(beta=5); shares relu",
        "SharedBlock: 3 convolution, 3 normalization, 2 nonlinearity; 0 not supported",
    ]


def test_a_block_that_is_called_twice_has_one_module_for_each_place():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Mixed(8), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.block(self.block(x)).mean((2, 3)))

    model, x = Twice().eval(), torch.rand(2, 8, 6, 6)
    lines = [line.split("  ")[-1] for line in str(lc.inspect_layers(model, x)).splitlines() if "block.relu_2 " in line]
    assert lines == ["-> CenteredSoftplus(beta=10)", "-> CenteredSoftplus(beta=10); shares block.relu_2"]
    result = lc.convert(model, SmoothConversion(beta=1e6), example=x)
    assert len(result.conversion_report.replaced) == 3
    assert_close(result(x), model(x), rtol=1e-4, atol=1e-4)
    plain = lc.fold(result, example=x)
    assert_close(plain(x), result(x), rtol=1e-4, atol=1e-5)


class NormAndAct(nn.BatchNorm2d):
    """A BatchNorm whose forward method contains a nonlinearity, as in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_a_layer_with_a_forward_of_its_own_is_looked_into():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndAct(4), nn.Flatten()).eval(), torch.rand(2, 3, 5, 5)
    found = lc.inspect_layers(model, x, LCNNConversion())
    assert [(call.name, call.operation) for call in found.calls] == [
        ("0", "Conv2d"), ("1", "NormAndAct"), ("1.act", "ReLU"),
    ]  # fmt: skip
    assert not found.unsupported
    assert list(lc.convert(model, example=x).conversion_report.replaced) == ["1.act"]


class NormTwice(NormAndAct):
    """A BatchNorm whose forward method is not BatchNorm and then its children."""

    def forward(self, x):
        return self.act(2 * super(NormAndAct, self).forward(x))


class NormOfLibrary(NormAndAct):
    """As timm writes it: by a function."""

    def forward(self, x):
        return self.act(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training))


def with_norm(kind) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), kind(4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 3)).eval()
    model[1].running_mean.normal_(generator=stream(0, "mean"))
    model[1].running_var.uniform_(0.5, 4, generator=stream(0, "variance"))
    return model.requires_grad_(False)


@pytest.mark.parametrize("kind", [NormAndAct, NormOfLibrary])
def test_batchnorm_with_an_activation_inside_is_folded_converted_and_bounded(kind):
    model, x = with_norm(kind), randomness.uniform(torch.zeros(2, 3, 5, 5), 0, 1, generator=stream(0, "images"))
    plain = lc.fold(model, example=x)
    assert (plain.folding_report.layers, plain.folding_report.left) == (1, {})
    assert not any(isinstance(part, nn.BatchNorm2d) for part in plain.modules())
    assert_close(plain(x), model(x))
    with fold_batchnorm(model, x):
        assert_close(model[0](x), plain[0](x))
        assert_close(model[1](model[0](x)), plain[1](plain[0](x)))
    bounded = lc.convert(model, LCNNConversion(beta=1e4), example=x)
    assert list(bounded.conversion_report.replaced) == ["1", "1.act", "2", "4"]
    assert bounded[1].gamma > 0
    assert_close(bounded(x), model(x), rtol=1e-2, atol=1e-2)
    lc.models.load_original(bounded, model.state_dict())
    assert_close(lc.fold(bounded, example=x)(x), bounded(x))


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_the_parametrization_of_a_batchnorm_is_no_layer_behind_it():
    model, x = with_norm(nn.BatchNorm2d), torch.rand(2, 3, 5, 5, generator=stream(0, "images"))
    nn.utils.parametrize.register_parametrization(model[1], "weight", Half())
    model.eval()
    expected = model(x)
    assert_close(lc.fold(model, example=x)(x), expected)
    with fold_batchnorm(model, x):
        assert_close(model(x), expected)


def test_a_batchnorm_that_does_something_else_is_left_alone():
    model, x = with_norm(NormTwice), torch.rand(2, 3, 5, 5, generator=stream(0, "images"))
    with pytest.warns(UserWarning, match="nothing was folded: 1.batch_norm: F.batch_norm is called by a"):
        plain = lc.fold(model, example=x)
    assert_close(plain(x), model(x))
    with fold_batchnorm(model, x):
        assert_close(model(x), plain(x))
    with pytest.warns(UserWarning, match=r"1.batch_norm \(outside the bound: F.batch_norm is no module"):
        bounded = lc.convert(model, LCNNConversion(beta=1e4), example=x)
    assert_close(bounded(x), model(x), rtol=1e-2, atol=1e-2)


class Quick(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def test_nonlinearities_that_stay_say_why():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), Quick(), nn.Hardswish(), nn.Linear(2, 2))
    report = lc.convert(model, example=torch.zeros(1, 2)).conversion_report
    assert list(report.replaced) == ["3"]
    assert report.left == {
        "1": "Sigmoid is smooth and not like ReLU", "2.sigmoid": "torch.sigmoid is smooth and not like ReLU",
    }  # fmt: skip
    assert report.per_call == pytest.approx(0.375 + math.log(2) / 10)


def test_functions_are_seen_by_their_names():
    found = lc.inspect_layers(*network("inception"))
    whats = {call.name: call.operation for call in found.calls}
    assert whats["relu"] == "torch.relu"
    assert whats["max_pool2d"] == "F.max_pool2d"
    assert [whats[f"mixed1.relu{end}"] for end in ("", "_1", "_2")] == ["F.relu", "F.relu", "Tensor.relu"]
    assert whats["mixed2.avg_pool2d"] == "F.avg_pool2d"
    assert whats["clamp"] == "Tensor.clamp"


def test_what_is_not_supported_has_a_name_and_a_reason():
    reasons = {
        "norm1": "no Lipschitz form of LayerNorm",
        "attention": "no Lipschitz form of MultiheadAttention",
        "scaled_dot_product_attention": "no Lipschitz form of F.scaled_dot_product_attention",
        "norm2": "no Lipschitz form of LayerNorm",
        "softmax": "no Lipschitz form of Tensor.softmax",
    }
    found = lc.inspect_layers(*network("vit"), LipschitzConversion())
    assert found.unsupported == reasons
    assert "5 not supported" in str(found)
    learned = lc.inspect_layers(*network("vit"), LCNNConversion())
    assert not learned.unsupported
    assert learned.staying == {name: f"outside the bound: {reason}" for name, reason in reasons.items()}
    assert "stays: outside the bound: no Lipschitz form of LayerNorm" in str(learned)
    loose = lc.inspect_layers(*network("resnet"), LipschitzConversion())
    assert loose.unsupported == {"maxpool": "its windows overlap, Lipschitz constant sqrt(4)"}
    assert not lc.inspect_layers(*network("densenet"), LCNNConversion()).unsupported


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.LeakyReLU(), "LeakyReLU has a kink and no smooth form here"),
        (nn.Hardtanh(), "Hardtanh has a kink and no smooth form here"),
        (nn.Tanh(), ""),
        (nn.Sigmoid(), ""),
    ],
)
def test_kinks_without_a_smooth_form_are_named(layer, reason):
    found = lc.inspect_layers(nn.Sequential(nn.Linear(2, 2), layer), torch.zeros(1, 2))
    assert list(found.unsupported.values()) == ([reason] if reason else [])


def test_layers_that_have_no_place_for_a_norm_are_named():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.one = nn.Parameter(torch.ones(2, 2)), nn.Conv1d(2, 2, 1)
            self.up, self.norm = nn.ConvTranspose1d(2, 2, 1), nn.BatchNorm1d(2, track_running_stats=False)

        def forward(self, x):
            return self.norm(self.up(self.one(F.linear(x, self.weight)[..., None])))[..., 0]

    found = lc.inspect_layers(Bare(), torch.zeros(2, 2), LCNNConversion())
    found_by_lipschitz = lc.inspect_layers(Bare(), torch.zeros(2, 2), LipschitzConversion()).unsupported
    assert found.staying == {name: f"outside the bound: {reason}" for name, reason in found_by_lipschitz.items()}
    assert found_by_lipschitz == {
        "linear": "F.linear is no module, so there is no place for its norm",
        "up": "no Lipschitz form of ConvTranspose1d",
        "norm": "BatchNorm1d without running statistics",
    }


# --- conversion


@every_conversion
def test_the_original_stays_as_it_was(name, conversion):
    model, x = network(name)
    before, logits = everything(model), model(x)
    result = converted(name, conversion)[1]
    only = (lambda name, _: "pool" not in name) if isinstance(conversion, LipschitzConversion) else None
    lc.convert(model, conversion, example=x, only=only)
    assert_same(before, everything(model))
    assert_close(model(x), logits, rtol=0, atol=0)
    assert {id(p) for p in result.parameters()} & {id(p) for p in model.parameters()} == set()


@every_conversion
def test_every_call_has_a_module_and_a_beta_of_its_own(name, conversion):
    model, result, x = converted(name, conversion)
    acts = [m for m in result.modules() if isinstance(m, CenteredSoftplus)]
    assert len(acts) == NETWORKS[name][2]
    assert_close([row.beta for row in summary(result) if row.beta], [conversion.beta] * len(acts), rtol=1e-5, atol=0)
    found = lc.inspect_layers(result, x)
    bends = [call for call in found.calls if call.kind == "nonlinearity"]
    assert [(call.operation, call.shared) for call in bends] == [("CenteredSoftplus", False)] * len(acts)
    assert isinstance(result, type(model))
    assert result.conversion_report.left == {}


@every_network
def test_a_large_beta_changes_little_and_what_changed_is_known(name):
    model, x = network(name, torch.float64)
    if name in ("convnet", "mlp", "depthwise"):
        model = nn.Sequential(*(nn.ReLU() if distance_from_relu(m) is not None else m for m in model))
    for beta in (1e2, 1e4, 1e6):
        result = lc.convert(model, SmoothConversion(beta=beta), example=x)
        change = float((result(x) - model(x)).detach().abs().max())
        if name != "vit":  # it has GELU instead of ReLU
            assert change < 2e2 / beta
            assert_close(result.conversion_report.per_call, math.log(2) / beta)
        assert_close(result.conversion_report.change, change)


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(2), nn.ELU(0.7)]
)
@pytest.mark.parametrize("beta", [0.5, 10.0, 1e4])
def test_a_call_changes_by_what_is_stated_at_most(module, beta):
    """The bound is log(2) / beta plus the distance from ReLU. It holds on a grid, and ReLU nearly attains it."""
    x = torch.linspace(-50, 50, 200_001, dtype=torch.float64)[:, None]
    model = nn.Sequential(nn.Flatten(), module)
    result = lc.convert(model, SmoothConversion(beta=beta), example=x)
    change = float((result(x) - model(x)).detach().abs().max())
    assert change <= result.conversion_report.per_call * (1 + 1e-9)
    assert result.conversion_report.per_call <= math.log(2) / beta + distance_from_relu(module) + 1e-12
    if type(module) is nn.ReLU:
        assert change > 0.99 * math.log(2) / beta


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_bounds_start_inactive(name):
    """Without a change of nonlinearities, LCNN's conversion of a trained network is the same function up to rounding."""
    model, x = network(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    layers = lambda _, layer: distance_from_relu(layer) is None  # noqa: E731
    result = lc.convert(model, LCNNConversion(), example=x, only=layers)
    assert_close(result(x), model(x), rtol=1e-6, atol=1e-6)
    rows = [row for row in summary(result) if row.gamma]
    assert [row.clipped for row in rows] == [False] * len(rows)
    assert min(row.gamma for row in rows) >= 10 * (1 - 1e-5)
    assert max(row.gamma for row in rows) > 11
    assert min(row.gamma / row.norm.lower for row in rows) > 1


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_lipschitz_bounds_every_layer_by_one(name):
    model, result, x = converted(name, LipschitzConversion())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    only = (lambda name, _: "pool" not in name) if name in ("resnet", "inception") else None
    result = lc.convert(model, LipschitzConversion(), example=x, only=only)
    rows = [row for row in summary(result) if row.gamma]
    assert [row.gamma for row in rows] == [1.0] * len(rows)
    assert any(row.clipped for row in rows)
    assert [p for n, p in result.named_parameters() if n.endswith("log_gamma")] == []
    assert result.conversion_report.change > 0


@every_conversion
def test_gradients_reach_every_beta_and_gamma(name, conversion):
    _, result, x = converted(name, conversion)
    for layer in result.modules():
        if isinstance(conversion, LCNNConversion) and hasattr(layer, "log_gamma"):
            layer.log_gamma.data.fill_(0.01)  # small enough to clip
    result(x).pow(2).sum().backward()
    missing = [n for n, p in result.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert missing == []
    betas = [p.grad for n, p in result.named_parameters() if n.endswith("log_beta")]
    assert len(betas) == NETWORKS[name][2]
    assert [bool(grad != 0) for grad in betas] == [True] * len(betas)
    gammas = [p.grad for n, p in result.named_parameters() if n.endswith("log_gamma")]
    assert bool(gammas) == isinstance(conversion, LCNNConversion)
    assert any(bool(grad != 0) for grad in gammas) == isinstance(conversion, LCNNConversion)


@every_conversion
def test_copies_and_files_come_back_the_same(name, conversion):
    _, result, x = converted(name, conversion)
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert_close(again(x), result(x), rtol=0, atol=0)
        assert again.conversion_report == result.conversion_report
        assert [n for n, _ in again.named_modules()] == [n for n, _ in result.named_modules()]
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
    assert float(result(x).detach().abs().max()) > 0
    other = converted(name, conversion)[1]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(load(save(result.state_dict())))
    assert_close(other(x), result(x), rtol=0, atol=0)


@every_conversion
def test_the_state_dict_of_the_original_loads(name, conversion):
    model, result, x = converted(name, conversion)
    names = set(model.state_dict())
    assert names <= set(result.state_dict())
    added = {key.rpartition(".")[2] for key in set(result.state_dict()) - names}
    assert added <= {"log_beta", "log_gamma", "sigma", "vector"}
    expected = result(x)
    with torch.no_grad():
        for key, parameter in result.named_parameters():
            if key in names:
                parameter.zero_()
    lc.models.load_original(result, model.state_dict())
    assert_close(result(x), expected, rtol=1e-3, atol=1e-4)
    plain = {key: value for key, value in model.state_dict().items() if "bn" not in key}
    assert_close({k: v for k, v in result.state_dict().items() if k in plain}, plain, rtol=0, atol=0)


@every_conversion
def test_what_belongs_to_a_layer_is_kept(name, conversion):
    """Mode, precision and requires_grad are kept."""
    model, _, x = converted(name, conversion)
    model = model.double().train()
    for number, (_, parameter) in enumerate(model.named_parameters()):
        parameter.requires_grad_(number % 2 == 0)
    only = (lambda name, _: "pool" not in name) if isinstance(conversion, LipschitzConversion) else None
    result = lc.convert(model, conversion, example=x.double(), only=only)
    assert [m.training for m in result.modules()] == [True] * len(list(result.modules()))
    wanted = {key: p.requires_grad for key, p in model.named_parameters()}
    assert {key: p.requires_grad for key, p in result.named_parameters() if key in wanted} == wanted
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    assert {key: value.dtype for key, value in result.state_dict().items() if key in kinds} == kinds
    assert {value.dtype for key, value in result.state_dict().items() if key.endswith("log_beta")} == {torch.float64}


def test_a_split_forward_follows_the_mode():
    """F.dropout(x, training=self.training) works the same after the conversion."""
    model, x = network("inception")
    result = lc.convert(model, example=x)
    assert_close(result(x), result(x), rtol=0, atol=0)
    result.train()
    assert float((result(x) - result(x)).detach().abs().max()) > 0
    assert float((model.train()(x) - model(x)).detach().abs().max()) > 0


def test_a_split_module_is_what_it_was_but_for_its_forward():
    model, x = network("inception")
    seen = []
    model.mixed1.register_forward_hook(lambda *_: seen.append("mixed1"))
    result = lc.convert(model, example=x)
    assert isinstance(result, Inception)
    assert isinstance(result.mixed1, Mixed)
    assert type(result).__name__ == "Inception"
    assert type(result.fc) is nn.Linear
    seen.clear()
    result(x)
    assert seen == ["mixed1"]
    assert_close(result.mixed1(torch.rand(1, 4, 5, 5), scale=None).shape, torch.Size([1, 8, 5, 5]))
    with pytest.raises(AssertionError, match="scale has been specialized"):
        result.mixed1(torch.rand(1, 4, 5, 5), torch.ones(1))


class Recurrent(nn.Module):
    """A convolution with its normalization that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x):
        for _ in range(2):
            x = F.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


def test_weights_that_are_used_twice_are_bounded_once():
    model, x = Recurrent().eval(), torch.rand(4, 2, 5, 5)
    converted = lc.convert(model, LCNNConversion(beta=1e4), example=x)
    assert_close(converted(x), model(x), rtol=0, atol=1e-3)
    replaced = converted.conversion_report.replaced
    assert [name for name, new in replaced.items() if new.startswith("LipschitzBatchNorm2d")] == ["norm", "norm_1"]
    assert sum(type(part).__name__ == "LipschitzBatchNorm2d" for part in converted.modules()) == 1


def test_shared_modules_get_names_for_their_places():
    result = converted("resnet", SmoothConversion())[1]
    assert list(result.conversion_report.replaced)[:4] == ["relu", "layer1.0.relu", "layer1.0.relu_1", "layer1.1.relu"]
    assert type(result) is SharedResNet
    result = converted("vgg", SmoothConversion())[1]
    assert list(result.conversion_report.replaced) == ["0.2", "0.6", "0.10", "3"]
    assert type(result) is nn.Sequential


def test_only_what_is_named_changes():
    model, x = network("resnet")
    result = lc.convert(model, example=x, only=["layer4.*", "relu"])
    assert list(result.conversion_report.replaced) == [
        "relu", "layer4.0.relu", "layer4.0.relu_1", "layer4.1.relu", "layer4.1.relu_1",
    ]  # fmt: skip
    assert type(result.layer1[0].relu) is nn.ReLU
    one = lc.convert(model, example=x, only=lambda name, layer: name == "layer1.0.relu_1" and type(layer) is nn.ReLU)
    assert list(one.conversion_report.replaced) == ["layer1.0.relu_1"]
    assert type(one.layer1[0].relu) is nn.ReLU
    assert lc.convert(model, example=x, only="fc").conversion_report.replaced == {}


def test_a_split_network_is_read_in_another_process(tmp_path):
    _, result, x = converted("inception", SmoothConversion())
    torch.save((result, x, result(x).detach()), tmp_path / "model.pt")
    program = "import torch; m, x, y = torch.load('model.pt', weights_only=False); torch.testing.assert_close(m(x), y)"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths})


def test_a_split_network_can_be_traced_again():
    _, result, x = converted("resnet", SmoothConversion())
    assert_close(fx.symbolic_trace(result)(x), result(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "wide-resnet28-10", "yu2018-mnist", "lcnn-resnet18"])
def test_the_package_s_own_networks_are_converted(name):
    model = lc.Network(name, (3, 8, 8), 5, (0.4,) * 3, (0.3,) * 3, width=4).build(seed=0).eval()
    x = torch.rand(2, 3, 8, 8)
    result = lc.convert(model, SmoothConversion(beta=1e5), example=x)
    assert result.conversion_report.change < 1e-2
    assert lc.fold(result, example=x).folding_report.difference < 1e-4


def test_what_was_done_is_logged(caplog):
    model, x = network("mlp")
    with caplog.at_level(logging.DEBUG, logger="lowcurve"):
        result = lc.convert(model, example=x)
    change = result.conversion_report.change
    assert caplog.messages == [f"SmoothConversion: 2 layers replaced, logits changed by {change:.2g} at most"]


def test_a_converted_network_trains_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for conversion in CONVERSIONS[:2]:
            _, result, x = converted("resnet", conversion)
            wrapped = nn.parallel.DistributedDataParallel(result.train())
            wrapped(x).pow(2).sum().backward()
            betas = [p.grad for n, p in wrapped.named_parameters() if n.endswith("log_beta")]
            assert [grad is not None and bool(grad != 0) for grad in betas] == [True] * 17
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("width", [4, 6])
def test_batchnorm_along_the_axis_of_tokens_is_not_paired_with_a_linear_layer_on_the_last(width):
    """With as many tokens as features, their factors would go into the wrong rows of the weights."""
    model = nn.Sequential(
        nn.Linear(5, width), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * width, 3)
    ).eval()
    model[1].running_var = torch.tensor([1e-4, 1.0, 4.0, 9.0])
    x = randomness.uniform(torch.zeros(3, 4, 5), 0, 1, generator=stream(0, "tokens"))
    with pytest.warns(
        UserWarning, match="nothing was folded: 1: no convolution or linear layer before it, whose output"
    ):
        folded = lc.fold(model, example=x)
    assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    with fold_batchnorm(model, x):
        assert_close(model(x), folded(x), rtol=1e-4, atol=1e-4)
    bounded = lc.convert(model, LCNNConversion(), example=x)
    assert bounded[1].alone
    assert float(bounded[1].gamma.detach()) > 95  # 1 / sqrt(1e-4 + eps) is the norm of this BatchNorm
    smooth = lc.convert(model, SmoothConversion(LCNNConversion().beta), example=x)
    assert_close(bounded(x), smooth(x), rtol=1e-4, atol=1e-4)
