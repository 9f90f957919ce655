"""ViT and ConvNeXt by name: their blocks are the published ones, and every part of the package takes them."""

import importlib.util

import pytest
import torch
import torchvision_stub
from command import SMOKE, cells, done, results, settings
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.cli.requests import parse
from lowcurve.losses import loss_field
from lowcurve.models import CenteredSoftplus, Network, SmoothConversion, convert
from lowcurve.models.convnext import ConvNeXtBlock
from lowcurve.models.vit import Block, vit_tiny
from lowcurve.randomness import stream

SHAPE = (3, 8, 8)
BOTH = pytest.mark.parametrize("name", ["vit-tiny", "convnext-atto"])


def network(name: str, act: str | None = None) -> nn.Module:
    """A small network whose weights are large enough to curve."""
    model = Network(name, SHAPE, 4, (0.5,) * 3, (0.25,) * 3, act, width=6).build(seed=0)
    for number, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=stream(number, "weights"))
    return model.eval()


def images(count: int, *, double: bool = True) -> torch.Tensor:
    x = torch.rand(count, *SHAPE, generator=stream(0, "images"))
    return x.double() if double else x


def test_the_block_of_a_vision_transformer_is_torchs_own():
    ours, x = Block(6, 3, "gelu").double(), torch.rand(2, 5, 6, generator=stream(0)).double()
    torchs = nn.TransformerEncoderLayer(6, 3, 24, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True)
    names = {"attn.qkv.": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1"}
    names["mlp.fc2"] = "linear2"
    state = {}
    for name, value in ours.state_dict().items():
        for before, after in names.items():
            name = name.replace(before, after)
        state[name] = value
    torchs.double().load_state_dict(state)
    assert_close(ours(x), torchs(x), rtol=1e-9, atol=1e-12)


def test_the_block_of_convnext_is_its_formula():
    block, x = ConvNeXtBlock(4, "gelu").double(), torch.rand(2, 4, 5, 7, generator=stream(0)).double()
    nn.init.normal_(block.gamma)
    each = F.conv2d(F.pad(x, (3,) * 4), block.conv_dw.weight, block.conv_dw.bias, groups=4)
    centered = each - each.mean(1, keepdim=True)
    normal = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
    inner = torch.einsum("bchw,oc->bohw", normal, block.mlp.fc1.weight) + block.mlp.fc1.bias[:, None, None]
    outer = torch.einsum("bchw,oc->bohw", F.gelu(inner), block.mlp.fc2.weight) + block.mlp.fc2.bias[:, None, None]
    assert_close(block(x), x + block.gamma[:, None, None] * outer, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("vit-tiny", "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "embed_dim": 6}),
        ("convnext-tiny", "convnext_tiny", {"patch_size": 4, "dims": (6, 12, 24, 48)}),
    ],
)
def test_the_weights_of_timms_networks_load_and_give_the_same_logits(name, theirs, options):
    timm, pixels = torchvision_stub.import_timm(), 32 if name == "vit-tiny" else 64
    ours = Network(name, (3, pixels, pixels), 4, (0.5,) * 3, (0.25,) * 3, width=6).build(seed=0)[1].eval()
    with randomness.temporary_seed(0, "weights"):
        other = timm.create_model(theirs, num_classes=4, **options).eval()
        for parameter in other.parameters():
            nn.init.trunc_normal_(parameter, std=0.3)
    ours.load_state_dict(other.state_dict())
    x = torch.rand(2, 3, pixels, pixels, generator=stream(0, "images"))
    assert_close(ours(x), other(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "patch", "tokens"), [(8, 1, 64), (28, 4, 49), (32, 4, 64), (64, 8, 64), (224, 16, 196)]
)
def test_patches_grow_with_the_image(pixels, patch, tokens):
    model = vit_tiny((3, pixels, pixels), 10, "gelu", width=6)
    assert (model.patch_embed.proj.kernel_size, model.patch_embed.patches) == ((patch, patch), tokens)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (64, 2), (7, 1)])
def test_the_heads_divide_the_width(width, heads):
    assert vit_tiny(SHAPE, 4, "gelu", width=width).blocks[0].attn.heads == heads


def test_every_pixel_of_an_image_that_patches_do_not_divide_is_seen():
    for name in ("vit-tiny-patch8", "convnext-atto"):
        model = Network(name, (3, 33, 35), 4, (0.5,) * 3, (0.25,) * 3, width=6).build(seed=0).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        slope = gradient(loss_field(model, torch.tensor([1])), torch.rand(1, 3, 33, 35))
        assert int((slope == 0).sum()) == 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@BOTH
@pytest.mark.parametrize("act", [None, "relu", "softplus"])
def test_hessian_products_are_those_of_torch_func(name, act):
    model, x = network(name, act).double(), images(2)
    kinds = {type(module) for module in model.modules()}
    assert {None: nn.GELU, "relu": nn.ReLU, "softplus": nn.Softplus}[act] in kinds
    field = loss_field(model, torch.tensor([1, 2]))
    v = torch.randn(x.shape, generator=stream(1), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.func.jvp(torch.func.grad(lambda x: field(x).sum()), (x,), (v,))[1]
    assert_close(hessian(field, x)(v) / exact.abs().max(), exact / exact.abs().max(), rtol=0, atol=1e-9)


@BOTH
def test_the_mlps_are_converted_to_centered_softplus(name):
    model, x = network(name), images(2, double=False)
    smooth = convert(model, SmoothConversion(beta=1000.0), example=x)
    assert sum(isinstance(module, CenteredSoftplus) for module in smooth.modules()) == 12
    relu = network(name, "relu")
    relu.load_state_dict(model.state_dict())
    assert_close(smooth(x), relu(x), rtol=0.02, atol=0.02)


def test_a_network_of_another_name_has_its_own_nonlinearity_and_width():
    """The preset's are those of its network."""
    for scale, width in (("laptop", None), ("paper", None), ("smoke", 8)):
        words = ("--data", "cifar10", "--scale", scale, "--network", "vit-tiny")
        study = parse("study", list(words)).study
        assert (study.nonlinearity, study.width) == (None, width)
    assert Network("vit-tiny", SHAPE, 4, (0.5,) * 3, (0.25,) * 3).nonlinearity == "gelu"
    assert Network("resnet20", SHAPE, 4, (0.5,) * 3, (0.25,) * 3).nonlinearity == "relu"
    chosen = parse(
        "study", ["--data", "cifar10", "--network", "resnet20", "--nonlinearity", "silu", "--width", "4"]
    ).study
    assert (chosen.nonlinearity, chosen.width) == ("silu", 4)
    same = parse("study", ["--data", "cifar10", "--network", "small-convnet"]).study
    assert (same.nonlinearity, same.width) == ("softplus", 32)


@pytest.mark.slow
def test_every_command_takes_them_by_name(tmp_path):
    run, name = tmp_path / "run", "vit-tiny"
    few = ("--limits.train", 32, "--limits.validation", 8, "--limits.test", 8, "--training-attack.steps", 1)
    assert done("train", *SMOKE, "--network", name, *few, "--methods", "standard,gradient-norm", "--out", run) == 0
    assert settings(run)["network"] == name
    short = (
        "--evaluation.curvature-examples",
        2,
        "--evaluation.density-examples",
        1,
        "--evaluation.boundary-examples",
        1,
    )
    short = (*short, "--evaluation.drawn", 0, "--evaluation.profile-examples", 0)
    assert done("measure", run, *short) == 0
    assert done("attack", run, "--evaluation.examples", 8, "--evaluation.audited", 0, "--evaluation.radii", "1.0") == 0
    found = results(run)
    clean, worst = (cells(found, heading) for heading in ("clean", "strong"))
    assert list(clean) == ["standard", "gradient-norm"]
    assert all(worst[key][0] <= clean[key][0] for key in clean)
    assert all(value > 0 for value in cells(found, "‖H‖").values())
    assert done("draw", "jacobian", run, "--networks", "standard", "--examples", 1) == 0
