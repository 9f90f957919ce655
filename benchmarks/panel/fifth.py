"""The fifth set of the panel: gradients that are wrong in part of a network, and architectures that no other set has.

It was committed before its first audit, for the audit in which test 4 compares gradients with differences, and which does not
repeat what the default suite tried. All entries have the default `strong` as their suite. The protocol, the scoring and all
thresholds are those of the third and fourth set; that of the new part of test 4 was set on the tuning half.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowcurve.analysis.norms import L1, L2, LINF, Ball
from panel.data import Data
from panel.entries import Build, Entry, Train
from panel.fifth_networks import (
    Changed,
    Cosines,
    Dense,
    Distances,
    Elsewhere,
    Equals,
    Experts,
    Fourier,
    HalfDetached,
    Highway,
    MeanToken,
    Modern,
    Parallel,
    RoundedMain,
    SquaredReLU,
    Sure,
    Unseen,
    activated,
)
from panel.fresh import PLAIN_FIT, depthwise, in_turn, members, weak
from panel.fresh_networks import Maxout
from panel.honest import public
from panel.masked import behind, inner_first, plain
from panel.networks import Times, conv, mlp, pooled
from panel.training import Fit, adversarial, curvature, input_gradient, noisy_step, smoothed_labels, trades

IMAGES = 60
"""Images of an honest entry."""
SMALL, SOME, MORE, MUCH = (Ball(LINF, radius) for radius in (0.06, 0.11, 0.14, 0.2))
FLAT, ROUND, WIDE = (Ball(L2, radius) for radius in (0.4, 0.6, 0.9))
ONE, THREE, SIX = (Ball(L1, radius) for radius in (1.5, 3.0, 6.0))


def entry(
    name: str, kind: str, ball: Ball, build: Build, fit: Train = PLAIN_FIT, data: str = "digits", **more: Any
) -> Entry:
    """Return an entry of the fifth set."""
    return Entry(name, kind, data, ball, build, fit, declared="fifth", **more)


def bits(count: int, ball: Ball) -> Train:
    """Return an adversarial training after which the weights of each layer are rounded to `count` bits."""

    def fitted(model: nn.Module, data: Data) -> None:
        Fit(12, loss=adversarial(ball, 4))(model, data)
        with torch.no_grad():
            for weight in model.parameters():
                step = weight.abs().max() / (2 ** (count - 1) - 1)
                weight.copy_((weight / step).round() * step)

    return fitted


def with_features(wrap: type[nn.Module], features: int = 32) -> Build:
    """Return a function that compares features of a convolutional network with a point for each class."""
    return lambda data: wrap(conv(data.shape, features), features, data.classes)


def mixed_up(layer: nn.Module) -> Build:
    """Return a function that puts a layer with a wrong gradient behind the first convolution."""

    def build(data: Data) -> nn.Module:
        model = conv(data.shape, data.classes)
        return nn.Sequential(*model[:3], layer, *model[3:])

    return build


DEFENDED: tuple[Entry, ...] = (
    entry("equal branches, convolutions", "detached branch", SOME, members(Equals, conv, conv)),
    entry("equal branches, pooling and layers", "detached branch", ROUND, members(Equals, pooled, mlp)),
    entry("equal branches, depthwise", "detached branch", THREE, members(Equals, depthwise, mlp)),
    entry("descent in place of ascent", "weak evaluation", SOME, plain(act=nn.GELU), Fit(12, loss=adversarial(SMALL, 3)),
          weak=weak(size=-0.125)),
    entry("channels of a gradient reversed", "wrong custom gradient", SOME, mixed_up(Changed(lambda g: g.flip(1)))),
    entry("signs of a gradient shifted", "wrong custom gradient", ROUND,
          mixed_up(Changed(lambda g: g.sign().roll(3, 3)))),
    entry("residual bodies without a gradient", "blocked gradient", SOME, plain(Unseen)),
    entry("another network's gradient", "weak evaluation", WIDE, plain(pooled), weak=Elsewhere),
    entry("left pixels detached", "blocked gradient", MORE, behind(HalfDetached), Fit(12, loss=adversarial(SMALL, 3))),
    entry("detached where it is sure", "input-dependent branch", ROUND, members(Sure, conv, mlp)),
    entry("five levels beside a faint branch", "quantized input", SOME, members(RoundedMain, conv, mlp)),
    entry("a gradient with a constant", "wrong custom gradient", THREE,
          mixed_up(Changed(lambda g: g + 2 * g.abs().amax()))),
)  # fmt: skip
"""Networks whose gradients are wrong in part, and evaluations that are too weak."""

STURDY: tuple[Entry, ...] = (
    entry("sizes in parallel", "other architecture", SOME, plain(Parallel)),
    entry("dense convolutions", "other architecture", ROUND, plain(Dense)),
    entry("gates between layers", "other architecture", THREE, plain(Highway), Fit(15)),
    entry("depthwise with layer normalization", "other architecture", SMALL, plain(Modern), Fit(20)),
    entry("squared ReLU", "other architecture", FLAT, plain(mlp, act=SquaredReLU)),
    entry("PReLU, instance normalization", "other architecture", ONE, plain(activated, act=nn.PReLU)),
    entry("SELU, PGD", "adversarially trained", MORE, plain(mlp, act=nn.SELU), Fit(12, loss=adversarial(SOME, 4))),
    entry("hard swish, PGD in l_2", "adversarially trained", WIDE, plain(activated, act=nn.Hardswish),
          Fit(12, loss=adversarial(ROUND, 4))),
    entry("dense, PGD in l_1", "adversarially trained", SIX, plain(Dense), Fit(12, loss=adversarial(THREE, 4))),
    entry("cosine classifier", "other architecture", SOME, with_features(Cosines)),
    entry("distances to centers", "other architecture", ROUND, with_features(Distances), Fit(15)),
    entry("Fourier mixing", "other architecture", ONE, plain(Fourier), Fit(20)),
    entry("mean of tokens", "other architecture", SMALL, plain(MeanToken), Fit(25)),
    entry("mean of tokens, PGD", "adversarially trained", FLAT, plain(MeanToken), Fit(15, loss=adversarial(FLAT, 3))),
    entry("experts", "other architecture", THREE, plain(Experts)),
    entry("parallel, TRADES", "adversarially trained", MUCH, plain(Parallel), Fit(12, loss=trades(SOME, 6.0))),
    entry("weights of 8 bits", "quantized weights", WIDE, plain(pooled), bits(8, ROUND)),
    entry("weights of 3 bits", "quantized weights", THREE, plain(mlp, width=200), bits(3, ONE)),
    entry("CURE, SiLU", "CURE", SOME, plain(activated, act=nn.SiLU), Fit(12, loss=curvature(3.0, 0.2))),
    entry("gradient norm, GELU layers", "gradient norm", ROUND, plain(mlp, act=nn.GELU), Fit(12, loss=input_gradient(0.2))),
    entry("random weights, parallel", "randomly initialized", SMALL, plain(Parallel), None),
    entry("random weights, transformer", "randomly initialized", FLAT, plain(MeanToken), None),
    entry("eight narrow layers", "standard", SMALL, plain(mlp, width=40, depth=8), Fit(20)),
    entry("one wide layer", "standard", FLAT, plain(mlp, width=600, depth=1)),
    entry("average pooling, tanh", "standard", ONE, plain(activated, act=nn.Tanh), Fit(15)),
    entry("smoothed labels, transformer", "standard", SMALL, plain(MeanToken), Fit(20, loss=smoothed_labels(0.2))),
    entry("logits / 1,000", "tiny logits", ROUND, lambda data: Times(pooled(data.shape, data.classes), 1e-3),
          inner_first(Fit(12))),
    entry("logits x 12, ELU", "saturated logits", SMALL,
          lambda data: Times(mlp(data.shape, data.classes, act=nn.ELU), 12.0), inner_first(Fit(12))),
    entry("five classes, N-FGSM", "5 classes", MUCH, plain(depthwise), Fit(20, loss=noisy_step(MORE)), "digits:5"),
    entry("parity, experts", "2 classes", WIDE, plain(Experts), Fit(15), "digits:2"),
    entry("three kinds, maxout, in l_1", "3 classes", THREE, plain(Maxout), Fit(15), "digits:3"),
    entry("dense, MNIST", "standard", SMALL, plain(Dense), Fit(3), "mnist"),
    entry("wide layers, PGD, MNIST", "adversarially trained", Ball(L2, 1.2), plain(mlp, width=200),
          Fit(4, loss=adversarial(Ball(L2, 1.0), 4)), "mnist"),
    entry("gates, colors", "standard", Ball(LINF, 2 / 255), plain(Highway), Fit(4), "cifar10"),
)  # fmt: skip
"""Networks that hide nothing."""


def fifth(weights: Path | None = None) -> Sequence[Entry]:
    """Return the fifth set in the order in which it is run, defended and honest networks in turn.

    Args:
        weights: Folder of the weights of public networks. None leaves them without.
    """
    clean, robust, _, resnet, _ = public(weights)
    others = (
        replace(clean, name="LeNet5 of others, in l_1", ball=Ball(L1, 4), images=30, declared="fifth"),
        replace(robust, name="LeNet5 of others, adversarial, in l_2", ball=Ball(L2, 1.0), images=20, declared="fifth"),
        replace(resnet, name="ResNet-20 of others, in l_2", ball=Ball(L2, 0.5), images=30, declared="fifth"),
    )
    sturdy = [replace(one, images=min(IMAGES, one.images)) for one in (*STURDY, *others)]
    return [replace(one, full=True) for one in in_turn(DEFENDED, sturdy)]
