"""Random small networks of many operations, and the largest derivatives found of each, for the fuzz of the certificates."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve import randomness
from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.recording import record
from lowcurve.models.jacobians.rules import Operation, list_operations
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import integers, stream, uniform

Step = Callable[[Tensor, list[Tensor]], Tensor]
SHAPES = ((2, 4, 4), (1, 5, 4), (3, 3, 3), (2, 4, 5), (1, 6, 6), (4, 5), (3, 6), (7,))
BATCH = 11
"""Images of the batch on which steps are tried. No other size is a multiple of it, so no step mixes them up."""
LARGEST = 240
"""Elements of the largest value within a network."""


class Chooser:
    """Random choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = stream(seed, "random network")

    def number(self, low: int, high: int) -> int:
        return int(integers((1,), low, high + 1, generator=self.generator))

    def of(self, *values):
        return values[self.number(0, len(values) - 1)]

    def tensor(self, *shape: int) -> Tensor:
        return uniform(torch.zeros(*shape, dtype=torch.double), -1.5, 1.5, generator=self.generator)

    def chance(self, share: float) -> bool:
        return float(uniform(torch.zeros(1), 0, 1, generator=self.generator)) < share


class RandomNetwork(nn.Module):
    """A chain of random steps, which may use earlier values, and a linear layer to three logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = Chooser(seed)
        self.names: list[str] = []
        self.steps: list[Step] = []
        self.parts = nn.ModuleList()
        self.shape = choose.of(*SHAPES)
        with randomness.temporary_seed(seed, "random weights"), torch.no_grad():
            past = [torch.zeros(BATCH, *self.shape, dtype=torch.double)]
            for _ in range(choose.number(2, 7)):
                self._grow(choose, past)
            features = past[-1][0].numel()
            self.head = self._weigh(choose, nn.Linear(features, 3, bias=choose.chance(0.5)))
        self.flat = choose.of(
            lambda h: h.flatten(1), lambda h: h.view(h.size(0), -1), lambda h: h.reshape(h.shape[0], h[0].numel())
        )
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        past = [x]
        for step in self.steps:
            past.append(step(past[-1], past))
        return self.head(self.flat(past[-1].contiguous()))

    def _grow(self, choose: Chooser, past: list[Tensor]) -> None:
        """Add a random step that fits the last value."""
        h = past[-1]
        for _ in range(20):
            name = choose.of(*VOCABULARY)
            if h.ndim - 1 not in VOCABULARY[name][0]:
                continue
            found = VOCABULARY[name][1](choose, h, past)
            if found is None:
                continue
            modules = [
                self._weigh(choose, m)
                for m in (found if isinstance(found, tuple) else (found,))
                if isinstance(m, nn.Module)
            ]
            step = as_step(found)
            try:
                after = step(h.clone(), [p.clone() for p in past])
            except (RuntimeError, ValueError, IndexError):
                continue
            if after.shape[0] != BATCH or not 0 < after[0].numel() <= LARGEST or after.ndim < 2:
                continue
            self.parts.extend(modules)
            self.steps.append(step)
            self.names.append(name)
            past.append(after)
            return

    def _weigh(self, choose: Chooser, module: nn.Module) -> nn.Module:
        """Give a module random weights and statistics."""
        module.double().eval()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or "log_beta" in name:
                continue
            tensor.data.copy_(choose.tensor(*tensor.shape) if tensor.ndim else tensor)
            if "running_var" in name:
                tensor.data.abs_().add_(0.05)
            if tensor.ndim > 1:
                tensor.data.mul_(choose.of(0.4, 0.8))
        return module


def as_step(found) -> Step:
    """A step from a module, a function of the value, or a function of the value and all earlier ones with its modules."""
    function = found[0] if isinstance(found, tuple) else found
    if isinstance(function, nn.Module):
        return lambda h, _: function(h)
    if isinstance(found, tuple):
        return lambda h, past: function(h, past)
    return lambda h, _: function(h)


def partner(choose: Chooser, h: Tensor, past: list[Tensor]) -> int | None:
    """The place of an earlier value that can be broadcast against this one, or of this one."""
    fitting = [place for place, value in enumerate(past) if broadcasts(value.shape, h.shape)]
    return choose.of(*fitting) if fitting else None


def broadcasts(a: torch.Size, b: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(a, b)[0] == BATCH
    except RuntimeError:
        return False


def convolution(c: Chooser, h: Tensor, _):
    groups = c.of(1, h.shape[1])
    kernel, mode = c.number(1, 3), c.of("zeros", "zeros", "reflect", "replicate", "circular")
    words = {"stride": c.number(1, 3), "dilation": c.number(1, 2), "padding": c.number(0, 2), "padding_mode": mode}
    return nn.Conv2d(h.shape[1], groups * c.number(1, 3), kernel, groups=groups, bias=c.chance(0.5), **words)


def signal_convolution(c: Chooser, h: Tensor, _):
    mode = c.of("zeros", "reflect", "circular", "replicate")
    return nn.Conv1d(
        h.shape[1], c.number(1, 4), c.number(1, 3), c.number(1, 2), c.number(0, 2), c.number(1, 2), padding_mode=mode
    )


def transposed(c: Chooser, h: Tensor, _):
    return nn.ConvTranspose2d(h.shape[1], c.number(1, 2), c.number(1, 3), c.number(1, 2), c.number(0, 1))


def batchnorm(c: Chooser, h: Tensor, _):
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    return kinds[h.ndim](h.shape[1], affine=c.chance(0.7))


def nonlinearity(c: Chooser, *_):
    modules = (
        nn.Softplus(c.of(1, 4)),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.ELU(),
        nn.Mish(),
    )
    kinks = (
        nn.ReLU(),
        nn.LeakyReLU(c.of(0.1, 1.5)),
        nn.ELU(1.7),
        nn.SELU(),
        nn.CELU(0.5),
        nn.Hardtanh(),
        nn.ReLU6(),
        nn.Hardswish(),
    )
    more = (nn.LogSigmoid(), CenteredSoftplus(3.0), nn.PReLU(), nn.Softshrink(), nn.Hardsigmoid(), nn.Tanhshrink())
    functions = (torch.sin, torch.cos, torch.atan, torch.erf, torch.abs, lambda h: F.relu(h * 1.0, inplace=True))
    return c.of(*modules, *modules, *modules, *kinks, *more, *functions)


def pooling(c: Chooser, *_):
    kernel, stride = c.number(1, 3), c.number(1, 3)
    padding = c.number(0, kernel // 2)
    ceil = c.chance(0.5)
    return c.of(
        nn.AvgPool2d(kernel, stride, padding, ceil, c.chance(0.5), c.of(None, 1, 3)),
        nn.MaxPool2d(kernel, stride, padding, c.number(1, 2), ceil_mode=ceil),
        nn.AdaptiveAvgPool2d((c.number(1, 4), c.number(1, 4))),
        nn.AdaptiveMaxPool2d((c.number(1, 4), c.number(1, 4))),
    )


def resizing(c: Chooser, *_):
    mode = c.of("nearest", "nearest-exact", "bilinear")
    size = c.number(1, 6), c.number(1, 6)
    return lambda h: F.interpolate(h, size=size, mode=mode)


def padding(c: Chooser, h: Tensor, _):
    widths = [c.number(-1, 2) for _ in range(2 * c.number(1, h.ndim - 2))]
    mode = c.of("constant", "reflect", "replicate", "circular")
    value = {"value": c.of(0.0, 1.5)} if mode == "constant" else {}
    return lambda h: F.pad(h, pad=widths, mode=mode, **value)


def combination(c: Chooser, h: Tensor, past: list[Tensor]):
    place = partner(c, h, past)
    if place is None:
        return None
    alpha, scale = c.of(1, -2, 0.5, 3), c.tensor(1).item()
    functions = (
        lambda h, p: h + p[place],
        lambda h, p: p[place] - h,
        lambda h, p: torch.add(h, p[place], alpha=alpha),
        lambda h, p: torch.sub(input=p[place], other=h, alpha=alpha),
        lambda h, p: torch.rsub(h, p[place], alpha=alpha),
        lambda h, p: (
            (h * 1.0).add_(p[place], alpha=alpha) if torch.broadcast_shapes(h.shape, p[place].shape) == h.shape else h
        ),
        lambda h, p: torch.maximum(h, p[place]),
        lambda h, p: torch.minimum(p[place], h * scale),
    )
    return (c.of(*functions),)


def joining(c: Chooser, h: Tensor, past: list[Tensor]):
    fitting = [place for place, value in enumerate(past) if value.shape == h.shape]
    places = [c.of(*fitting) for _ in range(c.number(1, 2))]
    axis = c.number(1, h.ndim - 1)
    joined = c.of(
        lambda h, p: torch.cat([h, *(p[k] for k in places)], axis),
        lambda h, p: torch.cat(tensors=[p[places[0]], torch.ones_like(h), h], dim=axis),
        lambda h, p: torch.stack([h, *(p[k] for k in places)], 1).sum(1),
        lambda h, p: torch.stack([h, p[places[0]]], dim=-1).mean(-1),
    )
    return (joined,)


def company(c: Chooser, h: Tensor, _):
    """A value with its own mean, maximum or sum, broadcast against it."""
    axes = tuple(range(c.number(1, h.ndim - 1), h.ndim))
    reduced = c.of(
        lambda h: h.mean(axes, keepdim=True),
        lambda h: h.sum(dim=axes, keepdim=True) * 0.3,
        lambda h: h.amax(axes, keepdim=True),
        lambda h: F.adaptive_avg_pool2d(h, 1) if h.ndim == 4 else h.mean(-1, keepdim=True),
    )
    return c.of(
        lambda h: h + reduced(h), lambda h: torch.sub(h, reduced(h), alpha=2), lambda h: reduced(h).expand_as(h) - h
    )


def constants(c: Chooser, h: Tensor, _):
    """A product, a quotient or a sum with a constant of any shape that fits."""
    shape = [c.of(1, size) for size in h.shape[1:]]
    if c.chance(0.3) and h.shape[-1] == 1:
        shape[-1] = 3
    constant = c.tensor(*shape)
    safe = constant.sign() * (constant.abs() + 0.3)
    mask = constant > 0
    return c.of(
        lambda h: h * constant,
        lambda h: constant * h,
        lambda h: h / safe,
        lambda h: torch.div(constant - h, 2.5),
        lambda h: torch.where(mask, h, -0.5 * h),
        lambda h: torch.where(mask, other=h, input=constant),
        lambda h: h.masked_fill(mask.expand(h.shape[1:]), 0.7),
        lambda h: -h.clamp(min=-0.5),
        lambda h: h.clamp(max=constant.expand(h.shape[1:]) + 2),
    )


def indexing(c: Chooser, h: Tensor, _):
    axis = c.number(1, h.ndim - 1)
    size = h.shape[axis]
    places = torch.tensor([c.number(0, size - 1) for _ in range(c.number(1, 5))])
    full = (slice(None),) * axis
    repeats = [1] * h.ndim
    repeats[axis] = c.number(2, 3)
    grid = places.view(-1, *[1] * (h.ndim - 1 - axis)).expand(-1, *h.shape[axis + 1 :])
    return c.of(
        lambda h: h[(*full, places)],
        lambda h: h[(*full, slice(None, None, 2))],
        lambda h: h[(*full, slice(1, None))],
        lambda h: h.index_select(axis, places),
        lambda h: h.gather(axis, grid.expand(len(h), *h.shape[1:axis], *grid.shape)),
        lambda h: h.repeat(repeats),
        lambda h: h.repeat_interleave(2, dim=axis),
        lambda h: h.flip(axis),
        lambda h: torch.roll(h, 2, dims=axis),
        lambda h: torch.cat(h.chunk(2, axis)[::-1], axis),
        lambda h: (
            torch.stack([h.unbind(axis)[0]] * 3, 1).add(1.0).sum(1, keepdim=True).expand(-1, 2, *[-1] * (h.ndim - 2))
        ),
        lambda h: h.cumsum(axis),
        lambda h: h.unsqueeze(1).expand(-1, 2, *[-1] * (h.ndim - 1)).flatten(1, 2),
        lambda h: h.split([1, size - 1], axis)[1],
    )


def products(c: Chooser, h: Tensor, _):
    right, left = c.tensor(h.shape[-1], c.number(1, 5)), c.tensor(c.number(1, 4), h.shape[-2])
    vector = c.tensor(h.shape[-1])
    if h.ndim == 2:
        return c.of(
            lambda h: h @ right,
            lambda h: torch.addmm(vector[0].expand(right.shape[1]), h, right, alpha=-2),
            lambda h: F.linear(h, right.T),
        )
    return c.of(
        lambda h: h @ right,
        lambda h: left @ h,
        lambda h: torch.einsum("n...j,jk->n...k", h, right),
        lambda h: F.linear(input=h, weight=right.T),
        lambda h: (h @ vector).unsqueeze(-1) + h,
        lambda h: torch.matmul(h.transpose(-1, -2), left.T),
    )


def tokens(c: Chooser, h: Tensor, _):
    """A linear layer on the last axis, alone, before BatchNorm along axis 1, or on tokens as a batch."""
    layer, after = nn.Linear(h.shape[-1], c.number(1, 5)), h.shape[1]
    norm = nn.BatchNorm1d(after) if h.ndim < 4 else nn.BatchNorm2d(after)
    if h.ndim == 2:
        norm = nn.BatchNorm1d(layer.out_features)
    flat = nn.BatchNorm1d(layer.out_features)
    return c.of(
        layer,
        ((lambda h, _: norm(layer(h))), layer, norm),
        ((lambda h, _: flat(layer(h.flatten(0, -2))).view(*h.shape[:-1], -1)), layer, flat),
    )


def shapes(c: Chooser, h: Tensor, _):
    if h.ndim == 4:
        return c.of(
            lambda h: h.flatten(2).transpose(1, 2),
            lambda h: h.permute(0, 2, 3, 1).contiguous(),
            lambda h: h.view(h.size(0), h.size(1) * h.shape[2], -1),
            lambda h: F.pixel_shuffle(h.repeat(1, 4, 1, 1), 2),
            lambda h: F.unfold(h, 2).transpose(1, 2),
        )
    return c.of(lambda h: h.flatten(1), lambda h: h.transpose(1, -1), lambda h: h.reshape(len(h), 1, -1))


def in_place(c: Chooser, *_):
    constant = c.tensor(1).item()

    def written(h):
        value = h * 1.0
        value += constant
        value.mul_(constant).tanh_()
        return value

    return c.of(written, lambda h: torch.relu_(h + constant), lambda h: F.elu(h * constant, inplace=True))


def sharing(_, h: Tensor, __):
    """One layer called twice."""
    layer = nn.Linear(h.shape[-1], h.shape[-1])
    return ((lambda h, _: layer(torch.tanh(layer(h)))), layer)


def unsupported(c: Chooser, *_):
    return c.of(
        lambda h: h.softmax(-1),
        lambda h: h * torch.tanh(h),
        lambda h: F.layer_norm(h, h.shape[1:]),
        lambda h: h + h.detach(),
        lambda h: h * (h > 0),
        lambda h: h - h.mean(0),
        lambda h: h * float(h.abs().max() < 9),
        lambda h: h.float().half().double(),
        lambda h: F.dropout(h, 0.01, training=True),
        lambda h: h.round(),
    )


VOCABULARY: dict[str, tuple[tuple[int, ...], Callable]] = {
    "convolution": ((3,), convolution),
    "convolution ": ((3,), convolution),
    "convolution of signals": ((2,), signal_convolution),
    "transposed convolution": ((3,), transposed),
    "BatchNorm": ((1, 2, 3), batchnorm),
    "nonlinearity": ((1, 2, 3), nonlinearity),
    "nonlinearity ": ((1, 2, 3), nonlinearity),
    "pooling": ((3,), pooling),
    "pooling ": ((3,), pooling),
    "pooling  ": ((3,), pooling),
    "resizing": ((3,), resizing),
    "padding": ((2, 3), padding),
    "two values": ((1, 2, 3), combination),
    "concatenation": ((1, 2, 3), joining),
    "a value with its own mean": ((1, 2, 3), company),
    "constants": ((1, 2, 3), constants),
    "indexing": ((1, 2, 3), indexing),
    "matrix products": ((1, 2, 3), products),
    "tokens": ((1, 2, 3), tokens),
    "shapes": ((2, 3), shapes),
    "in place": ((1, 2, 3), in_place),
    "a shared layer": ((1, 2, 3), sharing),
}
"""The numbers of axes without the batch, and what draws a step."""
UNSUPPORTED = "unsupported"


@dataclass
class Tally:
    """The results of a fuzz.

    Attributes:
        certified: Number of networks with bounds.
        refused: Number of networks by the operation, or the reason, for which they were refused.
        smooth: Number of networks with a finite bound of curvature.
        violations: A sentence for each bound that was exceeded.
        errors: Exceptions other than a refusal.
        steps: Number of networks with each kind of step.
        operations: Number of certified networks with each operation.
        tightness: Largest slope found over the bound, for each certified network.
    """

    certified: int = 0
    smooth: int = 0
    refused: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    steps: Counter = field(default_factory=Counter)
    operations: Counter = field(default_factory=Counter)
    tightness: list[float] = field(default_factory=list)


def check_network(seed: int, tally: Tally) -> None:
    """Certify one random network, and hold every bound against what is found at random points."""
    if seed % 20 == 19:
        VOCABULARY.update({f"{UNSUPPORTED}{' ' * k}": ((1, 2, 3), unsupported) for k in range(4)})
    try:
        model = RandomNetwork(seed)
    finally:
        for name in [name for name in VOCABULARY if name.strip() == UNSUPPORTED]:
            del VOCABULARY[name]
    model.requires_grad_(requires_grad=False)
    tally.steps.update({name.strip() for name in model.names})
    example = torch.zeros(1, *model.shape, dtype=torch.double)
    try:
        found = smoothness(model, example)
    except NotAvailable as error:
        tally.refused[f"{error.expected}, got {error.received.split(' in layer')[0].split(' (')[0]}"] += 1
        return
    tally.certified += 1
    g = stream(seed, "points")
    scales = torch.tensor([0.05, 0.3, 1, 1, 3, 10], dtype=torch.double).view(-1, *[1] * len(model.shape))
    x = scales * uniform(torch.zeros(6, *model.shape, dtype=torch.double), -1, 1, generator=g)
    for i, j in itertools.combinations(range(3), 2):
        _check_pair(seed, model, x, (i, j), found, tally, bends=(i, j) == (0, 1))
    tally.smooth += bool(found.curvature.isfinite().all())
    graph = record(model, example)
    operations = list_operations(graph)
    tally.operations.update({operation.node.call.name for operation in operations})
    values = {graph.nodes[0]: x[2:3]}
    for node in graph.nodes[1:]:
        values[node] = node.evaluate(values)
    for operation in {operations[seed % len(operations)], operations[seed // 7 % len(operations)]}:
        _check_operation(seed, operation, values, tally)


def _check_pair(seed, model, x, pair, found, tally, bends) -> None:
    i, j = pair
    slope_bound, bend_bound = float(found.lipschitz[i, j]), float(found.curvature[i, j])
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    margins = logits[:, i] - logits[:, j]
    (gradients,) = torch.autograd.grad(margins.sum(), leaf, create_graph=True, materialize_grads=True)
    flat = gradients.flatten(1)
    steepest = float(flat.norm(dim=1).max().detach())
    distances = (x[1:] - x[:-1]).flatten(1).norm(dim=1)
    far = float(((margins[1:] - margins[:-1]).abs() / distances).max().detach())
    if slope_bound > 1e-9:
        tally.tightness.append(max(steepest, far) / slope_bound)
    if not max(steepest, far) <= slope_bound * (1 + 1e-9) + 1e-12:
        tally.violations.append(f"{seed}: slope {max(steepest, far)} over {slope_bound} {model.names}")
    if bend_bound == float("inf"):
        return
    turned = float(((flat[1:] - flat[:-1]).norm(dim=1) / distances).max().detach())
    if not turned <= bend_bound * (1 + 1e-9) + 1e-9:
        tally.violations.append(f"{seed}: gradients turn by {turned} over {bend_bound} {model.names}")
    if bends and flat.requires_grad:
        try:
            rows = [
                torch.autograd.grad(flat[:, k].sum(), leaf, retain_graph=True, materialize_grads=True)[0].flatten(1)
                for k in range(flat.shape[1])
            ]
        except RuntimeError:  # torch has no second derivative of hardsigmoid, which here contributes nothing
            return
        bend = float(torch.linalg.matrix_norm(torch.stack(rows, 1), 2).max())
        if not bend <= bend_bound * (1 + 1e-9) + 1e-9:
            tally.violations.append(f"{seed}: Hessian {bend} over {bend_bound} {model.names}")


def _check_operation(seed: int, operation: Operation, values: dict[Node, Tensor], tally: Tally) -> None:
    """Hold the bounds of one operation against its dense Jacobian in each of its arguments."""
    parents = list(dict.fromkeys(parent for parent, _ in operation.bounds.edges))
    for parent in parents:
        bounds = [bound for node, bound in operation.bounds.edges if node is parent]
        leaf = values[parent].clone().requires_grad_()
        known = {node: values[node] for _, node in operation.node.parents} | {parent: leaf}
        if parent not in {
            node for _, node in operation.node.parents
        }:  # a folded BatchNorm: the layer before is evaluated too
            before = operation.node.parents[0][1]
            known[before] = before.evaluate({parent: leaf})
        result = operation.node.evaluate(known).flatten()
        if not result.requires_grad:
            continue
        rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten() for value in result]
        jacobian = torch.stack(rows)
        name = operation.node.call.name
        norms = {
            "norm": (float(torch.linalg.matrix_norm(jacobian, 2)), sum(bound.lipschitz for bound in bounds)),
            "column norm": (float(jacobian.norm(dim=0).max()), sum(bound.column_norm for bound in bounds)),
            "column sum": (float(jacobian.abs().sum(0).max()), sum(bound.column_sum for bound in bounds)),
        }
        for kind, (value, bound) in norms.items():
            if not value <= bound * (1 + 1e-9) + 1e-12:
                tally.violations.append(f"{seed}: {kind} of {name} {value} over {bound}")
