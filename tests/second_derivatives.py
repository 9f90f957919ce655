"""Networks whose second derivatives are easy to get wrong, on six numbers: hooks, custom functions, odd calls, tokens."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from replayed_networks import Called
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lowcurve import randomness
from lowcurve.randomness import stream

FEATURES, CLASSES = 6, 3
TOP = randomness.normal(torch.zeros(FEATURES, CLASSES, dtype=torch.float64), generator=stream(0, "top"))
MIX = torch.ones(FEATURES, FEATURES, dtype=torch.float64).tril() / 2


class FromNumpy(torch.autograd.Function):
    """A sine whose backward leaves torch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):
        return g * torch.from_numpy(np.cos(ctx.saved_tensors[0].detach().numpy()))


class OnContext(torch.autograd.Function):
    """A sine that keeps its input on ctx, where no second derivative reaches it."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.x.cos()


class Once(torch.autograd.Function):
    """A sine that says that it can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class InTwoParts(torch.autograd.Function):
    """A sine in the form with `setup_context`, which keeps a constant for its backward."""

    @staticmethod
    def forward(x):
        return x.sin(), x.detach().cos()

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.slope = output[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.slope


class Rounded(torch.autograd.Function):
    """A straight-through estimator: its derivative is not that of its value."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return (8 * x).round()

    @staticmethod
    def backward(ctx, g):  # noqa: ARG004
        return 8 * g


class Sine(torch.autograd.Function):
    """A sine whose backward torch can differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Tripled(torch.autograd.Function):
    """Three times the input, in its memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(3.0)

    @staticmethod
    def backward(ctx, g):  # noqa: ARG004
        return 3.0 * g


def soft(x: Tensor) -> Tensor:
    return F.softplus(x @ MIX)


def gradient_inside(x: Tensor, *, graph: bool = False) -> Tensor:
    h = soft(x)
    z = soft(h)
    (g,) = torch.autograd.grad(z, h, torch.ones_like(z), retain_graph=True, create_graph=graph)
    return (z * (g if graph else g.detach())) @ TOP


def tensor_hook(x: Tensor) -> Tensor:
    h = soft(x)
    h.register_hook(lambda g: 2 * g)
    return soft(h) @ TOP


def dirty(x: Tensor) -> Tensor:
    h = soft(x)
    Tripled.apply(h)
    return F.softplus(h) @ TOP


def through_detached_memory(x: Tensor) -> Tensor:
    h = x @ MIX
    h.detach().mul_(2.0)
    return F.softplus(h) @ TOP


def hooked_convolution(x: Tensor, a: nn.Module, norm: nn.Module, top: nn.Module) -> Tensor:
    h = a(x[:, None])
    h.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return top(F.softplus(norm(h)).flatten(1))


def tokens(x: Tensor, a: nn.Module, norm: nn.Module, top: nn.Module) -> Tensor:
    """Linear on the last axis of 4 x 5 tokens, then BatchNorm along the first, which has as many entries as channels."""
    return top(F.softplus(norm(a(x[:, :4, None] * x[:, None, :5]))).flatten(1))


def factor_of_tokens(x: Tensor, a: nn.Module, top: nn.Module) -> Tensor:
    factor = torch.tensor([0.1, 1.0, 3.0, 9.0], dtype=x.dtype)[:, None]
    return top(F.softplus(a(x[:, :4, None] * x[:, None, :5]) * factor).flatten(1))


def checkpointed(x: Tensor, a: nn.Module, *, reentrant: bool) -> Tensor:
    return soft(checkpoint(lambda t: a(F.layer_norm(t, (6,))[:, None]).flatten(1), x, use_reentrant=reentrant)) @ TOP


def lists_apart(x: Tensor) -> Tensor:
    """Torch moves the axes of the lists in front of the batch axis."""
    h = soft(x).reshape(-1, 2, 1, 3)[:, [1, 0, 1], :, [2, 0, 1]]
    return h.exp().transpose(0, 1).flatten(1) @ TOP[:3]


def compositions_in_place(x: Tensor) -> Tensor:
    h = soft(x)
    h /= 1 + x.square()
    h.masked_fill_(torch.arange(6) == 2, 0.3).addcmul_(x, x.sin()).lerp_(x.cos(), 0.3)
    return soft(h) @ TOP


def plain_batch_norm(x: Tensor) -> Tensor:
    zero = x.new_zeros(6)
    return soft(torch.batch_norm(x, 2 + zero, None, zero, 3 + zero, False, 0.1, 0.0, False)) @ TOP


BLIND = torch.tensor([[False, False, True], [True, True, True], [False, False, False]])
"""True for what a token does not see. The second sees nothing."""


def attention(x: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = None if mask is None else mask.to(x.dtype)
    return F.scaled_dot_product_attention(*[soft(x).reshape(-1, 1, 3, 2)] * 3, mask).flatten(1) @ TOP


def attention_layer(x: Tensor, a: nn.Module, mask: Tensor | None = None) -> Tensor:
    return a(*[soft(x).reshape(-1, 3, 2)] * 3, attn_mask=mask, need_weights=False)[0].flatten(1) @ TOP


def norm() -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(4)
    layer.running_var.copy_(torch.tensor([0.01, 1.0, 4.0, 9.0]))
    return layer


class Draws(nn.Module):
    """Noise without a layer that says so."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = vars(self).get("calls", 0) + 1
        return soft(x + randomness.normal(x, generator=stream(self.calls, "noise"))) @ TOP


REPLAYED: dict[str, Callable[[], nn.Module]] = {
    "tokens": lambda: Called(tokens, a=nn.Linear(5, 4), norm=norm(), top=nn.Linear(16, CLASSES)),
    "a factor of tokens": lambda: Called(factor_of_tokens, a=nn.Linear(5, 4), top=nn.Linear(16, CLASSES)),
    "roll by dims": lambda: Called(lambda x: soft(soft(x).roll(0, 1)) @ TOP),
    "where as a method": lambda: Called(lambda x: soft(soft(x).where(x > 0.5, x.new_zeros(()))) @ TOP),
    "neg_": lambda: Called(lambda x: soft((x @ MIX).neg_()) @ TOP),
    "cat by keyword": lambda: Called(lambda x: soft(torch.cat(tensors=[x[:, :3], x[:, 3:]], dim=1)) @ TOP),
    "hardsigmoid": lambda: Called(lambda x: soft(F.hardsigmoid(x @ MIX)) @ TOP),
    "long integers as divisors": lambda: Called(lambda x: soft(x / torch.arange(3, 9)) @ TOP),
    "einsum": lambda: Called(lambda x: F.softplus(torch.einsum("bi,ij->bj", x, MIX)) @ TOP),
    "hardsigmoid after LayerNorm": lambda: Called(lambda x: soft(F.hardsigmoid(F.layer_norm(x, (6,)))) @ TOP),
    "torch.batch_norm": lambda: Called(plain_batch_norm),
    "two lists": lambda: Called(lambda x: soft(x)[:, None][:, [0] * 6, list(range(6))] @ TOP),
    "lists apart": lambda: Called(lists_apart),
    "gathered": lambda: Called(lambda x: soft(x).gather(1, (x * 0).long() + torch.arange(6).flip(0)).exp() @ TOP),
    "a checkpoint": lambda: Called(lambda x, a: checkpointed(x, a, reentrant=False), a=nn.Conv1d(1, 1, 1)),
    "fused attention": lambda: Called(attention),
    "a row that sees nothing": lambda: Called(lambda x: attention(x, torch.zeros(3, 3).masked_fill(BLIND, -torch.inf))),
    "a layer of attention": lambda: Called(attention_layer, a=nn.MultiheadAttention(2, 1, batch_first=True)),
    "a layer that sees nothing": lambda: Called(
        lambda x, a: attention_layer(x, a, BLIND), a=nn.MultiheadAttention(2, 1, batch_first=True)
    ),
    "compositions in place": lambda: Called(compositions_in_place),
    "interpolate": lambda: Called(lambda x: soft(F.interpolate(x[:, None], size=6, mode="nearest-exact")[:, 0]) @ TOP),
}
"""Networks that are replayed, and rightly."""
DIFFERENTIATED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a gradient inside": (lambda: Called(gradient_inside), "grad takes or changes a gradient"),
    "a gradient inside, with its graph": (lambda: Called(lambda x: gradient_inside(x, graph=True)), "grad takes"),
    "a tensor hook": (lambda: Called(tensor_hook), "register_hook takes or changes"),
    "a hook before BatchNorm": (
        lambda: Called(hooked_convolution, a=nn.Conv1d(1, 4, 3), norm=norm(), top=nn.Linear(16, CLASSES)),
        "register_hook takes or changes",
    ),
    "a dirty input": (lambda: Called(dirty), "changed in place, by a custom function"),
    "detached memory": (lambda: Called(through_detached_memory), "changed in place, by a custom function"),
    "a custom function": (lambda: Called(lambda x: Sine.apply(x @ MIX) @ TOP), "Sine is no function of torch"),
    "a deprecated sum": (lambda: Called(lambda x: F.softplus(torch.add(x @ MIX, 5, x)) @ TOP), "add with 3 arguments"),
    "max-pooling without a batch": (lambda: Called(lambda x: F.max_pool1d(soft(x), 2).exp() @ TOP[:3]), "without a batch"),
}  # fmt: skip
"""Networks that are differentiated twice, and the reason."""
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "numpy": (lambda: Called(lambda x: FromNumpy.apply(x @ MIX) @ TOP), "another one through FromNumpy"),
    "a tensor on ctx": (lambda: Called(lambda x: OnContext.apply(x @ MIX) @ TOP), "another one through OnContext"),
    "once differentiable": (lambda: Called(lambda x: Once.apply(x @ MIX) @ TOP), "another one through Once"),
    "setup_context": (lambda: Called(lambda x: InTwoParts.apply(x @ MIX)[0] @ TOP), "another one through InTwoParts"),
    "straight through": (lambda: Called(lambda x: soft(Rounded.apply(x)).tanh() @ TOP), "another one through Rounded"),
    "cdist": (lambda: Called(lambda x: soft(torch.cdist(x, MIX)) @ TOP), "derivative for '_cdist_backward'"),
    "a reentrant checkpoint": (
        lambda: Called(lambda x, a: checkpointed(x, a, reentrant=True), a=nn.Conv1d(1, 1, 1)), "use_reentrant=False",
    ),
    "statistics of the batch": (lambda: Called(lambda x: soft(x - x.mean(0)) @ TOP), "gradients that differ between two"),
    "a neighbour": (lambda: Called(lambda x: soft(soft(x).roll(1, 0)) @ TOP), "gradients that differ between two passes"),
    "noise": (Draws, "gradients that differ between two passes"),
}  # fmt: skip
"""Networks without a product, and the sentence."""
