"""Compare training methods at an equal cost: the same minutes of one core of the same machine.

    python benchmarks/equal_budget.py --data-dir DIR --out FOLDER [--minutes 12] [--quick] [--json FILE]

The task is CIFAR-10 with ResNet-20 of half its width, crops and flips. One step of every method is timed in one interleaved
run, and each method gets as many steps as fit into the minutes. With one thread these are minutes of CPU time, so other
processes do not count. CURE and the gradient norms fine-tune, so half of their time goes to standard training.

Nothing is selected by results. Penalty weights are those of the literature (CURE as released, 4 at h = 3 standard deviations;
1.5 times the radius for the l_1 norm), and the last weights are evaluated. They are evaluated on the first test images: clean,
PGD-20 and PGD-20 on the margin at 8/255, with 95 % intervals.

FOLDER keeps every finished network, so an interrupted command can continue, and several commands can share the --methods.
The data directory has the parquet files of cifar10.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from lowcurve import evaluation  # noqa: E402
from lowcurve.analysis.norms import LINF, Ball, pixels  # noqa: E402
from lowcurve.attacks import PGD  # noqa: E402
from lowcurve.data import Augmentation, DataSet, Limits, load, shuffled_batches  # noqa: E402
from lowcurve.losses import margin_loss  # noqa: E402
from lowcurve.randomness import stream  # noqa: E402
from lowcurve.results import Column, Table, dump, proportion  # noqa: E402
from lowcurve.store import Run  # noqa: E402
from lowcurve.study.method_options import Cure, GradientNorm  # noqa: E402
from lowcurve.study.methods import objective_of  # noqa: E402
from lowcurve.study.pipeline import source_of  # noqa: E402
from lowcurve.study.settings import Study  # noqa: E402
from lowcurve.training import Objective, Optimization, Schedule, fit  # noqa: E402

RADIUS = pixels(8)
METHODS = {
    "standard, ReLU": ("standard", "relu"),
    "CURE, ReLU": ("CURE", "relu"),
    "CURE, softplus": ("CURE", "softplus"),
    "l_1 gradient norm, ReLU": ("gradient-norm", "relu"),
    "l_1 gradient norm, softplus": ("gradient-norm", "softplus"),
    "N-FGSM, softplus": ("N-FGSM", "softplus"),
    "PGD-7, softplus": ("PGD", "softplus"),
    "standard, softplus": ("standard", "softplus"),
}
"""The method and the nonlinearity for each name."""
ACCURACIES = ("clean", "PGD-20", "margin-PGD-20")
FINE_TUNED = ("CURE", "gradient-norm")
Row = dict[str, object]


def clock() -> float:
    """Return seconds: CPU time with one thread, otherwise wall-clock time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def study_of(nonlinearity: str, args: argparse.Namespace) -> Study:
    """Return the settings of all methods with this nonlinearity."""
    training = Optimization(
        optimizer="sgd", batch_size=128, learning_rate=0.1, weight_decay=5e-4, gradient_clipping=1.0,
        learning_rate_schedule=Schedule(end=0.0, warm_up=0.2), augmentation=Augmentation(crop_padding=4, flip=True),
    )  # fmt: skip
    return Study(
        data="cifar10", data_dir=str(args.data_dir), limits=Limits(validation=1, test=args.examples), network="resnet20",
        width=args.width, nonlinearity=nonlinearity, radius="8/255", training=training,
        fine_tuning=replace(training, learning_rate=0.05), cure=Cure(weight=4.0, h=3.0, form="released", ramp=0.5),
        gradient=GradientNorm(weight=1.5 * RADIUS, norm="l_1", squared=False, ramp=0.5), seed=args.seed,
    )  # fmt: skip


def seconds_of_steps(data: DataSet, args: argparse.Namespace) -> dict[str, float]:
    """Measure the median seconds of one step of every method, interleaved."""
    _, std = data.statistics()
    steps = {}
    for name, (method, nonlinearity) in METHODS.items():
        study = study_of(nonlinearity, args)
        model = source_of(study, data).build(study.seed)
        steps[name] = (model, objective_of(method, study, std), study.training)
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(2 if args.quick else 8):
        for name, (model, objective, optimization) in steps.items():
            found[name].append(one_step(model, objective, optimization, data))
    return {name: statistics.median(times) for name, times in found.items()}


def one_step(model: nn.Module, objective: Objective, optimization: Optimization, data: DataSet) -> float:
    """Return the seconds of one training step from the batch to the updated weights."""
    batches = shuffled_batches(data.train, 128, seed=0, epoch=0, augmentation=optimization.augmentation)
    optimizer = optimization.optimizer_for(model)
    start = clock()
    x, y = next(iter(batches))
    optimizer.zero_grad(set_to_none=True)
    terms = objective.terms(model, x, y, generator=stream(0))
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return clock() - start


def train(
    name: str, steps: dict[str, int], data: DataSet, run: Run, args: argparse.Namespace
) -> tuple[nn.Module, float]:
    """Return a trained network and the seconds of its training, from the folder if it is there."""
    method, nonlinearity = METHODS[name]
    study = study_of(nonlinearity, args)
    _, std = data.statistics()
    source, file = source_of(study, data), name.replace(", ", "-").replace(" ", "-")
    if run.made_by(file) is not None:
        return run.load_network(file), float(run.made_by(file) or 0)
    model, start = source.build(study.seed), clock()
    stages = [("standard", study.training, steps["first half"])] if method in FINE_TUNED else []
    stages.append((method, study.fine_tuning if stages else study.training, steps["steps"]))
    for stage, optimization, count in stages:
        # Whole epochs over a number of images such that they have exactly this number of steps.
        epochs = -(-count * 128 // len(data.train))
        examples = data.train.take(slice(128 * (count // epochs)))
        fit(model, objective_of(stage, study, std), examples, replace(optimization, epochs=epochs), seed=study.seed)
    seconds = clock() - start
    run.save_network(file, source, model, repr(seconds))
    return model, seconds


def evaluate(model: nn.Module, data: DataSet, args: argparse.Namespace) -> Row:
    """Return clean and robust accuracy with their intervals."""
    ball = Ball(LINF, RADIUS)
    attacks = {"PGD-20": PGD(ball, steps=20), "margin-PGD-20": PGD(ball, steps=20, loss=margin_loss)}
    found: Row = {}
    for name, attack in attacks.items():
        left = evaluation.attack(model, data.test, attack, seed=args.seed)
        for key, right in (("clean", left.robust_to()), (name, left.robust)):
            share = proportion(int(right.sum()), len(right))
            found[key] = [share.value, share.low, share.high]
    return found


def main() -> None:
    """Train, evaluate, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished networks")
    parser.add_argument("--minutes", type=float, default=12.0, help="training time of every method")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--examples", type=int, default=2000, help="test images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="under a minute: seconds of training")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.minutes, args.width, args.examples = 0.05, 4, 64
    limits = Limits(train=2000 if args.quick else None, validation=1, test=args.examples)
    data = load("cifar10", data_dir=str(args.data_dir), limits=limits)
    run = Run(args.out)
    plan = run.read_json("plan.json")
    if plan is None:
        plan = plan_steps(seconds_of_steps(data, args), args)
        run.write_json("plan.json", plan)
    shared = {nonlinearity: asdict(study_of(nonlinearity, args)) for nonlinearity in ("softplus",)}
    settings = {
        "minutes": args.minutes, "threads": args.threads, "train": len(data.train), "test": len(data.test),
        "study": {**shared["softplus"], "data_dir": None}, "plan": plan, "torch": torch.__version__,
        "Python": platform.python_version(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    rows: list[Row] = []
    for name in args.methods:
        model, seconds = train(name, plan[name], data, run, args)
        row: Row = {"method": name, **plan[name], "seconds": seconds, **evaluate(model.eval(), data, args)}
        rows.append(row)
        accuracies = "  ".join(f"{key} {row[key][0]:6.1%}" for key in ACCURACIES)  # type: ignore[index]
        print(f"{name:30} {row['steps']:5} steps {seconds:6.0f} s  {accuracies}", flush=True)
        if args.json:
            content = {"settings": settings, "methods": rows, "results": {"comparison": dump(table_of(rows))}}
            args.json.write_text(json.dumps(content, indent=1) + "\n")


def table_of(rows: list[Row]) -> Table:
    """Return the rows as a table for the reader."""
    columns = (
        Column("method"), Column("steps", "Steps of the method.", "d"), Column("first", "Steps of standard training.", "d"),
        Column("seconds", "Training time.", ".0f"), *(Column(name, form=".1%") for name in ACCURACIES),
    )  # fmt: skip
    keys = ("method", "steps", "first half", "seconds")
    cells = [(*(row[key] for key in keys), *(tuple(row[key]) for key in ACCURACIES)) for row in rows]  # type: ignore[arg-type]
    return Table("Methods at an equal cost", columns, tuple(cells))  # type: ignore[arg-type]


def plan_steps(seconds: dict[str, float], args: argparse.Namespace) -> dict[str, Row]:
    """Return the number of steps of each method that fit into the minutes."""
    found: dict[str, Row] = {}
    for name, (method, nonlinearity) in METHODS.items():
        share = 0.5 if method in FINE_TUNED else 1.0
        standard = seconds[f"standard, {'ReLU' if nonlinearity == 'relu' else 'softplus'}"]
        found[name] = {
            "seconds a step": seconds[name],
            "first half": round((1 - share) * 60 * args.minutes / standard),
            "steps": max(1, round(share * 60 * args.minutes / seconds[name])),
        }
    return found


if __name__ == "__main__":
    main()
