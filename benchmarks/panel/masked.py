"""Networks of the panel whose gradients are hidden, or whose usual evaluation is wrong."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import L2, LINF, Ball
from panel.attacks import Way
from panel.data import Data
from panel.defenses import (
    Behind,
    Branching,
    Cancelling,
    Detecting,
    Halved,
    Hooked,
    LyingReLU,
    Pruned,
    Sparse,
    Voting,
    Winners,
    clipped_probabilities,
    half_probabilities,
    rounded,
    squashed,
)
from panel.entries import Build, Entry, Train
from panel.networks import Times, conv, mlp, pooled, residual
from panel.preprocessing import (
    Dct,
    Depth,
    Dropped,
    Levels,
    Noise,
    Purified,
    Reproduced,
    Resized,
    Thermometer,
    ThroughNumpy,
    Uncoupled,
    twin,
)
from panel.training import Fit, adversarial, distilled, input_gradient, one_step, trades

SOME = Ball(LINF, 0.1)
MORE = Ball(LINF, 0.15)
EIGHT_BIT = Ball(LINF, 4 / 255)


def behind(
    *stages: Callable[[], nn.Module], network: Callable[..., nn.Module] = conv, channels: int = 1, size: int = 0
) -> Build:
    """Return a function that puts stages before a network.

    The network sees `channels` times the image's channels and, unless it is 0, `size` pixels a side.
    """

    def build(data: Data) -> nn.Module:
        c, h, w = data.shape
        shape = (c * channels, size or h, size or w)
        return nn.Sequential(*(stage() for stage in stages), network(shape, data.classes))

    return build


def plain(network: Callable[..., nn.Module] = conv, **options: object) -> Build:
    """Return a function that builds a network for the data's shape and classes."""
    return lambda data: network(data.shape, data.classes, **options)


def around(wrap: Callable[[nn.Module], nn.Module], network: Callable[..., nn.Module] = conv) -> Build:
    """Return a function that wraps a network."""
    return lambda data: wrap(network(data.shape, data.classes))


def output(function: Callable[[Tensor], Tensor], network: Callable[..., nn.Module] = conv) -> Build:
    """Return a function that builds a network with a function behind its logits."""
    return around(partial(Behind, function=function), network)


def inner_first(fit: Train, part: str = "inner") -> Train:
    """Return a training of a part alone."""
    return lambda model, data: fit(model.get_submodule(part), data)


def each(*parts: str, fit: Train = Fit()) -> Train:  # noqa: B008 - it is frozen
    """Return a training of several parts, one after the other."""

    def fit_all(model: nn.Module, data: Data) -> None:
        for part in parts:
            fit(model.get_submodule(part), data)

    return fit_all


def random_ways(model: nn.Module) -> list[Way]:
    """Return the attack on the expectation over draws."""
    return [Way(twin(model), draws=8)]


def jittered(model: nn.Module) -> list[Way]:
    """Return attacks on the expectation over noise on the input."""
    return [Way(twin(model), draws=8, jitter=jitter) for jitter in (0.1, 0.4)]


def _autoencoder(data: Data, hidden: int) -> nn.Module:
    pixels = torch.Size(data.shape).numel()
    layers = (nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid())
    return nn.Sequential(*layers, nn.Unflatten(1, data.shape))


def _reproduce(model: nn.Module, data: Data) -> None:
    """Train an autoencoder to remove noise."""
    noisy = lambda net, x, _: (net((x + 0.2 * torch.randn_like(x)).clamp(0, 1)) - x).square().mean() * 10  # noqa: E731
    Fit(20, 5e-3, noisy)(model, data)


def purified(defense: Callable[[nn.Module], nn.Module], hidden: int = 24) -> Build:
    """Return a function that puts a stage with an autoencoder before a network."""

    def build(data: Data) -> nn.Module:
        return nn.Sequential(defense(_autoencoder(data, hidden)), conv(data.shape, data.classes))

    return build


def fit_purified(model: nn.Sequential, data: Data) -> None:
    """Train autoencoder and network apart."""
    _reproduce(model[0].autoencoder, data)
    Fit()(model[1], data)


def detecting(data: Data) -> nn.Module:
    """Return a network with a detector."""
    return Detecting(conv(data.shape, data.classes), _autoencoder(data, 32), data.shape, data.classes)


def fit_detecting(model: Detecting, data: Data) -> None:
    """Train the parts; the detector lets 95 % of the training images pass."""
    Fit()(model.inner, data)
    _reproduce(model.autoencoder, data)
    with torch.no_grad():
        model.means.copy_(torch.stack([data.x[data.y == k].flatten(1).mean(0) for k in range(data.classes)]))
        model.threshold.copy_(model.error(data.x).quantile(0.95))


def undetected(model: Detecting) -> list[Way]:
    """Return attacks on the classifier that keep the detector's error low."""
    return [
        Way(model.inner, penalty=lambda x, w=w: w * (model.error(x) / model.threshold - 0.9).clamp_min(0))
        for w in (0.3, 3.0)
    ]


def uncoupled(data: Data) -> nn.Module:
    """Return a network behind a detached input, with a decoy."""
    return Uncoupled(conv(data.shape, data.classes), torch.Size(data.shape).numel(), data.classes, 0.02)


def pruned(data: Data) -> nn.Module:
    """Return a network with stochastic activation pruning."""
    return conv(data.shape, data.classes, act=lambda: nn.Sequential(nn.ReLU(), Pruned(0.3)))


def sparse(data: Data, deviations: float) -> nn.Module:
    """Return a network with MeanSparse before each nonlinearity."""
    model = conv(data.shape, data.classes)
    layers: list[nn.Module] = []
    for layer in model:
        layers += [layer, *([Sparse(layer.out_channels, deviations)] if isinstance(layer, nn.Conv2d) else [])]
    return nn.Sequential(*layers)


def teacher_first(temperature: float, network: Callable[..., nn.Module]) -> Train:
    """Return defensive distillation with a teacher of the same kind."""
    return lambda model, data: distilled(temperature, network(data.shape, data.classes))(model, data)


TIMES = partial(Times, scale=300.0)
LAST = "1"

MASKED: tuple[Entry, ...] = (
    Entry("k winners of units", "k-winners-take-all", "digits", SOME, plain(act=lambda: Winners(0.1)), Fit(15), jittered),
    Entry(
        "k winners of a wide layer", "k-winners-take-all", "mnist", Ball(L2, 1.5),
        plain(mlp, act=lambda: Winners(0.08), width=200, depth=2), Fit(6), jittered,
    ),
    Entry("3 levels, pooling", "quantized input", "mnist", MORE, behind(lambda: Levels(3), network=pooled), Fit(3)),
    Entry("4 levels, fully connected", "quantized input", "digits", Ball(L2, 0.8), behind(lambda: Levels(4), network=mlp)),
    Entry("thermometer of 8", "thermometer input", "digits", SOME, behind(lambda: Thermometer(8), channels=8)),
    Entry("thermometer of 5, residual", "thermometer input", "digits", MORE,
          behind(lambda: Thermometer(5), network=residual, channels=5)),
    Entry("cosine coefficients", "JPEG-like", "digits", SOME, behind(lambda: Dct(0.3))),
    Entry("cosine coefficients, colors", "JPEG-like", "cifar10", EIGHT_BIT, behind(lambda: Dct(0.3)), Fit(4)),
    Entry("1 bit after a median", "bit depth", "mnist", Ball(LINF, 0.2), behind(lambda: Depth(1), network=pooled), Fit(3)),
    Entry("2 bits after a median, colors", "bit depth", "cifar10", EIGHT_BIT, behind(lambda: Depth(2)), Fit(4)),
    Entry("random size and place", "random resizing and padding", "mnist", SOME,
          behind(lambda: Resized(22, 32), network=pooled, size=32), Fit(4), random_ways, random=True),
    Entry("random size and place, small", "random resizing and padding", "digits", SOME,
          behind(lambda: Resized(7, 12), size=12), Fit(20), random_ways, random=True),
    Entry("noise of 0.4", "input noise", "mnist", Ball(LINF, 0.2), behind(lambda: Noise(0.4), network=pooled), Fit(4),
          random_ways, random=True),
    Entry("noise of 0.25", "input noise", "digits", SOME, behind(lambda: Noise(0.25)), Fit(15), random_ways, random=True),
    Entry("pruning by chance", "stochastic activation pruning", "digits", SOME, pruned, Fit(15), random_ways, random=True),
    Entry("dropout of half at test", "stochastic activation pruning", "digits", MORE,
          plain(mlp, act=lambda: nn.Sequential(nn.ReLU(), Dropped(0.5))), Fit(25), random_ways, random=True),
    Entry("distilled at 50", "defensive distillation", "digits", SOME, plain(), teacher_first(50, conv)),
    Entry("distilled at 100, fully connected", "defensive distillation", "digits", Ball(L2, 0.8), plain(mlp),
          teacher_first(100, mlp)),
    Entry("logits x 300", "scaled logits", "mnist", SOME, around(TIMES, pooled), inner_first(Fit(3))),
    Entry("logits x 300, adversarial", "scaled logits", "digits", SOME, around(TIMES),
          inner_first(Fit(15, loss=adversarial(SOME)))),
    Entry("tanh of logits", "squashed logits", "digits", SOME, output(squashed), inner_first(Fit())),
    Entry("clipped probabilities", "squashed logits", "mnist", SOME, output(clipped_probabilities, pooled),
          inner_first(Fit(3))),
    Entry("rounded logits", "squashed logits", "digits", SOME, output(rounded), inner_first(Fit())),
    Entry("half precision, softmax", "half-precision underflow", "digits", Ball(L2, 0.6),
          output(half_probabilities), inner_first(Fit())),
    Entry("half precision, pixels", "half-precision underflow", "digits", SOME, behind(Halved), Fit(40, 5e-3)),
    Entry("two networks that cancel", "mixed ensemble", "digits", SOME,
          lambda data: Cancelling(conv(data.shape, data.classes), pooled(data.shape, data.classes)), each("first", "second")),
    Entry("votes of three", "mixed ensemble", "digits", MORE,
          lambda data: Voting(*(conv(data.shape, data.classes) for _ in range(3))), each(*(f"members.{k}" for k in range(3)))),
    Entry("sparse around the mean, adversarial", "MeanSparse", "digits", MORE, partial(sparse, deviations=0.7),
          Fit(15, loss=adversarial(MORE))),
    Entry("sparse around the mean", "MeanSparse", "digits", SOME, partial(sparse, deviations=0.5)),
    Entry("descent to an autoencoder", "purification loop", "digits", MORE,
          purified(partial(Purified, steps=4, rate=0.3)), fit_purified),
    Entry("autoencoder, three times", "purification loop", "digits", SOME,
          purified(partial(Reproduced, times=3)), fit_purified),
    Entry("detached, with a decoy", "detached gradient", "digits", SOME, uncoupled, inner_first(Fit())),
    Entry("a blur in numpy", "detached gradient", "mnist", SOME, behind(ThroughNumpy, network=pooled), Fit(3)),
    Entry("ReLU with a wrong gradient", "wrong custom gradient", "digits", SOME, plain(act=LyingReLU)),
    Entry("a hook that changes signs", "wrong custom gradient", "digits", SOME,
          lambda data: nn.Sequential(Hooked(data.shape, 0.5), conv(data.shape, data.classes)), inner_first(Fit(), LAST)),
    Entry("one-step training", "FGSM-overfitted", "digits", Ball(LINF, 0.3), plain(width=16),
          Fit(60, 1e-2, one_step(Ball(LINF, 0.3))), steps=1),
    Entry("one-step training, pooling", "FGSM-overfitted", "mnist", Ball(LINF, 0.3), plain(pooled),
          Fit(6, 5e-3, one_step(Ball(LINF, 0.3))), steps=1),
    Entry("TRADES from the image itself", "unstable TRADES", "digits", MORE, plain(),
          Fit(25, 1e-2, trades(MORE, 6.0, noise=1e-6))),
    Entry("TRADES with a weight of 60", "unstable TRADES", "digits", Ball(LINF, 0.2), plain(mlp),
          Fit(25, 1e-2, trades(Ball(LINF, 0.2), 60.0, steps=1))),
    Entry("input gradient x 100", "too much gradient regularization", "digits", MORE, plain(),
          Fit(30, 5e-3, input_gradient(100.0))),
    Entry("input gradient x 10,000", "too much gradient regularization", "digits", SOME, plain(act=nn.Softplus),
          Fit(30, 5e-3, input_gradient(1e4))),
    Entry("rejected by an autoencoder", "detector", "digits", MORE, detecting, fit_detecting, undetected),
    Entry("four networks in turn", "input-dependent branch", "digits", SOME,
          lambda data: Branching(*(conv(data.shape, data.classes) for _ in range(4))),
          each(*(f"members.{k}" for k in range(4))), jittered),
    Entry("two networks in turn, adversarial", "input-dependent branch", "digits", MORE,
          lambda data: Branching(conv(data.shape, data.classes), mlp(data.shape, data.classes), fineness=300.0),
          each("members.0", "members.1", fit=Fit(10, loss=adversarial(SOME))), jittered),
)  # fmt: skip
"""The networks, two of most kinds."""
