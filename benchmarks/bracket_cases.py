"""Networks of the bracket: public ones, those that come with the package, and fresh ones that are trained once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import lowcurve as lc
from lowcurve.data import DataSet, Examples, Limits, load
from lowcurve.examples.public_networks import lenet5, resnet20
from lowcurve.randomness import stream
from lowcurve.store import load_weights
from lowcurve.training import Schedule

RADII = {
    "digits": {"linf": 0.125, "l2": 0.75, "l1": 3.0},
    "mnist": {"linf": 0.3, "l2": 1.5, "l1": 10.0},
    "cifar10": {"linf": 8 / 255, "l2": 0.5, "l1": 12.0},
}
"""Radius of each data set and norm; the literature's for mnist and cifar10."""
PUBLIC = {
    "LeNet5": (lenet5, "mnist_lenet5_clntrained.pt", "mnist", {"linf": 0.1}),
    "LeNet5 adv.": (lenet5, "mnist_lenet5_advtrained.pt", "mnist", {}),
    "ResNet-20": (resnet20, "resnet20-12fca82f.th", "cifar10", {}),
}
"""Factory, file of weights, data set, and radii that differ from the data set's."""
ZOO = {f"digits {method}": f"{method}-small-convnet-digits" for method in ("standard", "cure", "gradient-norm", "pgd")}
TRAIN = Limits(train=10_000, validation=1)


@dataclass(frozen=True)
class Case:
    """A network, its test images and a ball.

    Attributes:
        network: Name of the network.
        model: The network in eval mode.
        images: Test images with their labels.
        norm: "linf", "l2" or "l1".
        radius: Radius in pixel units.
    """

    network: str
    model: nn.Module
    images: Examples
    norm: str
    radius: float

    @property
    def correct(self) -> torch.Tensor:
        """For each image, whether the network classifies it correctly without an attack."""
        with torch.no_grad():
            return self.model(self.images.pixels(slice(None))).argmax(1) == self.images.y


def attacked_training(norm: str, radius: float, epochs: int, steps: int = 5) -> Callable[[nn.Module, DataSet], None]:
    """Return PGD training, with the radius rising over the first third."""

    def train(model: nn.Module, data: DataSet) -> None:
        schedule = Schedule(start=0.1, until=0.3)
        objective = lc.Objective(attack=lc.PGD(norm, radius, steps=steps, answer="last"), radius_schedule=schedule)
        lc.fit(model, objective, data.train, lc.Optimization(epochs=epochs, learning_rate=1e-3), progress=False)

    return train


def interval_training(radius: float, epochs: int) -> Callable[[nn.Module, DataSet], None]:
    """Return training on the interval bounds of the logits, which leaves gradients that are 0 near images.

    The layers are those of a Sequential: convolutions, linear layers, ReLU and Flatten.
    Reference: Gowal et al. 2018, section 3 (IBP).
    """

    def logits_at_worst(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
        middle, half = x, torch.full_like(x, eps)
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                half = F.conv2d(half, layer.weight.abs(), None, layer.stride, layer.padding)
            elif isinstance(layer, nn.Linear):
                half = half @ layer.weight.abs().T
            elif isinstance(layer, nn.ReLU):
                low, high = (middle - half).relu(), (middle + half).relu()
                middle, half = (low + high) / 2, (high - low) / 2
                continue
            else:
                half = layer(half)
            middle = layer(middle)
        at_label = F.one_hot(y, middle.shape[1]).bool()
        return torch.where(at_label, middle - half, middle + half)

    def train(model: nn.Module, data: DataSet) -> None:
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        generator, x, y = stream(0, "interval training"), data.train.pixels(slice(None)), data.train.y
        steps, done = epochs * (len(x) // 100), 0
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator)[: len(x) // 100 * 100].view(-1, 100):
                rise = min(max(done / steps * 2 - 0.1, 0), 1)
                clean = F.cross_entropy(model(x[rows]), y[rows])
                worst = F.cross_entropy(logits_at_worst(model, x[rows], y[rows], rise * radius), y[rows])
                optimizer.zero_grad()
                ((1 - rise / 2) * clean + rise / 2 * worst).backward()
                optimizer.step()
                done += 1

    return train


def plain_convnet(channels: int, size: int) -> nn.Sequential:
    """Return two strided convolutions and two linear layers, without normalization."""
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32 * (size // 4) ** 2, 100), nn.ReLU(), nn.Linear(100, 10))


def small_convnet(name: str, width: int) -> Callable[[DataSet], nn.Module]:
    """Return a factory of the study's convolutional network."""
    return lambda data: lc.Network(name, data.shape, len(data.classes), *data.statistics(), width=width).build(seed=0)


FRESH: dict[str, tuple[str, Callable[[DataSet], nn.Module], Callable[[nn.Module, DataSet], None], dict[str, float]]] = {
    "MNIST PGD l_2": ("mnist", small_convnet("small-convnet", 16), attacked_training("l2", 1.5, 6), {}),
    "MNIST PGD l_inf": ("mnist", small_convnet("small-convnet", 16), attacked_training("linf", 0.2, 6), {"linf": 0.2}),
    "MNIST interval": ("mnist", lambda _: plain_convnet(1, 28), interval_training(0.2, 12), {"linf": 0.2}),
    "CIFAR PGD l_inf": ("cifar10", small_convnet("small-convnet", 32), attacked_training("linf", 8 / 255, 8), {}),
    "CIFAR PGD l_2": ("cifar10", small_convnet("small-convnet", 32), attacked_training("l2", 0.5, 8), {}),
    "CIFAR interval": ("cifar10", lambda _: plain_convnet(3, 32), interval_training(8 / 255, 12), {}),
}
"""Data set, factory, training and own radii of the networks that are trained on 10,000 images if FOLDER lacks them."""
NETWORKS = (*PUBLIC, *ZOO, *FRESH)


def data_set_of(network: str) -> str:
    """Return the name of a network's data set."""
    return "digits" if network in ZOO else PUBLIC[network][2] if network in PUBLIC else FRESH[network][0]


def cases(
    networks: tuple[str, ...], norms: tuple[str, ...], examples: int, data_dir: Path, weights_dir: Path, fresh_dir: Path
) -> Iterator[Case]:
    """Yield each network with each norm; a fresh network is trained first if its folder lacks it.

    Args:
        networks: Names of the networks.
        norms: Norms of the balls.
        examples: Number of test images, the first of the test set.
        data_dir: Folder of the data's parquet files.
        weights_dir: Folder of the public weights.
        fresh_dir: Folder of the networks that are trained here.
    """
    for name in networks:
        kind, own = data_set_of(name), {}
        data = load(kind, data_dir=str(data_dir), limits=TRAIN if kind != "digits" else Limits())
        if name in ZOO:
            model = lc.load_pretrained(ZOO[name])
        elif name in PUBLIC:
            build, file, _, own = PUBLIC[name]
            model = build()
            load_weights(model, weights_dir / file)
        else:
            _, make, train, own = FRESH[name]
            model, place = make(data), fresh_dir / f"{name.replace(' ', '-')}.pt"
            if not place.exists():
                train(model, data)
                fresh_dir.mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), place)
            model.load_state_dict(torch.load(place, weights_only=True))
        for norm in norms:
            radius = own.get(norm, RADII[kind][norm])
            yield Case(name, model.eval(), data.test.take(slice(examples)), norm, radius)
