"""Random networks out of a large vocabulary of torch's operations, and whether their Hessian products are right."""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from replayed_networks import Called
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet, gradient, pullback
from lowcurve.analysis.hessians import REPLAYED, hessian
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.randomness import stream

FEATURES, CLASSES = 12, 3
TOLERANCE = 1e-8
"""Largest error of a product relative to its length, in double precision."""
COARSE = 1e-4
"""The same where torch has a gradient only, so that the reference is a difference."""
Draw = random.Random
Operation = Callable[[Tensor, Draw], Tensor]


def weight(draw: Draw, *shape: int) -> Tensor:
    """Numbers of mean square 1 / the last length, which follow from the draw."""
    like = torch.zeros(shape, dtype=torch.float64)
    return randomness.normal(like, generator=stream(draw.randrange(2**31), "weight")) / shape[-1] ** 0.5


def flat(h: Tensor, count: int = FEATURES) -> Tensor:
    """This many numbers an example: some of them, or all and a few constants, which are no ties of each other."""
    h = h.flatten(1)
    constants = torch.linspace(0.3, 0.9, max(count - h.shape[1], 0), dtype=h.dtype)
    return torch.cat([h[:, :count], constants.expand(len(h), -1)], 1) if len(constants) else h[:, :count]


def tokens(h: Tensor) -> Tensor:
    return flat(h).reshape(-1, 3, 4)


def image(h: Tensor) -> Tensor:
    return flat(h, 24).reshape(-1, 2, 3, 4)


def square(h: Tensor) -> Tensor:
    """Tokens, as many as they have features."""
    return flat(h, 9).reshape(-1, 3, 3)


def copied(h: Tensor) -> Tensor:
    return h * 1.0


def then(change: Callable[[Tensor], object]) -> Operation:
    """Change a new tensor in place."""

    def operation(h: Tensor, _: Draw) -> Tensor:
        h = copied(h)
        change(h)
        return h

    return operation


def channels(norm: Callable[..., Tensor], form: Callable[[Tensor], Tensor]) -> Operation:
    """Normalize with running statistics along axis 1."""

    def operation(h: Tensor, draw: Draw) -> Tensor:
        h = form(h)
        mean, scale, shift = (weight(draw, h.shape[1]) for _ in range(3))
        return norm(h, mean, 0.5 + weight(draw, h.shape[1]).square(), scale, shift)

    return operation


def write(h: Tensor, index: object, value: Callable[[Tensor], Tensor]) -> Tensor:
    h = copied(flat(h))
    h[index] = value(h[index].clone())
    return h


def sides(h: Tensor) -> tuple[Tensor, Tensor]:
    return flat(h).split(6, 1)  # type: ignore[return-value]


def attention(h: Tensor, draw: Draw, **settings) -> Tensor:
    q, k, v = (tokens(h) @ weight(draw, 4, 4) for _ in range(3))
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], **settings)


def heads(h: Tensor, draw: Draw) -> Tensor:
    t = tokens(h).transpose(0, 1)
    w = weight(draw, 12, 4)
    return F.multi_head_attention_forward(
        t, t, t, 4, 2, w, None, None, None, False, 0.0, weight(draw, 4, 4), None, training=False, need_weights=False
    )[0].transpose(0, 1)


def gated(h: Tensor, _: Draw) -> Tensor:
    h = copied(flat(h))
    z = F.softplus(h)
    (g,) = torch.autograd.grad(z.square().sum(), h, retain_graph=True)
    return z * g.detach()


def hooked(h: Tensor, _: Draw) -> Tensor:
    h = copied(flat(h))
    h.register_hook(lambda g: 0.5 * g)
    return h


ELEMENTWISE = str.split(
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus hardtanh hardswish hardsigmoid tanhshrink softsign "
    "softshrink hardshrink logsigmoid"
)
UNARY = str.split("tanh sigmoid sin cos atan asinh erf expm1 abs square neg exp2 sinh arctan positive erfc")
ABOVE = str.split("log sqrt rsqrt log1p reciprocal log2 digamma lgamma")
OPERATIONS: dict[str, Operation] = {
    **{f"F.{name}": lambda h, _, name=name: getattr(F, name)(h) for name in ELEMENTWISE},
    **{f"torch.{name}": lambda h, _, name=name: getattr(torch, name)(h) for name in UNARY},
    **{f"{name} above 1": lambda h, _, name=name: getattr(torch, name)(1.5 + h.square()) for name in ABOVE},
    **{f"{name}_": then(lambda h, name=name: getattr(h, f"{name}_")()) for name in ("neg", "tanh", "relu", "sin", "abs")},
    **{
        f"F.{name}, in place": lambda h, _, name=name: getattr(F, name)(copied(h), inplace=True)
        for name in ("relu", "elu", "silu", "mish", "leaky_relu", "hardswish", "selu", "celu", "relu6", "hardtanh")
    },
    "relu, in place by position": lambda h, _: F.relu(copied(h), True),
    "softplus by keyword": lambda h, d: F.softplus(input=h, beta=d.choice([1, 3]), threshold=20),
    "gelu by tanh": lambda h, _: F.gelu(h, approximate="tanh"),
    "threshold": lambda h, _: F.threshold(h, 0.1, 0.2),
    "prelu": lambda h, d: F.prelu(tokens(h), weight(d, 3)),
    "clamp": lambda h, _: h.clamp(-0.5, max=0.7),
    "clamp by a tensor": lambda h, d: torch.clamp(flat(h), min=weight(d, 12)),
    "maximum": lambda h, d: torch.maximum(flat(h), weight(d, 12)),
    "maximum of two": lambda h, _: torch.maximum(*sides(h)),
    "pow": lambda h, d: h.pow(d.choice([2, 3])),
    "power of a number": lambda h, _: 1.5**h,
    "over": lambda h, _: 1 / (2 + h.square()),
    "quotient": lambda h, _: h / (1 + h.square()),
    "true_divide by integers": lambda h, _: torch.true_divide(flat(h), torch.arange(2, 14)),
    "floor division": lambda h, _: h + torch.div(h, 0.3, rounding_mode="floor").detach(),
    "add": lambda h, d: torch.add(flat(h), weight(d, 12), alpha=d.choice([1, -2])),
    "add by keyword": lambda h, d: torch.add(input=flat(h), other=weight(d, 12)),
    "add, two": lambda h, _: torch.add(*sides(h), alpha=3),
    "add by the old form": lambda h, _: torch.add(flat(h), 2, flat(h).sin()),
    "twice": lambda h, _: h + h,
    "sub": lambda h, _: torch.sub(other=h.sin(), input=h),
    "rsub": lambda h, _: 2 - h,
    "rsub by name": lambda h, d: torch.rsub(h, 0.4, alpha=d.choice([1, 2])),
    "product": lambda h, _: torch.mul(*sides(h)),
    "square by itself": lambda h, _: h * h,
    "product with a broadcast": lambda h, _: tokens(h) * tokens(h).mean(2, keepdim=True),
    "factor of channels": lambda h, d: tokens(h) * weight(d, 3, 1),
    "factor of features": lambda h, d: tokens(h) * weight(d, 4),
    "iadd": then(lambda h: h.add_(0.3).mul_(1.2)),
    "imul by a part": then(lambda h: h.mul_(h.sin())),
    "addcmul": lambda h, d: torch.addcmul(flat(h), flat(h).sin(), weight(d, 12), value=0.5),
    "lerp": lambda h, _: torch.lerp(h, h.sin(), 0.3),
    "where": lambda h, _: torch.where(h > 0.1, h, 0.2 * h.sin()),
    "where as a method": lambda h, _: h.where(h > 0.1, h.new_tensor(0.4)),
    "where with a number": lambda h, _: torch.where(h < 0.1, 0.3, h),
    "masked_fill": lambda h, _: h.masked_fill(h < -0.2, 0.1),
    "mask by product": lambda h, _: h * (h > 0),
    "linear": lambda h, d: F.linear(flat(h), weight(d, 12, 12), weight(d, 12)),
    "linear by keyword": lambda h, d: F.linear(flat(h), bias=None, weight=weight(d, 12, 12)),
    "linear on tokens": lambda h, d: F.linear(square(h), weight(d, 3, 3)),
    "tokens, linear and factor": lambda h, d: F.linear(square(h), weight(d, 3, 3)) * weight(d, 3, 1),
    "tokens, linear and BatchNorm": lambda h, d: channels(F.batch_norm, lambda t: F.linear(t, weight(d, 3, 3)))(square(h), d),
    "matmul": lambda h, d: flat(h) @ weight(d, 12, 9),
    "matmul from the left": lambda h, d: weight(d, 3, 3) @ tokens(h),
    "bmm": lambda h, _: torch.bmm(tokens(h), tokens(h).mT),
    "einsum": lambda h, d: torch.einsum("btc,cd->bdt", tokens(h), weight(d, 4, 5)),
    "einsum of two": lambda h, _: torch.einsum("btc,bsc->bts", tokens(h), tokens(h).sin()),
    "bilinear": lambda h, d: F.bilinear(*sides(h), weight(d, 5, 6, 6)),
    "conv1d": lambda h, d: F.conv1d(tokens(h), weight(d, 4, 3, 2), weight(d, 4), padding=1),
    "conv2d": lambda h, d: F.conv2d(image(h), weight(d, 4, 2, 2, 2), None, (1, 2), d.choice([0, 1])),
    "conv2d, same": lambda h, d: F.conv2d(image(h), weight(d, 2, 2, d.choice([2, 3]), 3), padding="same"),
    "conv2d, groups": lambda h, d: F.conv2d(input=image(h), weight=weight(d, 4, 1, 2, 3), groups=2, dilation=(1, 1)),
    "conv2d and BatchNorm": lambda h, d: channels(F.batch_norm, lambda t: F.conv2d(t, weight(d, 3, 2, 2, 2)))(image(h), d),
    "conv2d without a batch": lambda h, _: torch.stack([F.conv2d(one, weight(Draw(1), 2, 2, 2, 2)) for one in image(h)]),
    "conv_transpose1d": lambda h, d: F.conv_transpose1d(tokens(h), weight(d, 3, 2, 2), stride=2, output_padding=1),
    "conv_transpose2d": lambda h, d: F.conv_transpose2d(image(h), weight(d, 2, 2, 2, 2), None, 2, 0, 1),
    "batch_norm": channels(F.batch_norm, tokens),
    "batch_norm of features": channels(F.batch_norm, flat),
    "torch.batch_norm": channels(
        lambda h, m, v, w, b: torch.batch_norm(h, w, b, m, v, False, 0.1, 1e-5, False), image
    ),
    "layer_norm": lambda h, d: F.layer_norm(tokens(h), (4,), weight(d, 4), None),
    "group_norm": lambda h, d: F.group_norm(image(h), d.choice([1, 2])),
    "rms_norm": lambda h, _: F.rms_norm(tokens(h), (4,)),
    "normalize": lambda h, _: F.normalize(tokens(h) + 0.3, dim=2),
    "local_response_norm": lambda h, _: F.local_response_norm(image(h), 2),
    "max_pool1d": lambda h, _: F.max_pool1d(tokens(h), 2),
    "max_pool1d without a batch": lambda h, _: F.max_pool1d(flat(h), 3),
    "max_pool2d": lambda h, _: F.max_pool2d(image(h), 2, stride=1),
    "max_pool2d with indices": lambda h, _: F.max_pool2d(image(h), (3, 2), return_indices=True)[0],
    "adaptive_max_pool2d": lambda h, _: F.adaptive_max_pool2d(image(h), (2, 2)),
    "avg_pool1d": lambda h, _: F.avg_pool1d(tokens(h), kernel_size=2, stride=1),
    "avg_pool1d without a batch": lambda h, _: F.avg_pool1d(flat(h), 3, 3),
    "avg_pool2d": lambda h, _: F.avg_pool2d(image(h), 2, 1, padding=1, count_include_pad=False),
    "avg_pool2d without a batch": lambda h, _: F.avg_pool2d(tokens(h), 2),
    "adaptive_avg_pool2d": lambda h, _: F.adaptive_avg_pool2d(image(h), 2),
    "lp_pool": lambda h, _: F.lp_pool1d(1 + tokens(h).square(), 3, 2),
    "softmax": lambda h, d: F.softmax(tokens(h), dim=d.choice([1, 2, -1])),
    "log_softmax": lambda h, _: tokens(h).log_softmax(2),
    "softmin": lambda h, _: F.softmin(tokens(h), dim=1),
    "glu": lambda h, _: F.glu(flat(h), 1),
    "logsumexp": lambda h, _: tokens(h).logsumexp(1),
    "attention": lambda h, d: attention(h, d),
    "attention, causal": lambda h, d: attention(h, d, is_causal=True),
    "attention of heads": heads,
    "interpolate": lambda h, d: F.interpolate(image(h), scale_factor=2, mode=d.choice(["nearest", "bilinear", "bicubic"])),
    "interpolate to a size": lambda h, d: F.interpolate(tokens(h), 6, mode=d.choice(["linear", "area", "nearest-exact"])),
    "pixel_shuffle": lambda h, _: F.pixel_shuffle(flat(h, 24).reshape(-1, 4, 2, 3), 2),
    "pixel_unshuffle": lambda h, _: F.pixel_unshuffle(flat(h, 24).reshape(-1, 1, 4, 6), 2),
    "channel_shuffle": lambda h, _: F.channel_shuffle(flat(h, 24).reshape(-1, 4, 2, 3), 2),
    "unfold": lambda h, _: F.unfold(image(h), (2, 2)),
    "tensor unfold": lambda h, _: flat(h).unfold(1, 3, 2),
    "dropout in eval": lambda h, _: F.dropout(h, 0.4, False),
    "torch.dropout by keyword": lambda h, _: torch.dropout(h, p=0.4, train=False),
    "pad": lambda h, d: F.pad(tokens(h), (1, 2), d.choice(["constant", "reflect", "replicate", "circular"])),
    "pad, a constant": lambda h, _: F.pad(tokens(h), (1, 0, 0, 1), value=0.7),
    "pad, cropped": lambda h, _: F.pad(input=tokens(h), pad=(-1, 1)),
    "pad of one channel": lambda h, _: F.pad(flat(h), (2, 1), mode="reflect"),
    "roll": lambda h, d: torch.roll(tokens(h), d.choice([1, 2]), d.choice([1, 2])),
    "roll of two": lambda h, _: tokens(h).roll(shifts=(1, 2), dims=(1, 2)),
    "flip": lambda h, _: tokens(h).flip(1, 2),
    "flip by keyword": lambda h, _: torch.flip(tokens(h), dims=[2]),
    "rot90": lambda h, _: torch.rot90(tokens(h), 1, (1, 2)),
    "permute": lambda h, _: image(h).permute(0, 2, 3, 1),
    "permute by keyword": lambda h, _: torch.permute(image(h), dims=(0, 3, 1, 2)),
    "transpose": lambda h, _: tokens(h).transpose(1, -1),
    "swapaxes": lambda h, _: tokens(h).swapaxes(axis0=1, axis1=2),
    "movedim": lambda h, _: image(h).movedim(1, 3),
    "mT": lambda h, _: tokens(h).mT,
    "batch to the back": lambda h, _: tokens(h).permute(1, 0, 2).transpose(0, 1),
    "reshape": lambda h, _: flat(h).reshape(-1, 2, 6),
    "view and unflatten": lambda h, _: flat(h).view(-1, 3, 4).unflatten(2, (2, 2)).squeeze().reshape(len(h), -1),
    "unsqueeze and expand": lambda h, _: flat(h)[:, None].expand(-1, 2, 12),
    "expand_as": lambda h, _: flat(h, 3)[:, :, None].expand_as(tokens(h)),
    "broadcast_to": lambda h, _: torch.broadcast_to(flat(h, 3)[:, None], (len(h), 2, 3)),
    "repeat": lambda h, _: tokens(h).repeat(1, 2, 1),
    "repeat_interleave": lambda h, _: flat(h).repeat_interleave(2, 1),
    "tile": lambda h, _: flat(h).tile((1, 2)),
    "mean": lambda h, d: tokens(h).mean(d.choice([1, 2, -1])),
    "sum": lambda h, _: torch.sum(image(h), (1, 3), True),
    "sum by axis": lambda h, _: tokens(h).sum(axis=2, keepdim=True),
    "std": lambda h, _: tokens(h).std(2),
    "var": lambda h, _: torch.var(tokens(h), dim=1, unbiased=False),
    "norm": lambda h, _: (tokens(h) + 0.4).norm(dim=2),
    "amax": lambda h, _: tokens(h).amax(2),
    "max": lambda h, _: tokens(h).max(1)[0],
    "topk": lambda h, _: flat(h).topk(5, 1)[0],
    "sort": lambda h, _: flat(h).sort(1, descending=True).values,
    "cumsum": lambda h, _: tokens(h).cumsum(1) / 3,
    "cumprod": lambda h, _: flat(h, 4).cumprod(1),
    "prod": lambda h, _: tokens(h).prod(2),
    "diff": lambda h, _: flat(h).diff(dim=1),
    "narrow": lambda h, _: flat(h).narrow(1, 2, 8),
    "select": lambda h, _: image(h).select(2, -1),
    "index_select": lambda h, _: flat(h).index_select(1, torch.tensor([3, 0, 3, 7])),
    "gather": lambda h, _: flat(h).gather(1, torch.tensor([[2, 5, 2]]).expand(len(h), -1)),
    "take_along_dim": lambda h, _: torch.take_along_dim(flat(h), flat(h).detach().argsort(1), 1),
    "chunk": lambda h, _: torch.sub(*flat(h).chunk(2, dim=1)),
    "split": lambda h, _: flat(h).split([4, 8], dim=1)[1],
    "tensor_split": lambda h, _: torch.tensor_split(flat(h), (3, 7), dim=1)[1],
    "unbind": lambda h, _: tokens(h).unbind(1)[2],
    "cat": lambda h, _: torch.cat([h.flatten(1), flat(h, 3).sin()], -1),
    "cat by keyword": lambda h, _: torch.cat(tensors=(tokens(h), tokens(h).cos()), dim=2),
    "stack": lambda h, _: torch.stack([flat(h), flat(h).sin()], 1),
    "hstack": lambda h, _: torch.hstack([flat(h, 5), flat(h, 4)]),
    "slice": lambda h, _: tokens(h)[:, 1:, ::2],
    "ellipsis": lambda h, _: image(h)[..., 1],
    "new axis": lambda h, _: tokens(h)[:, None, ..., None],
    "a list": lambda h, _: tokens(h)[:, [2, 0, 2]],
    "two lists": lambda h, _: tokens(h)[:, [2, 0, 1], [3, 3, 0]],
    "lists apart": lambda h, _: image(h)[:, [1, 0, 1], :, [2, 0, 3]].transpose(0, 1),
    "a number and a list": lambda h, _: image(h)[:, 0, :, [1, 2, 3]].transpose(0, 1),
    "a mask": lambda h, _: flat(h)[:, torch.arange(12) % 3 > 0],
    "a mask of tokens": lambda h, _: tokens(h)[:, torch.arange(12).reshape(3, 4) % 5 > 1],
    "rows": lambda h, _: flat(h)[torch.arange(len(h))],
    "written slice": lambda h, _: write(h, (slice(None), slice(2, 7)), torch.sin),
    "written view": then(lambda h: h.flatten(1)[:, :4].mul_(0.5)),
    "written rest": lambda h, _: torch.zeros(len(h), 14, dtype=h.dtype).index_copy(1, torch.arange(12), flat(h)),
    "index_add": lambda h, _: flat(h).index_add(1, torch.tensor([0, 0, 3]), flat(h, 3).sin()),
    "scatter": lambda h, _: flat(h).scatter_add(1, torch.zeros(len(h), 2, dtype=torch.long), flat(h, 2).cos()),
    "detach": lambda h, _: h + 0.5 * h.detach().sin(),
    "scaled by its detached self": lambda h, _: h * (1 + h.detach().square()),
    "clone": lambda h, _: h.clone(memory_format=torch.contiguous_format),
    "to": lambda h, _: h.to(torch.float64).type_as(h),
    "a gradient inside": gated,
    "a hook": hooked,
    "fft": lambda h, _: torch.fft.rfft(flat(h)).abs(),
    "cosine_similarity": lambda h, _: F.cosine_similarity(tokens(h) + 0.2, tokens(h).sin() + 0.5, dim=2),
    "trace of tokens": lambda h, _: torch.linalg.det(square(h) + torch.eye(3, dtype=h.dtype)),
    "inverse": lambda h, _: torch.linalg.inv(0.2 * square(h).tanh() + torch.eye(3, dtype=h.dtype)),
    "outer": lambda h, _: flat(h, 4)[:, :, None] * flat(h, 3)[:, None],
    "cdist": lambda h, d: torch.cdist(tokens(h), weight(d, 2, 4)),
}  # fmt: skip
"""Maps of a batch of any shape to one of any other, by name."""


@dataclass(frozen=True)
class Program:
    """A network of a few operations, which follows from its seed.

    Attributes:
        seed: The seed.
        names: The operations in their order.
    """

    seed: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, seed: int) -> "Program":
        draw = Draw(seed)
        return cls(seed, tuple(draw.choice(sorted(OPERATIONS)) for _ in range(draw.randint(1, 5))))

    def __call__(self, x: Tensor) -> Tensor:
        draw = Draw(self.seed)
        h = x @ weight(draw, x.shape[1], FEATURES)
        for position, name in enumerate(self.names):
            h = OPERATIONS[name](h, Draw(100 * self.seed + position))
            if h.detach().abs().max() > 30:  # the same in every precision, and for every example alone
                h = h.sin()
            if position % 2:
                h = F.softplus(h) - 0.5
        h = h.flatten(1)
        return h.tanh() @ weight(draw, h.shape[1], CLASSES)


@dataclass(frozen=True)
class Outcome:
    """What came of a network.

    Attributes:
        backend: How the product was computed, or "refused: " and the sentence, or "crashed: " and the error.
        error: Error of the product relative to its length; 0 without a product.
        tolerance: The largest right one.
    """

    backend: str
    error: float = 0.0
    tolerance: float = TOLERANCE

    @property
    def right(self) -> bool:
        """Whether the product is right, or there is a sentence."""
        return self.error <= self.tolerance and not self.backend.startswith("crashed")


def reference(program: "Program", field, x: Tensor, v: Tensor) -> tuple[Tensor, float] | None:
    """The product and its tolerance: by forward over reverse, by double backward, or by differences; None without values.

    Hooks and gradients inside a network are seen by double backward alone.
    """
    with sdpa_kernel(SDPBackend.MATH):
        if not {"a hook", "a gradient inside"} & {*program.names}:
            try:
                return torch.func.jvp(torch.func.grad(lambda p: field(p).sum()), (x,), (v,))[1], TOLERANCE
            except Exception:
                pass
        try:
            return double_backward(field, x, v), TOLERANCE
        except Exception:
            if not runs(field, x):
                return None
    ends = [gradient(field, x + sign * 1e-5 * v) for sign in (1, -1)]
    return (ends[0] - ends[1]) / 2e-5, COARSE


def double_backward(field, x: Tensor, v: Tensor) -> Tensor:
    """The product as torch differentiates twice."""
    jet = Jet(field, x)
    return pullback(jet.gradient, jet.x, v)


def runs(field, x: Tensor) -> bool:
    """Whether the network has values and gradients at all; what has no second derivative is then to be refused."""
    try:
        return bool(Jet(field, x).detached_gradient.isfinite().all())
    except Exception:
        return False


def examine(program: Program, *, replay: bool = True) -> Outcome | None:
    """Compare the product at a random point with that of torch; None if torch cannot run the network."""
    draw = Draw(program.seed)
    batch = draw.choice([1, 2, 3])
    x = randomness.uniform(torch.zeros(batch, 6, dtype=torch.float64), -1, 1, generator=stream(program.seed, "x"))
    v = randomness.normal(x, generator=stream(program.seed, "v"))
    field = loss_field(Called(program).eval(), torch.arange(batch) % CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = reference(program, field, x, v)
        if known is None:
            return None
        exact, tolerance = known
        try:
            operator = hessian(field, x, replay=replay)
            found = operator(v)
        except InputError as error:
            return Outcome(f"refused: {error}")
        except Exception as error:
            return Outcome(f"crashed: {type(error).__name__}: {error}")
    backend = operator.backend if operator.backend == REPLAYED else operator.backend.partition(": ")[2]
    # Logits and inputs are about 1, so a product below 1e-12 is the rounding of 0.
    size = exact.flatten(1).norm(dim=1) + 1e-4 * operator.gradient.flatten(1).norm(dim=1) + 1e-4
    error = (found - exact).flatten(1).norm(dim=1) / size
    if found.isnan().any():
        undefined = double_backward(field, x, v).isnan()
        if bool((found.isnan() == undefined).all()):
            return Outcome("NaN, as torch's double backward", float(error.nan_to_num(0.0).max()), tolerance)
    return Outcome(backend, float(error.nan_to_num(torch.inf).max()), tolerance)
