"""Small networks of every kind of operation that is replayed, for images of 2 channels and 6 x 6 pixels."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.models import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm2d, LipschitzConv2d, prepare_norms

CLASSES = 5


class Called(nn.Module):
    """A network written as a function of its input and its layers."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.layers)


def conv(before: int, after: int, **settings) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, **{"padding": 1} | settings)


def head(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, CLASSES))


def plain(act: nn.Module) -> nn.Module:
    return nn.Sequential(conv(2, 4), act, conv(4, 4, stride=2), act, head(36))


def clipped(a: nn.Module) -> nn.Module:
    b = LipschitzConv2d(4, 4, 3)
    model = nn.Sequential(
        a, LipschitzBatchNorm2d(a, gamma=1.0, affine=False), CenteredSoftplus(), b, CenteredSoftplus(), head(64)
    )
    prepare_norms(model, torch.zeros(1, 2, 6, 6))
    return model


def squeeze_excite(x: Tensor, a: nn.Module, b: nn.Module, top: nn.Module) -> Tensor:
    x = F.softplus(a(x), 3)
    return top(x * torch.sigmoid(b(x.mean((2, 3), keepdim=True))))


def residual(x: Tensor, a: nn.Module, b: nn.Module, norm: nn.Module, top: nn.Module) -> Tensor:
    shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
    x = F.softplus(norm(a(x)), 5)
    x = b(x)
    x += shortcut
    return top(F.relu(x, inplace=True).mean((2, 3)))


def dense_block(x: Tensor, a: nn.Module, b: nn.Module, top: nn.Module) -> Tensor:
    y = torch.cat([x, F.gelu(a(x)), torch.ones_like(x[:, :1])], 1)
    return top(torch.flatten(b(y).tanh(), 1))


def halves(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    one, two = a(x).chunk(2, 1)
    gated = torch.where(one > 0, one, 0.1 * one) - F.silu(two)
    return top((3 - gated.transpose(2, 3) / 2).reshape(len(x), -1))


def in_place(x: Tensor, a: nn.Module, b: nn.Module, top: nn.Module) -> Tensor:
    x = a(x)
    x.mul_(2).sub_(0.1)
    x = torch.relu_(x)
    return top(F.elu(b(x), inplace=True))


def sum_in_place(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    y = F.softplus(a(x), 3)
    y += x
    y *= y.new_tensor(2.0)
    return top(y.flatten(1))


def odd_ends(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    assert x.shape[1] == 2
    x = F.pad(x, (1, 1, 1, 1), mode="reflect") @ torch.eye(8, dtype=x.dtype)
    x = F.interpolate(F.hardtanh(a(x.clone().contiguous())), scale_factor=0.5, mode="bilinear")
    x = x.permute(0, 2, 3, 1).flatten(1).unsqueeze(1).expand(-1, 2, -1)
    return top(torch.exp(-(x - x.detach()[:, :, :1]).square()).squeeze(1)[:, 1, ...])


def transformer(x: Tensor, patches: nn.Module, block: nn.Module, norm: nn.Module, top: nn.Module) -> Tensor:
    """Tokens of 2 x 2 pixels, with the batch axis behind the tokens."""
    tokens = patches(x).flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + torch.linspace(0, 1, 10, dtype=x.dtype)[:, None, None]
    return top(norm(block(tokens))[0])


def qkv_attention(x: Tensor, qkv: nn.Module, top: nn.Module, *, mask: bool) -> Tensor:
    """Heads whose batch axis is the second while they are split."""
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = qkv(tokens).reshape(len(x), 36, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    seen = torch.ones(36, 36, dtype=torch.bool).tril(3).index_fill(0, torch.tensor([5]), False) if mask else None
    found = F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], seen, scale=0.7, enable_gqa=True)
    return top(found.transpose(1, 2).reshape(len(x), 36, 8).mean(1))


def windows(x: Tensor, qkv: nn.Module, top: nn.Module) -> Tensor:
    """Windows of 3 x 3 pixels in the place of examples, shifted, with a bias."""
    x = x.permute(0, 2, 3, 1).roll((1, 1), (1, 2))
    parts = x.reshape(-1, 2, 3, 2, 3, 2).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 2)
    q, k, v = qkv(parts).chunk(3, -1)
    scores = q @ k.transpose(-2, -1) / 2 + torch.eye(9, dtype=x.dtype)
    scores = (scores.view(len(x), 4, 9, 9) + torch.arange(4, dtype=x.dtype)[:, None, None]).view(-1, 9, 9)
    found = scores.softmax(-1) @ v
    return top(found.view(-1, 2, 2, 3, 3, 2).permute(0, 1, 3, 2, 4, 5).reshape(len(x), -1).tanh())


def normalizations(x: Tensor, a: nn.Module, norm: nn.Module, group: nn.Module, top: nn.Module) -> Tensor:
    x = group(a(x))
    x = F.rms_norm(x, (6,), torch.linspace(1, 2, 6, dtype=x.dtype), 0.3) + F.instance_norm(x, eps=0.2)
    return top(norm(x / (1 + x.square())).flatten(1))


def equations(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    y = (
        torch.einsum("bchw,bdhw->bcdw", a(x), x)
        + torch.einsum("bc...,cd->bd...", x, torch.ones(2, 4, dtype=x.dtype))[:, :, :2]
    )
    y = torch.einsum("bnij,bnj,jk->bnik", y, y.mean(2), torch.eye(6, 3, dtype=x.dtype))
    return top(torch.baddbmm(y[:, 0], y[:, 1], y[:, 2].transpose(1, 2) @ y[:, 3], beta=0.5).flatten(1))


def reductions(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    x = a(x)
    parts = [x.std((2, 3)), x.logsumexp(3).amax(2), x.log_softmax(1).norm(dim=(2, 3)), x.flatten(2).topk(2)[0].prod(2)]
    return top(torch.stack(parts, 1).flatten(1))


NETWORKS = {
    "softplus": lambda: plain(nn.Softplus(4)),
    "GELU": lambda: plain(nn.GELU()),
    "tanh GELU": lambda: plain(nn.GELU("tanh")),
    "ReLU": lambda: plain(nn.ReLU()),
    "leaky ReLU": lambda: plain(nn.LeakyReLU()),
    "SiLU": lambda: plain(nn.SiLU(inplace=True)),
    "PReLU": lambda: plain(nn.PReLU()),
    "Mish": lambda: plain(nn.Mish()),
    "grouped": lambda: nn.Sequential(conv(2, 4), nn.Softplus(), conv(4, 8, groups=4), nn.Tanh(), head(288)),
    "dilated, strided": lambda: nn.Sequential(conv(2, 4, dilation=2, stride=2, padding=2), nn.Sigmoid(), head(36)),
    "circular": lambda: nn.Sequential(conv(2, 4, padding_mode="circular"), nn.Softplus(), head(144)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 2, stride=2), nn.Softplus(), head(576)),
    "max-pool": lambda: nn.Sequential(conv(2, 4), nn.MaxPool2d(2), nn.Softplus(), nn.AdaptiveMaxPool2d(2), head(16)),
    "overlapping max-pool": lambda: nn.Sequential(conv(2, 4), nn.Softplus(), nn.MaxPool2d(3, 1, 1), head(144)),
    "average pool": lambda: nn.Sequential(conv(2, 4), nn.Softplus(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), head(4)),
    "BatchNorm": lambda: nn.Sequential(conv(2, 4), nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4, affine=False), head(144)),
    "dropout": lambda: nn.Sequential(conv(2, 4), nn.Dropout(), nn.Softplus(), nn.Dropout2d(), head(144)),
    "centered softplus": lambda: plain(CenteredSoftplus(4)),
    "clipped": lambda: clipped(conv(2, 4)),
    "residual": lambda: Called(residual, a=conv(2, 4, stride=2), b=conv(4, 4), norm=nn.BatchNorm2d(4), top=head(4)),
    "squeeze and excite": lambda: Called(squeeze_excite, a=conv(2, 4), b=nn.Conv2d(4, 4, 1), top=head(144)),
    "dense block": lambda: Called(dense_block, a=conv(2, 3), b=conv(6, 2), top=nn.Linear(72, CLASSES)),
    "halves": lambda: Called(halves, a=conv(2, 4), top=nn.Linear(72, CLASSES)),
    "in place": lambda: Called(in_place, a=conv(2, 4), b=conv(4, 2), top=head(72)),
    "sum in place": lambda: Called(sum_in_place, a=conv(2, 2), top=nn.Linear(72, CLASSES)),
    "transformer": lambda: Called(
        transformer, patches=nn.Conv2d(2, 8, 2, 2), block=nn.TransformerEncoderLayer(8, 2, 12, activation="gelu"),
        norm=nn.LayerNorm(8), top=nn.Linear(8, CLASSES),
    ),
    "attention": lambda: Called(partial(qkv_attention, mask=False), qkv=nn.Linear(2, 24), top=nn.Linear(8, CLASSES)),
    "masked attention": lambda: Called(partial(qkv_attention, mask=True), qkv=nn.Linear(2, 24), top=nn.Linear(8, CLASSES)),
    "windows": lambda: Called(windows, qkv=nn.Linear(2, 6), top=nn.Linear(72, CLASSES)),
    "normalizations": lambda: Called(
        normalizations, a=conv(2, 4), norm=nn.LayerNorm([4, 6, 6]), group=nn.GroupNorm(2, 4), top=nn.Linear(144, CLASSES)
    ),
    "equations": lambda: Called(equations, a=conv(2, 4), top=nn.Linear(6, CLASSES)),
    "reductions": lambda: Called(reductions, a=conv(2, 4), top=nn.Linear(16, CLASSES)),
    "odd ends": lambda: Called(odd_ends, a=conv(2, 2), top=nn.Linear(32, CLASSES)),
}  # fmt: skip


def made(build, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network with weights, and BatchNorm statistics, that follow from nothing but its shape."""
    with randomness.temporary_seed(0, "network"):
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, -1, 1)
    return model.to(dtype).eval()
