"""Small trainings in tests: networks and examples, one objective a member, and what interrupts them."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowcurve.analysis.norms import L1, LINF, Ball
from lowcurve.attacks import FGSM, PGD, SORA
from lowcurve.data import Augmentation, Examples
from lowcurve.losses import margin
from lowcurve.models import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm2d, LipschitzConv2d, LipschitzLinear, prepare_norms
from lowcurve.penalties import (
    CURE,
    ELLE,
    LLR,
    TRADES,
    AdaptiveWeight,
    Distillation,
    GradAlign,
    InputGradientNorm,
    LCNNPenalty,
)
from lowcurve.randomness import stream, temporary_seed
from lowcurve.training import Hardware, History, Objective, Optimization, Schedule, Term, fit, make_fabric

SCRIPT = Path(__file__).with_name("training_process.py")
CPU = Hardware(accelerator="cpu")
NEAR = Ball(LINF, 0.1)


def examples(count: int = 40) -> Examples:
    """Random images whose label is written in their brightness."""
    y = torch.randint(0, 3, (count,), generator=stream(0, "labels"))
    x = torch.rand(count, 1, 6, 6, generator=stream(0, "images")) * 0.5 + y.view(-1, 1, 1, 1) / 6
    return Examples(x, y, ("a", "b", "c"))


def difficult_network() -> nn.Sequential:
    """One with everything that makes an exact resume hard: BatchNorm's running statistics and dropout's draws."""
    with temporary_seed(0, "network"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Softplus(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(144, 3),
        )


def plain_network(seed: int = 1) -> nn.Sequential:
    with temporary_seed(seed, "network"):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(144, 3))


def low_curvature_network(batchnorm: bool = True) -> nn.Sequential:
    """One of LCNN's layers, each of which clips; without BatchNorm several processes take the steps of one."""
    with temporary_seed(3, "network"):
        conv, last = nn.Conv2d(1, 4, 3, padding=1), LipschitzConv2d(4, 4, 3, gamma=1.1, learn=True)
        first = [conv, LipschitzBatchNorm2d(conv, gamma=1.1)] if batchnorm else [LipschitzConv2d.of(conv, learn=True)]
        head = LipschitzLinear(64, 3, clips=False)
        model = nn.Sequential(*first, CenteredSoftplus(), last, CenteredSoftplus(2.0), nn.Flatten(), head)
    prepare_norms(model, torch.zeros(1, 1, 6, 6))
    return model


def teacher(x: torch.Tensor) -> torch.Tensor:
    """Another network's logits, wherever and in whatever precision."""
    return copy.deepcopy(OTHER).to(x)(x)


OTHER = plain_network(2).requires_grad_(False)


def penalized(penalty: Any, weight: float | AdaptiveWeight = 1.0, every: int = 1, **words: Any) -> Objective:
    return Objective(penalties={"it": Term(penalty, weight, every=every)}, **words)


EAGER = AdaptiveWeight(weight=1000.0, deviations=0.0, patience=1, current=500.0)
FROZEN: Any = {"statistics": "frozen"}

# What a training can minimize; each is held to an exact resume and to the gradients of one process.
MEMBERS = {
    "plain": Objective(),
    "PGD": Objective(attack=PGD(NEAR, steps=2)),
    "SORA": Objective(attack=SORA(NEAR)),
    "CURE": penalized(CURE(h=0.5)),
    "CURE, detached": penalized(CURE(h=0.5, differentiation="detached")),
    "CURE, first order": penalized(CURE(h=0.5, differentiation="first_order"), **FROZEN),
    "CURE, secant": penalized(CURE(h=0.5, differentiation="secant", step=0.1), **FROZEN),
    "l_2 gradient norm": penalized(InputGradientNorm()),
    "l_1 gradient norm": penalized(InputGradientNorm(L1, squared=False)),
    "gradient norm of the margin": penalized(InputGradientNorm(of=margin)),
    "gradient norm, first order": penalized(InputGradientNorm(L1, differentiation="first_order"), **FROZEN),
    "LLR": penalized(LLR(NEAR, steps=2)),
    "LLR, first order": penalized(LLR(NEAR, steps=2, differentiation="first_order"), **FROZEN),
    "GradAlign": penalized(GradAlign(0.1)),
    "ELLE": penalized(ELLE(0.5), 100.0),
    "ELLE-A": penalized(ELLE(0.5), EAGER),
    "TRADES": penalized(TRADES(NEAR, steps=2)),
    "distillation alone": penalized(Distillation(teacher, 2.0), loss_weight=0.0),
    "CURE at every second step": penalized(CURE(h=0.5), every=2),
    "FGSM, GradAlign at the clean inputs": penalized(GradAlign(0.1), attack=FGSM(NEAR)),
    "PGD, CURE at the attacked inputs": penalized(CURE(h=0.5), attack=PGD(NEAR, steps=2), penalties_at="attacked"),
    "several": Objective(
        attack=FGSM(NEAR),
        penalties={
            "curvature": Term(CURE(h=0.5), 0.5, scale_schedule=Schedule(start=0.2, until=0.5)),
            "slope": Term(InputGradientNorm(), 0.1, every=2),
            "chords": Term(ELLE(0.5), EAGER),
            "lesson": Term(Distillation(teacher, 1.0), 0.5),
        },
        loss_schedule=Schedule(start=0.5),
    ),
}

# What needs a network of its own.
LOW_CURVATURE = {
    "LCNN": penalized(LCNNPenalty(0.03, 0.01)),
    "LCNN, gradient norm": Objective(
        penalties={"it": Term(LCNNPenalty(0.03, 0.01), 1.0), "slope": Term(InputGradientNorm(), 0.5)}
    ),
    "PGD, LCNN": penalized(LCNNPenalty(0.03, 0.01), attack=PGD(NEAR, steps=2)),
}

FEW = examples()
QUICK = Optimization(epochs=2, batch_size=8, learning_rate=1e-2)


def trained(objective=None, optimization=QUICK, model=None, examples=FEW, **options) -> tuple[nn.Module, History]:
    model = plain_network() if model is None else model
    made = options.pop("fabric", None) or make_fabric(CPU)
    history = fit(model, objective or Objective(), examples, optimization, fabric=made, **options)
    return model, history


def difficult_training(model: nn.Module, **options) -> History:
    """Four epochs of five steps, a checkpoint every two steps, and everything that has a state: an average of the weights,
    a weight that follows its penalty, the best weights by robust accuracy."""
    curvature = Term(CURE(h=0.5), 2.0, scale_schedule=Schedule(start=0.2, until=0.5))
    objective = Objective(penalties={"curvature": curvature, "chords": Term(ELLE(0.5), EAGER)})
    optimization = Optimization(
        epochs=4,
        batch_size=8,
        learning_rate=1e-2,
        average=0.8,
        gradient_clipping=1.0,
        augmentation=Augmentation(1, True),
        keep="best",
    )
    return fit(
        model, objective, FEW, optimization, seed=9, fabric=make_fabric(CPU), validation=FEW.take(slice(15)),
        validation_attack=FGSM(NEAR), checkpoint_every=2, **options,
    )  # fmt: skip


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Memory:
    """A checkpoint in memory, copied as a disk would."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def save(self, state) -> None:
        self.states.append(copy.deepcopy(dict(state)))

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.states[-1]) if self.states else None


class Stopped(Exception):
    pass


def stopping(before: int) -> Callable[[Iterable[int], str], Iterator[int]]:
    """A progress that ends the training by an exception."""

    def progress(steps, _heading):
        for step in steps:
            if step == before:
                raise Stopped
            yield step

    return progress


def child(*words: object, timeout: float = 120) -> subprocess.CompletedProcess:
    """training_process.py with these words."""
    hidden = ("MASTER_PORT", "MASTER_ADDR", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
