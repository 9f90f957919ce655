"""What the tests of training run in processes of their own: a training that kills itself, and work shared by two processes.

python training_process.py resume FOLDER STEP   train from FOLDER/checkpoint.pt on; SIGKILL before step STEP (-1: never)
python training_process.py share FOLDER         take a step of every member in two processes, gradients to FOLDER
python training_process.py attack FOLDER        attack and measure in two processes, what was found to FOLDER
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faulty_networks import Dropped
from lightning_fabric import Fabric
from torch import Tensor, nn
from trainings import (
    EAGER,
    LOW_CURVATURE,
    MEMBERS,
    difficult_network,
    difficult_training,
    examples,
    low_curvature_network,
    penalized,
    plain_network,
)

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import PGD, Square, Suite
from lowcurve.evaluation.audit import Budget, audit
from lowcurve.geometry import Curvature, CurvatureProfile
from lowcurve.penalties import ELLE
from lowcurve.store import DiskCheckpoint
from lowcurve.training import Hardware, History, Objective, Optimization, Schedule, fit, make_fabric

DOUBLE = Hardware(accelerator="cpu", precision="64-true")
ONE_EPOCH = Optimization(epochs=1, batch_size=16)


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


def gradients(made: Fabric, objective: Objective) -> dict[str, Tensor]:
    """The gradient of one step, of every parameter: what plain descent at a learning rate of 1 takes away. That of the
    penalties alone, if there are any."""
    if objective.penalties:
        objective = replace(objective, loss_weight=0.0)
    model = plain_network().double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = Optimization(
        epochs=1, batch_size=16, optimizer="sgd", learning_rate=1.0, learning_rate_schedule=Schedule(), momentum=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    fit(model, objective, examples(16), settings, seed=3, fabric=made)
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


def course(made: Fabric, model: nn.Module, objective: Objective) -> tuple[History, dict[str, Tensor]]:
    """Several epochs, with an average, validated on a number of examples that two processes cannot share evenly."""
    settings = Optimization(epochs=10, batch_size=16, learning_rate=0.03, average=0.5)
    whole, attack = examples(41), PGD(Ball(LINF, 0.05), steps=2)
    history = fit(model, objective, whole, settings, seed=3, fabric=made, validation=whole, validation_attack=attack)
    return history, model.state_dict()


def share(made: Fabric, folder: Path) -> None:
    found = {
        "gradients": {name: gradients(made, objective) for name, objective in MEMBERS.items()},
        "course": course(made, plain_network(), penalized(ELLE(0.5), EAGER)),
        "low curvature": {
            name: course(made, low_curvature_network(batchnorm=False), objective)
            for name, objective in LOW_CURVATURE.items()
        },
        "statistics": course(made, difficult_network(), Objective())[1],
    }
    torch.save(found, folder / f"rank-{made.global_rank}.pt")
    end_group()


def attacked(made: Fabric | None, count: int = 41) -> evaluation.AttackResult:
    """A suite over a number of examples that two processes cannot share evenly."""
    few = Suite((("PGD", PGD(Ball(L2, 0.3), steps=5)), ("Square", Square(Ball(L2, 0.3), queries=20))))
    return evaluation.attack(plain_network().double().eval(), examples(count), few, fabric=made)


def measured(made: Fabric | None, count: int = 41) -> dict[str, Any]:
    """A measure with two axes and one of several columns, over a number of examples that cannot be shared evenly."""
    measures = {"profile": CurvatureProfile(), "curvature": Curvature()}
    return evaluation.measure(plain_network().double().eval(), examples(count), measures, batch_size=16, fabric=made)


def transferred(made: Fabric | None) -> np.ndarray:
    """What PGD on each of two networks does to both."""
    models = {str(seed): plain_network(seed).double().eval() for seed in (0, 1)}
    return evaluation.transfer(models, examples(41), PGD(Ball(L2, 0.3), steps=3), fabric=made)


def audited(made: Fabric | None, *, random: bool = False) -> list[tuple[int, str, str]]:
    """What each test of the audit says of a network, or of one that drops at random."""
    model = plain_network().double().eval()
    budget = Budget(
        steps=5, restarts=2, landscape_images=10, neighbors=5, apgd_steps=5, queries=20, noise_draws=20, spsa_steps=3,
        spsa_draws=4, spsa_images=9, long_steps=8,
    )  # fmt: skip
    found = audit(Dropped(model) if random else model, examples(41), Ball(L2, 0.1), budget=budget, fabric=made)
    return [(finding.number, finding.outcome, finding.evidence) for finding in found.findings]


def attack(made: Fabric, folder: Path) -> None:
    found = attacked(made)
    columns = {
        "inputs": found.inputs,
        "forward_passes": torch.from_numpy(found.forward_passes),
        "fallen to": list(map(str, found.fooled_by)),
        "transferred": torch.from_numpy(transferred(made)),
        "audited": [audited(made), audited(made, random=True)],
        "measured": {name: torch.from_numpy(values) for name, values in measured(made).items()},
        "one image": torch.from_numpy(attacked(made, 1).forward_passes),
        "one image's curvature": torch.from_numpy(measured(made, 1)["Hessian norm"]),
        "validated on one": fit(
            plain_network(), Objective(), examples(16), ONE_EPOCH, fabric=made, validation=examples(1)
        ),
    }
    torch.save(columns, folder / f"rank-{made.global_rank}.pt")
    end_group()


def end_group() -> None:
    """End the group of processes. A process that ends while torch's threads of the group run may abort."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def pair(precision: str) -> Fabric:
    return make_fabric(Hardware(accelerator="cpu", devices=2, strategy="ddp_spawn", precision=precision))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "resume":
        resume(folder, int(sys.argv[3]))
    elif sys.argv[1] == "share":
        pair("64-true").launch(share, folder)
    else:
        pair("32-true").launch(attack, folder)
