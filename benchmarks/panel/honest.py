"""Networks of the panel that hide nothing."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.examples.public_networks import lenet5, resnet20
from lowcurve.models import LCNNConversion, convert
from lowcurve.store import load_weights
from panel.data import Data
from panel.entries import PUBLIC, Entry
from panel.masked import inner_first, plain
from panel.networks import Mean, Mixer, Rows, Times, Transformer, conv, mlp, pooled, residual
from panel.training import Fit, adversarial, curvature, input_gradient, smoothed_labels, trades

FEW, SOME, MORE = Ball(LINF, 0.05), Ball(LINF, 0.1), Ball(LINF, 0.15)
HALF = Ball(L2, 0.5)


def lcnn(data: Data) -> nn.Module:
    """Return a convolutional network with centered softplus and bounded norms."""
    return convert(conv(data.shape, data.classes, norm=True), LCNNConversion(), example=data.x[:4], strict=False)


def linear(data: Data) -> nn.Module:
    """Return a linear classifier."""
    return mlp(data.shape, data.classes, depth=0)


def ensemble(data: Data) -> nn.Module:
    """Return three networks of different kinds."""
    return Mean(*(make(data.shape, data.classes) for make in (conv, mlp, residual)))


def four_bits(model: nn.Module, data: Data) -> None:
    """Train adversarially, then round the weights of each layer to 15 values."""
    Fit(15, loss=adversarial(SOME))(model, data)
    with torch.no_grad():
        for weight in model.parameters():
            step = weight.abs().max() / 7
            weight.copy_((weight / step).round() * step)


def public(weights: Path | None) -> tuple[Entry, ...]:
    """Return the entries of networks that others trained.

    Args:
        weights: Folder of their weights. None leaves them without.
    """

    def of(make, file: str):
        def build(_: Data) -> nn.Module:
            model = make()
            if weights is not None:
                load_weights(model, weights / file)
            return model

        return build

    clean, robust = of(lenet5, "mnist_lenet5_clntrained.pt"), of(lenet5, "mnist_lenet5_advtrained.pt")
    cifar = of(resnet20, "resnet20-12fca82f.th")
    return (
        Entry("public LeNet5", PUBLIC, "mnist", SOME, clean, None, masked=False),
        Entry("public LeNet5, adversarial", PUBLIC, "mnist", Ball(LINF, 0.3), robust, None, masked=False),
        Entry("public LeNet5, adversarial", PUBLIC, "mnist", Ball(L2, 1.5), robust, None, masked=False),
        Entry("public ResNet-20", PUBLIC, "cifar10", Ball(LINF, 8 / 255), cifar, None, images=50, masked=False),
        Entry("public ResNet-20", PUBLIC, "cifar10", Ball(LINF, 0.5 / 255), cifar, None, images=50, masked=False),
    )


_OWN: tuple[Entry, ...] = (
    Entry("convolutions", "standard", "digits", FEW, plain()),
    Entry("convolutions", "standard", "digits", HALF, plain()),
    Entry("tanh, fully connected", "standard", "digits", Ball(L2, 0.3), plain(mlp, act=nn.Tanh), Fit(20)),
    Entry("residual with batch normalization", "standard", "mnist", SOME, plain(residual), Fit(3)),
    Entry("linear", "standard", "mnist", FEW, linear, Fit(4)),
    Entry("sigmoid, fully connected", "standard", "mnist", FEW, plain(mlp, act=nn.Sigmoid), Fit(5)),
    Entry("GELU, colors", "standard", "cifar10", Ball(LINF, 2 / 255), plain(act=nn.GELU), Fit(6)),
    Entry("ViT", "other architecture", "digits", FEW, plain(Transformer), Fit(20)),
    Entry("ViT", "other architecture", "digits", SOME, plain(Transformer), Fit(20)),
    Entry("ViT, adversarial", "other architecture", "digits", FEW, plain(Transformer), Fit(15, loss=adversarial(FEW, 3))),
    Entry("MLP-Mixer", "other architecture", "digits", HALF, plain(Mixer), Fit(20)),
    Entry("recurrent", "other architecture", "digits", FEW, plain(Rows), Fit(20)),
    Entry("three networks' mean", "other architecture", "digits", SOME, ensemble),
    Entry("convolutions, adversarial", "adversarially trained", "digits", SOME, plain(), Fit(15, loss=adversarial(SOME))),
    Entry("convolutions, adversarial", "adversarially trained", "digits", HALF, plain(), Fit(15, loss=adversarial(SOME))),
    Entry("fully connected, adversarial in l_2", "adversarially trained", "digits", Ball(L2, 0.8), plain(mlp),
          Fit(20, loss=adversarial(Ball(L2, 0.8)))),
    Entry("pooling, adversarial", "adversarially trained", "mnist", Ball(LINF, 0.2), plain(pooled, width=8),
          Fit(6, loss=adversarial(Ball(LINF, 0.2), 4))),
    Entry("colors, adversarial", "adversarially trained", "cifar10", Ball(LINF, 4 / 255), plain(norm=True),
          Fit(6, loss=adversarial(Ball(LINF, 4 / 255), 3))),
    Entry("TRADES", "adversarially trained", "digits", MORE, plain(), Fit(20, loss=trades(MORE, 6.0, noise=0.1))),
    Entry("CURE", "CURE", "digits", HALF, plain(act=nn.Softplus), Fit(15, loss=curvature(4.0, 0.3))),
    Entry("CURE", "CURE", "digits", SOME, plain(act=nn.Softplus), Fit(15, loss=curvature(4.0, 0.3))),
    Entry("gradient norm", "gradient norm", "digits", SOME, plain(act=nn.Softplus), Fit(15, loss=input_gradient(0.3))),
    Entry("gradient norm, pooling", "gradient norm", "mnist", Ball(L2, 1.0), plain(pooled, width=8),
          Fit(4, loss=input_gradient(0.1))),
    Entry("LCNN", "LCNN", "digits", HALF, lcnn, Fit(15)),
    Entry("LCNN", "LCNN", "digits", FEW, lcnn, Fit(15)),
    Entry("odd or even", "2 classes", "digits:2", SOME, plain()),
    Entry("four classes, adversarial", "4 classes", "digits:4", SOME, plain(mlp), Fit(15, loss=adversarial(SOME))),
    Entry("pairs", "100 classes", "pairs", FEW, plain(), Fit(6)),
    Entry("pairs, adversarial", "100 classes", "pairs", FEW, plain(), Fit(6, 5e-3, adversarial(FEW, 3))),
    Entry("tiny logits", "logits x 0.0001", "digits", SOME, lambda data: Times(conv(data.shape, data.classes), 1e-4),
          inner_first(Fit(12, loss=adversarial(SOME, 3)))),
    Entry("saturated logits", "logits x 8", "digits", FEW,
          lambda data: Times(conv(data.shape, data.classes), 8.0), inner_first(Fit())),
    Entry("long training", "saturated logits", "digits", FEW, plain(mlp), Fit(80, 5e-3)),
    Entry("smoothed labels", "standard", "digits", SOME, plain(act=nn.ELU), Fit(10, loss=smoothed_labels(0.2))),
    Entry("random weights", "randomly initialized", "digits", SOME, plain(), None),
    Entry("random weights, pooling", "randomly initialized", "mnist", SOME, plain(pooled), None),
    Entry("weights of 4 bits", "quantized weights", "digits", SOME, plain(), four_bits),
)  # fmt: skip


def honest(weights: Path | None = None) -> tuple[Entry, ...]:
    """Return all honest entries."""
    return (*(replace(entry, masked=False) for entry in _OWN), *public(weights))
