"""Folding: the same logits from plain layers, and export of the folded network."""

import logging
import pickle

import pytest
import torch
from conversion_networks import LIPSCHITZ, NETWORKS, network
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.testing import assert_close

import lowcurve as lc
from lowcurve.models import CenteredSoftplus, LCNNConversion, LipschitzConversion, SmoothConversion
from lowcurve.models.clipping import LipschitzLayer
from lowcurve.models.conversion.folding import ShiftedSoftplus

CONVERSIONS = (SmoothConversion(), LCNNConversion(), LipschitzConversion(beta=3.0, learn=False))
CASES = [(name, r) for name in NETWORKS for r in CONVERSIONS if isinstance(r, SmoothConversion) or name in LIPSCHITZ]
every_conversion = pytest.mark.parametrize(("name", "conversion"), CASES)


def folded(name, conversion, dtype=torch.float32):
    model, x = network(name, dtype)
    only = (lambda name, _: "pool" not in name) if isinstance(conversion, LipschitzConversion) else None
    result = lc.convert(model, conversion, example=x, only=only)
    return result, lc.fold(result, example=x), x


@every_conversion
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_folding_changes_no_logit(name, conversion, dtype, allowed):
    result, plain, x = folded(name, conversion, dtype)
    assert plain.folding_report.difference < allowed
    for scale in (1.0, 0.2):
        assert_close(plain(x * scale), result(x * scale), rtol=0, atol=allowed)
    assert {p.dtype for p in plain.parameters()} == {dtype}


@every_conversion
def test_what_is_left_are_plain_layers(name, conversion):
    result, plain, x = folded(name, conversion)
    own = [type(m) for m in plain.modules() if isinstance(m, LipschitzLayer | CenteredSoftplus)]
    assert own == []
    assert not hasattr(plain, "conversion")
    assert [key for key in plain.state_dict() if key.endswith(("log_beta", "log_gamma", "sigma", "vector"))] == []
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (3 if name == "densenet" else 0)
    assert_close(pickle.loads(pickle.dumps(plain))(x), plain(x), rtol=0, atol=0)
    assert isinstance(result, type(result))
    assert any(isinstance(m, CenteredSoftplus) for m in result.modules())


def test_constants_move_on_where_no_zeros_are_padded():
    _, plain, _ = folded("convnet", SmoothConversion())
    kinds = [type(m) for m in plain.modules() if isinstance(m, nn.Softplus | ShiftedSoftplus)]
    assert kinds == [nn.Softplus] * 4
    assert plain.folding_report.layers == 4
    assert plain[10].bias is not None
    _, plain, _ = folded("vgg", SmoothConversion())
    kinds = [type(m) for m in plain.modules() if isinstance(m, nn.Softplus | ShiftedSoftplus)]
    assert kinds == [ShiftedSoftplus, ShiftedSoftplus, nn.Softplus, nn.Softplus]
    _, plain, _ = folded("resnet", SmoothConversion())
    assert [type(m) for m in plain.modules()].count(
        nn.Softplus
    ) == 1  # in the last block; all others are also inputs of a sum


def test_a_plain_network_folds_too():
    model, x = network("resnet")
    plain = lc.fold(model, example=x)
    assert plain.folding_report.layers == 20
    assert plain.folding_report.difference < 1e-5


def test_a_norm_whose_layer_is_heard_elsewhere_keeps_its_place():
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.affine = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)
            self.other = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            return (self.norm(x) + x + self.affine(self.other(x))).mean((2, 3))

    x = torch.rand(8, 3, 6, 6)
    model = Forked()
    model(x)
    model.eval()
    plain = lc.fold(model, example=x)
    assert type(plain.norm) is nn.BatchNorm2d
    assert type(plain.affine) is nn.Identity
    assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [2e-3, 0.05, 0.3, 7.0, 1e3])
def test_a_folded_nonlinearity_is_exact_at_every_beta(beta):
    x = torch.linspace(-30, 30, 2001, dtype=torch.float64)[:, None]
    for between in ([], [nn.Linear(1, 1).double()]):
        model = nn.Sequential(nn.Flatten(), CenteredSoftplus(beta).double(), *between).eval()
        plain = lc.fold(model, example=x)
        assert_close(plain(x), model(x), rtol=1e-11, atol=1e-11)


ANEW = {
    "parametrization": nn.utils.parametrizations.weight_norm,
    "hook": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("computed", ANEW.values(), ids=ANEW)
def test_what_is_made_anew_in_every_pass_is_left_alone(computed):
    """A layer whose weight is computed, which cannot take a factor or a bias; BatchNorm without running statistics."""
    conv = computed(nn.Conv2d(3, 4, 3))
    last = (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    model = nn.Sequential(conv, nn.BatchNorm2d(4), CenteredSoftplus(), *last, nn.Flatten()).eval()
    x = torch.rand(2, 3, 5, 5)
    plain = lc.fold(model, example=x)
    assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)
    assert type(plain[1]) is type(plain[4]) is nn.BatchNorm2d
    assert plain.folding_report.left["4"] == "the statistics of BatchNorm2d depend on its input"
    if computed is not ANEW["parametrization"]:
        assert plain.folding_report.left["1"] == "the weight of '0' is computed, as by pruning or weight normalization"


class Listening(nn.Module):
    """A linear layer after a centered softplus whose result is used elsewhere as well."""

    def __init__(self, listens) -> None:
        super().__init__()
        self.one, self.act, self.two, self.listens = nn.Linear(3, 4), CenteredSoftplus(2.0), nn.Linear(4, 2), listens

    def forward(self, x):
        h = self.act(self.one(x))
        return self.two(h) + self.listens(h)


def into_another(h):
    other = torch.zeros_like(h)
    other[:, :4] = h
    return other[:, :2]


@pytest.mark.parametrize(
    "listens",
    [
        into_another,
        lambda h: h[:, :2],
        lambda h: torch.flatten(input=h)[:2],
        lambda h: h.split(2, 1)[0],
        lambda h: h.max(1, keepdim=True).values,
        lambda h: h.unbind(1)[0][:, None],
        lambda h: h.add_(1)[:, 1:3],
        lambda h: torch.stack([h, h]).sum(0)[:, :2],
        lambda h: F.max_pool1d(h, 2),
    ],
)
def test_a_constant_stays_where_others_listen(listens):
    model, x = Listening(listens).eval(), torch.randn(5, 3)
    plain = lc.fold(model, example=x)
    assert type(plain.act) is ShiftedSoftplus
    assert_close(plain(x), model(x), rtol=1e-5, atol=1e-6)


def test_unlike_paths_of_a_shared_nonlinearity():
    act = CenteredSoftplus(4.0)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.one, self.two = act, nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.two(self.act(self.one(self.act(x))))

    x, model = torch.randn(4, 3), Shared().eval()
    assert_close(lc.fold(model, example=x)(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["convnet", "resnet", "inception"])
def test_a_folded_network_can_be_exported(name):
    """Folded networks can be exported by torch.export, on which ONNX export is based."""
    _, plain, x = folded(name, LCNNConversion())
    with torch.no_grad():
        assert_close(torch.export.export(plain, (x,)).module()(x), plain(x))


@pytest.mark.parametrize("name", ["convnet", "resnet", "inception"])
@pytest.mark.filterwarnings(
    "ignore:.isinstance\\(treespec, LeafSpec:FutureWarning"
)  # raised by torch about its own code
def test_a_folded_network_is_the_same_function_as_onnx(name, tmp_path):
    """ONNX Runtime computes the same as torch. Skipped where onnx is not installed."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    _, plain, x = folded(name, LCNNConversion())
    path = tmp_path / "model.onnx"
    torch.onnx.export(plain, (x,), path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(logits), plain(x), rtol=1e-4, atol=1e-5)


def test_the_difference_is_logged(caplog):
    model, x = network("mlp")
    with caplog.at_level(logging.INFO, logger="lowcurve"):
        plain = lc.fold(model, example=x)
    assert caplog.messages == [
        f"folded {plain.folding_report.layers} layers; logits differ by {plain.folding_report.difference:.2g} at most"
    ]
