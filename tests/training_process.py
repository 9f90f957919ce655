"""What the tests of training run in processes of their own: a training that kills itself, and one shared by two processes.

python training_process.py resume FOLDER STEP   train from FOLDER/checkpoint.pt on; SIGKILL before step STEP (-1: never)
python training_process.py share FOLDER         train three objectives in two processes, weights to FOLDER
python training_process.py attack FOLDER        attack and measure in two processes, what was found to FOLDER
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, Ball
from lowcurve.attacks import PGD, Square, Suite
from lowcurve.data import Augmentation, Examples
from lowcurve.geometry import Curvature, Profile
from lowcurve.penalties import CURE, InputGradientNorm
from lowcurve.randomness import isolated, stream
from lowcurve.store import DiskCheckpoint
from lowcurve.training import Hardware, History, Objective, Optimization, Schedule, Term, fabric, fit

CPU = Hardware(accelerator="cpu")
SHARED_STEPS = 3
OBJECTIVES = {
    "plain": Objective(),
    "CURE": Objective(penalties={"curvature": Term(CURE(h=0.5), 3.0)}),
    "gradient norm": Objective(penalties={"gradient norm": Term(InputGradientNorm(L2), 1.0)}),
}


def examples(count: int = 40) -> Examples:
    """Random images whose label is written in their brightness."""
    y = torch.randint(0, 3, (count,), generator=stream(0, "labels"))
    x = torch.rand(count, 1, 6, 6, generator=stream(0, "images")) * 0.5 + y.view(-1, 1, 1, 1) / 6
    return Examples(x, y, ("a", "b", "c"))


def difficult_network() -> nn.Sequential:
    """One with everything that makes an exact resume hard: BatchNorm's running statistics and dropout's draws."""
    with isolated(0, "network"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Softplus(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(144, 3),
        )


def plain_network() -> nn.Sequential:
    with isolated(1, "network"):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(144, 3))


def difficult_training(model: nn.Module, **options) -> History:
    """Four epochs of five steps, a checkpoint every two steps."""
    curvature = Term(CURE(h=0.5), 2.0, scale_schedule=Schedule(start=0.2, until=0.5))
    optimization = Optimization(
        epochs=4,
        batch_size=8,
        learning_rate=1e-2,
        average=0.8,
        gradient_clipping=1.0,
        augmentation=Augmentation(1, True),
    )
    whole = examples()
    return fit(
        model, Objective(penalties={"curvature": curvature}), whole, optimization, seed=5, fabric=fabric(CPU),
        validation=whole.take(slice(10)), checkpoint_every=2, **options,
    )  # fmt: skip


def killing(before: int, steps: Iterable[int], _heading: str) -> Iterator[int]:
    for step in steps:
        if step == before:
            os.kill(os.getpid(), signal.SIGKILL)
        yield step


def resume(folder: Path, before: int) -> None:
    model = difficult_network()
    checkpoint = DiskCheckpoint(folder / "checkpoint.pt", "difficult training")
    history = difficult_training(model, checkpoint=checkpoint, progress=partial(killing, before))
    torch.save({"weights": model.state_dict(), "history": history}, folder / "result.pt")


def shared_training(made: Fabric, objective: Objective) -> tuple[nn.Module, History]:
    model = plain_network()
    optimization = Optimization(epochs=1, batch_size=16, optimizer="sgd", learning_rate=0.5)
    history = fit(model, objective, examples(16 * SHARED_STEPS), optimization, seed=3, fabric=made)
    return model, history


def share(made: Fabric, folder: Path) -> None:
    found = {}
    for name, objective in OBJECTIVES.items():
        model, history = shared_training(made, objective)
        found[name] = {"weights": model.state_dict(), "history": history}
    torch.save(found, folder / f"rank-{made.global_rank}.pt")


def attacked(made: Fabric | None) -> evaluation.Attacked:
    """A suite over a number of examples that two processes cannot share evenly."""
    few = Suite((("PGD", PGD(Ball(L2, 0.3), steps=5)), ("Square", Square(Ball(L2, 0.3), queries=20))))
    return evaluation.attack(plain_network().double().eval(), examples(41), few, L2, fabric=made)


def measured(made: Fabric | None) -> dict[str, Any]:
    """A measure with two axes and one of several columns, over a number of examples that cannot be shared evenly."""
    measures = {"profile": Profile(), "curvature": Curvature()}
    return evaluation.measure(plain_network().double().eval(), examples(41), measures, batch_size=16, fabric=made)


def attack(made: Fabric, folder: Path) -> None:
    found = attacked(made)
    columns = {
        "inputs": found.inputs,
        "looks": torch.from_numpy(found.looks),
        "fallen to": list(map(str, found.fallen_to)),
        "measured": {name: torch.from_numpy(values) for name, values in measured(made).items()},
    }
    torch.save(columns, folder / f"rank-{made.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "resume":
        resume(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        pair = fabric(Hardware(accelerator="cpu", devices=2, strategy="ddp_spawn"))
        pair.launch({"share": share, "attack": attack}[sys.argv[1]], Path(sys.argv[2]))
