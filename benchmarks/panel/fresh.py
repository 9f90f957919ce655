"""The third set of the panel: networks and evaluations that were written when the audit was finished.

The audit was frozen and this file committed before the first audit of an entry. Each audit gets exactly the evaluation that
is judged: its own adversarial images. Kinds, architectures, balls or data differ from those of the first two halves.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.models.almost_orthogonal import aol_convnet
from lowcurve.types import AttackFunction
from panel.data import Data
from panel.defenses import Winners
from panel.entries import Build, Entry, Train
from panel.fresh_defenses import (
    Blocked,
    Codes,
    Cropped,
    Deflected,
    DroppedChannels,
    FewLevels,
    Kernels,
    LessVariation,
    Neighbors,
    NoisyLogits,
    OneHot,
    OneOf,
    Projected,
    Prototypes,
    Ranks,
    Sharpened,
    Signs,
    Skipping,
    SteepSigmoid,
    Table,
    TwoBranches,
    VotesUnderNoise,
    bfloat_logits,
    sharp_probabilities,
)
from panel.fresh_networks import (
    Attending,
    Columns,
    Gated,
    Grouped,
    Maxout,
    Sines,
    Squeezing,
    depthwise,
    dilated,
    normalized,
)
from panel.honest import lcnn, public
from panel.masked import around, behind, each, inner_first, output, plain, random_ways, teacher_first
from panel.networks import Mean, Mixer, Rows, Times, Transformer, conv, mlp, pooled
from panel.preprocessing import Dct
from panel.training import (
    Fit,
    Free,
    adversarial,
    curvature,
    input_gradient,
    noisy_step,
    one_step,
    smoothed_labels,
    trades,
)
from panel.weak import RandomPoints, Weak, to_class_zero

FEW, SOME, MORE, MUCH = (Ball(LINF, radius) for radius in (0.08, 0.11, 0.14, 0.2))
ROUND, SPARSE = Ball(L2, 0.9), Ball(L1, 3.0)
PLAIN_FIT = Fit()
FEATURES = 32


def features(data: Data) -> nn.Sequential:
    """Return a network to features instead of classes."""
    return conv(data.shape, FEATURES)


def neighbors(data: Data) -> nn.Module:
    """Return the votes of five neighbors among 500 training images."""
    return Neighbors(features(data), 5, 500, FEATURES, data.classes)


def prototypes(data: Data) -> nn.Module:
    """Return rounded distances to prototypes."""
    return Prototypes(features(data), FEATURES, data.classes, 4.0)


def fit_points(model: Neighbors | Prototypes, data: Data) -> None:
    """Train the features with a linear layer behind them, and take the points that they compare with."""
    Fit(12)(nn.Sequential(model.inner, nn.Linear(FEATURES, data.classes)), data)
    with torch.no_grad():
        if isinstance(model, Neighbors):
            rows = torch.randperm(len(data.x))[: len(model.points)]
            model.points.copy_(model.inner(data.x[rows]))
            model.labels.copy_(nn.functional.one_hot(data.y[rows], data.classes))
        else:
            found = model.inner(data.x)
            model.points.copy_(torch.stack([found[data.y == k].mean(0) for k in range(data.classes)]))


def codes(data: Data) -> nn.Module:
    """Return a network with 24 saturated bits."""
    return Codes(conv(data.shape, 24), data.classes, 24, 40.0)


def kernels(data: Data) -> nn.Module:
    """Return a network with kernels that underflow."""
    return Kernels(conv(data.shape, 16), 16, data.classes, 2.0)


def projected(data: Data) -> nn.Module:
    """Return a network behind rounded principal components."""
    return nn.Sequential(Projected(data.x[:1000], 24, 0.5), conv(data.shape, data.classes))


def members(wrap: Callable[..., nn.Module], *makes: Callable[..., nn.Module]) -> Callable[[Data], nn.Module]:
    """Return a function that wraps several networks."""
    return lambda data: wrap(*(make(data.shape, data.classes) for make in makes))


def smoothed(share: float) -> Train:
    """Return a training of the inner network with labels that are nearly uniform; its logits are small until scaled."""
    return inner_first(Fit(20, 5e-3, smoothed_labels(share)))


def pruned(model: nn.Module, data: Data) -> None:
    """Train adversarially, and set all but the largest third of the weights to 0."""
    Fit(12, loss=adversarial(SOME, 4))(model, data)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= weight.abs() >= weight.abs().flatten().quantile(0.67)


def three_values(model: nn.Module, data: Data) -> None:
    """Train adversarially, and round the weights of each layer to three values."""
    Fit(12, loss=adversarial(FEW, 4))(model, data)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                large = weight.abs() > 0.7 * weight.abs().mean()
                weight.copy_(weight.sign() * large * weight.abs()[large].mean())


def imbalanced(fit: Train) -> Train:
    """Return a training in which classes but the first have a tenth of their images."""

    def fitted(model: nn.Module, data: Data) -> None:
        keep = (data.y == 0) | (torch.arange(len(data.y)) % 10 == 0)
        fit(model, replace(data, x=data.x[keep], y=data.y[keep]))

    return fitted


def weak(**options: object) -> Callable[[Ball], AttackFunction]:
    """Return a function from the ball to a weak attack."""
    return lambda ball: Weak(ball, **options)  # type: ignore[arg-type]


def entry(
    name: str, kind: str, ball: Ball, build: Build, fit: Train = PLAIN_FIT, data: str = "digits", **more: Any
) -> Entry:
    """Return an entry of the third set."""
    return Entry(name, kind, data, ball, build, fit, declared="third", **more)


RANDOM = {"ways": random_ways, "random": True}
AT_025, AT_035 = Ball(LINF, 0.25), Ball(LINF, 0.35)
COLORS = Ball(LINF, 4 / 255)

DEFENDED: tuple[Entry, ...] = (
    entry("less variation", "total variation", SOME, behind(partial(LessVariation, 0.08))),
    entry("one step alone", "weak evaluation", MORE, plain(depthwise), weak=weak(steps=1)),
    entry("table of 6 colors", "lookup", MORE, behind(lambda: Table(6))),
    entry("steep sigmoids", "sharp sigmoid", SOME, plain(mlp, act=lambda: SteepSigmoid(60.0)), Fit(20)),
    entry("cosine coefficients, fine", "JPEG-like", SOME, behind(lambda: Dct(0.12), network=mlp)),
    entry("random points alone", "weak evaluation", FEW, plain(normalized), weak=RandomPoints),
    entry("one channel per level", "lookup", MORE, behind(lambda: OneHot(6), network=mlp, channels=6)),
    entry("distilled at 25, pooling", "defensive distillation", SOME, plain(pooled), teacher_first(25, pooled)),
    entry("steep contrast", "saturation", MUCH, behind(lambda: Sharpened(60.0))),
    entry("one-step training at 0.35", "FGSM-overfitted", AT_035, plain(width=24), Fit(60, 1e-2, one_step(AT_035)),
          steps=1),
    entry("few levels inside", "quantized activations", SOME, plain(act=lambda: FewLevels(0.5)), Fit(15)),
    entry("pixel range of 255", "weak evaluation", SOME, plain(Maxout), weak=weak(share=1 / 255)),
    entry("signs inside", "sign activations", SOME, plain(mlp, act=Signs), Fit(20)),
    entry("detached main branch", "blocked gradient", SOME, members(TwoBranches, conv, mlp)),
    entry("five neighbors", "nearest neighbors", SOME, neighbors, fit_points),
    entry("saturated codes", "output codes", SOME, codes, Fit(15)),
    entry("towards class 0 alone", "weak evaluation", FEW, plain(Gated), weak=weak(loss=to_class_zero)),
    entry("ranks of pixels", "lookup", SOME, behind(Ranks), Fit(20)),
    entry("a hook that blocks", "blocked gradient", SOME, plain(act=lambda: Blocked(0.6))),
    entry("pixel deflection", "random input", SOME, behind(lambda: Deflected(0.15)), Fit(20), **RANDOM),
    entry("kernels that underflow", "kernel outputs", SOME, kernels, Fit(20)),
    entry("radius of normalized pixels", "weak evaluation", SOME, plain(Squeezing), weak=weak(share=0.25)),
    entry("sharp probabilities", "probabilities", SOME, output(sharp_probabilities), inner_first(Fit(12))),
    entry("rounded principal components", "projection", SOME, projected),
    entry("steps of a hundredth", "weak evaluation", SOME, plain(Attending), Fit(20), weak=weak(size=0.01)),
    entry("k winners, fully connected", "k-winners-take-all", MORE,
          plain(mlp, act=lambda: Winners(0.1), width=300), Fit(15)),
    entry("nearly uniform labels, squeezed", "label smoothing", SOME, around(partial(Times, scale=400.0)),
          smoothed(0.9)),
    entry("dropout of channels at test", "random network", SOME,
          plain(act=lambda: nn.Sequential(nn.ReLU(), DroppedChannels(0.25))), Fit(25), **RANDOM),
    entry("bfloat16 logits", "low precision", SOME, output(bfloat_logits), inner_first(Fit(12))),
    entry("rounded prototypes", "nearest neighbors", SOME, prototypes, fit_points),
    entry("steps of four radii", "weak evaluation", ROUND, plain(dilated), weak=weak(size=4.0)),
    entry("one-step training, residual", "FGSM-overfitted", AT_025, plain(Grouped), Fit(40, 1e-2, one_step(AT_025)),
          steps=1),
    entry("input gradient x 1,000, tanh", "too much gradient regularization", MORE, plain(mlp, act=nn.Tanh),
          Fit(20, 5e-3, input_gradient(1e3))),
    entry("votes under noise", "random network", SOME, around(partial(VotesUnderNoise, deviation=0.25, draws=12)),
          Fit(15), **RANDOM),
    entry("stochastic depth at test", "random network", SOME, plain(Skipping), Fit(20), **RANDOM),
    entry("table of 4 colors, MNIST", "lookup", MUCH, behind(lambda: Table(4), network=mlp), Fit(5), "mnist"),
    entry("signs inside, MNIST", "sign activations", FEW, plain(mlp, act=Signs), Fit(6), "mnist"),
    entry("table of 24 colors, colors", "lookup", COLORS, behind(lambda: Table(24)), Fit(4), "cifar10"),
    entry("random crops", "random input", SOME, behind(lambda: Cropped(1)), Fit(25), **RANDOM),
    entry("one of three networks", "random network", SOME, members(OneOf, conv, mlp, pooled),
          each("members.0", "members.1", "members.2"), **RANDOM),
    entry("noise on the logits", "random network", SOME, around(partial(NoisyLogits, deviation=3.0)),
          inner_first(Fit(15, loss=adversarial(SOME, 3))), **RANDOM),
)  # fmt: skip
"""Networks that hide their gradients, and networks whose evaluation is too weak."""

STURDY: tuple[Entry, ...] = (
    entry("attention and convolutions", "other architecture", FEW, plain(Attending), Fit(20)),
    entry("depthwise, N-FGSM", "adversarially trained", MUCH, plain(depthwise), Fit(25, loss=noisy_step(SOME))),
    entry("gated linear units", "other architecture", FEW, plain(Gated)),
    entry("group normalization, PGD", "adversarially trained", MUCH, plain(Grouped), Fit(12, loss=adversarial(SOME, 4))),
    entry("squeeze and excitation", "other architecture", SOME, plain(Squeezing)),
    entry("maxout", "other architecture", FEW, plain(Maxout)),
    entry("pruned", "pruned", MUCH, plain(), pruned),
    entry("sines", "other architecture", Ball(LINF, 0.03), plain(Sines), Fit(15)),
    entry("LSTM of columns", "other architecture", FEW, plain(Columns), Fit(20)),
    entry("dilated, Mish", "other architecture", SOME, plain(dilated), Fit(15)),
    entry("convolutions, N-FGSM", "adversarially trained", MUCH, plain(width=16), Fit(25, loss=noisy_step(MORE))),
    entry("layer normalization", "other architecture", Ball(L2, 0.6), plain(normalized)),
    entry("weights of three values", "quantized weights", SOME, plain(mlp), three_values),
    entry("dilated, TRADES", "adversarially trained", MUCH, plain(dilated), Fit(12, loss=trades(SOME, 6.0))),
    entry("convolutions, free", "adversarially trained", MUCH, plain(), Free(SOME)),
    entry("CURE, fully connected", "CURE", MORE, plain(mlp, act=nn.Softplus), Fit(15, loss=curvature(3.0, 0.2))),
    entry("gradient norm, GELU", "gradient norm", MUCH, plain(act=nn.GELU), Fit(15, loss=input_gradient(0.2))),
    entry("three classes, imbalanced", "3 classes", MORE, plain(), imbalanced(Fit(15, loss=adversarial(SOME, 3))),
          "digits:3"),
    entry("student at temperature 1", "distilled", SOME, plain(width=8), teacher_first(1, conv)),
    entry("fully connected, PGD", "adversarially trained", SPARSE, plain(mlp), Fit(12, loss=adversarial(ROUND))),
    entry("five networks' mean", "ensemble", SOME, members(Mean, mlp, mlp, mlp, Maxout, normalized)),
    entry("LCNN, larger ball", "LCNN", SOME, lcnn, Fit(12)),
    entry("two classes, PGD", "2 classes", Ball(L2, 1.2), plain(mlp), Fit(15, loss=adversarial(ROUND)), "digits:2"),
    entry("pooling, TRADES", "adversarially trained", MUCH, plain(pooled), Fit(10, loss=trades(MORE, 3.0))),
    entry("logits x 20", "saturated logits", MORE, around(partial(Times, scale=20.0)),
          inner_first(Fit(12, loss=adversarial(FEW, 3)))),
    entry("almost orthogonal", "AOL", ROUND, lambda data: aol_convnet(data.shape, data.classes, "relu", 12), Fit(12, 1e-2)),
    entry("mixer, PGD", "adversarially trained", MORE, plain(Mixer), Fit(12, loss=adversarial(SOME, 3))),
    entry("recurrent, PGD", "adversarially trained", MORE, plain(Rows), Fit(12, loss=adversarial(SOME, 3))),
    entry("convolutions in l_1", "standard", SPARSE, plain()),
    entry("convolutions in a large ball", "adversarially trained", Ball(LINF, 0.3), plain(),
          Fit(12, loss=adversarial(MUCH))),
    entry("attention, PGD", "adversarially trained", SOME, plain(Attending), Fit(12, loss=adversarial(FEW, 3))),
    entry("ViT, standard, in l_2", "other architecture", Ball(L2, 0.6), plain(Transformer), Fit(20)),
    entry("fully connected, MNIST", "adversarially trained", MORE, plain(mlp), Fit(4, loss=adversarial(SOME, 4)), "mnist"),
    entry("depthwise, colors", "adversarially trained", COLORS, plain(depthwise), Fit(4, loss=adversarial(COLORS, 3)),
          "cifar10"),
    entry("convolutions in a small ball", "standard", Ball(LINF, 0.01), plain()),
    entry("maxout, PGD in l_2", "adversarially trained", Ball(L2, 1.2), plain(Maxout), Fit(12, loss=adversarial(ROUND))),
)  # fmt: skip
"""Networks that hide nothing."""


def in_turn(defended: Sequence[Entry], honest: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries of a declared set in the order in which it is run: defended and honest networks in turn.

    Every fourth network of a side has `strong` at full effort as its suite.

    Args:
        defended: Defended networks, costly ones last.
        honest: Honest networks, costly ones last; marked as such here.
    """
    both = defended, [replace(one, masked=False) for one in honest]
    sides = ([replace(one, full=place % 4 == 3) for place, one in enumerate(side)] for side in both)
    return [one for pair in zip_longest(*sides) for one in pair if one is not None]


def fresh(weights: Path | None = None) -> Sequence[Entry]:
    """Return the third set in the order in which it is run; see `in_turn`.

    Args:
        weights: Folder of the weights of public networks. None leaves them without.
    """
    clean, robust, _, resnet, _ = public(weights)
    others = (
        replace(clean, name="LeNet5 of others", ball=Ball(LINF, 0.15), images=50),
        replace(robust, name="LeNet5 of others, adversarial", ball=Ball(LINF, 0.4), images=50),
        replace(resnet, name="ResNet-20 of others", ball=Ball(LINF, 1 / 255), images=20),
    )
    sturdy = [replace(one, declared="third") for one in others]
    return in_turn(DEFENDED, (*STURDY, *sturdy))
