"""Compare training methods at an equal cost: the same minutes of one core of the same machine.

    python benchmarks/equal_budget.py --out FOLDER [--task cifar10] [--data-dir DIR] [--minutes 12] [--seeds 0] [--json FILE]

The tasks:

cifar10  CIFAR-10 with ResNet-20 of half its width, crops and flips, at 8/255. CURE and the gradient norms fine-tune, so half
         of their time goes to standard training.
digits   The 1,257 digits of scikit-learn with a small convolutional network, at 0.125: one-step adversarial training and PGD.
vit      4,000 images of CIFAR-10 with a vision transformer of width 48, at 8/255: the l_1 gradient norm of natural images,
         N-FGSM, and both. All train from new weights.

One step of every method is timed in one interleaved run, and each method gets as many steps as fit into the minutes. With one
thread these are minutes of CPU time, so other processes do not count.

Nothing is selected by results. Penalty weights are those of the literature (CURE as released, 4 at h = 3 standard deviations;
1.5 times the radius for the l_1 norm), and the last weights are evaluated. They are evaluated on the first test images: clean,
PGD-20 and PGD-20 on the margin, with 95 % intervals. With several seeds the numbers are means, with the lowest and the
highest seed instead of the interval.

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
from lowcurve.analysis.norms import pixels  # noqa: E402
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
Methods = dict[str, tuple[str, str]]
CIFAR10: Methods = {
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
DIGITS: Methods = {name: (name, "relu") for name in ("standard", "FGSM", "RS-FGSM", "N-FGSM", "SORA", "PGD")}
VIT: Methods = {
    name: (name, "gelu") for name in ("standard", "gradient-norm", "N-FGSM", "gradient-norm+N-FGSM", "SORA", "PGD")
}
TASKS = {"cifar10": CIFAR10, "digits": DIGITS, "vit": VIT}
MINUTES = {"cifar10": 12.0, "digits": 0.5, "vit": 4.0}
ACCURACIES = ("clean", "PGD-20", "margin-PGD-20")
FINE_TUNED = ("CURE", "gradient-norm")
Row = dict[str, object]


def clock() -> float:
    """Return seconds: CPU time with one thread, otherwise wall-clock time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def study_of(nonlinearity: str, args: argparse.Namespace) -> Study:
    """Return the settings of all methods with this nonlinearity."""
    if args.task == "digits":
        study = Study()
        return replace(study, training=replace(study.training, gradient_clipping=1.0), nonlinearity=nonlinearity)
    gradient = GradientNorm(weight=1.5 * RADIUS, norm="l_1", squared=False, ramp=0.5)
    if args.task == "vit":
        training = Optimization(
            batch_size=64, learning_rate=1e-3, weight_decay=0.05, gradient_clipping=1.0,
            learning_rate_schedule=Schedule(end=0.0, shape="cosine", warm_up=0.1),
            augmentation=Augmentation(crop_padding=4, flip=True),
        )  # fmt: skip
        return Study(
            data="cifar10", data_dir=str(args.data_dir), limits=Limits(train=4000, validation=1, test=args.examples),
            network="vit-tiny", width=args.width, nonlinearity=nonlinearity, radius="8/255", training=training,
            gradient=replace(gradient, ramp=0.2),
        )  # fmt: skip
    training = Optimization(
        optimizer="sgd", batch_size=128, learning_rate=0.1, weight_decay=5e-4, gradient_clipping=1.0,
        learning_rate_schedule=Schedule(end=0.0, warm_up=0.2), augmentation=Augmentation(crop_padding=4, flip=True),
    )  # fmt: skip
    return Study(
        data="cifar10", data_dir=str(args.data_dir), limits=Limits(validation=1, test=args.examples), network="resnet20",
        width=args.width, nonlinearity=nonlinearity, radius="8/255", training=training,
        fine_tuning=replace(training, learning_rate=0.05), cure=Cure(weight=4.0, h=3.0, form="released", ramp=0.5),
        gradient=gradient,
    )  # fmt: skip


def seconds_of_steps(data: DataSet, args: argparse.Namespace) -> dict[str, float]:
    """Measure the median seconds of one step of every method, interleaved."""
    _, std = data.statistics()
    steps = {}
    for name, (method, nonlinearity) in TASKS[args.task].items():
        study = study_of(nonlinearity, args)
        model = source_of(study, data).build(study.seed)
        steps[name] = (model, objective_of(method, study.resolve(), std), study.training)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2 if args.quick else 8):
        for name, (model, objective, optimization) in steps.items():
            found[name].append(one_step(model, objective, optimization, data))
    return {name: statistics.median(times) for name, times in found.items()}


def one_step(model: nn.Module, objective: Objective, optimization: Optimization, data: DataSet) -> float:
    """Return the seconds of one training step from the batch to the updated weights."""
    batches = shuffled_batches(
        data.train, optimization.batch_size, seed=0, epoch=0, augmentation=optimization.augmentation
    )
    optimizer = optimization.optimizer_for(model)
    start = clock()
    x, y = next(iter(batches))
    optimizer.zero_grad(set_to_none=True)
    terms = objective.terms(model, x, y, generator=stream(0))
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return clock() - start


def train(
    name: str, seed: int, steps: dict[str, int], data: DataSet, run: Run, args: argparse.Namespace
) -> tuple[nn.Module, float, float | None]:
    """Return a trained network, the seconds of its training and its last PertAlign, from the folder if it is there."""
    method, nonlinearity = TASKS[args.task][name]
    study = replace(study_of(nonlinearity, args), seed=seed).resolve()
    _, std = data.statistics()
    source, file = source_of(study, data), name.replace(", ", "-").replace(" ", "-") + (f"-{seed}" if seed else "")
    if run.made_by(file) is not None:
        return run.load_network(file), *json.loads(run.made_by(file) or "")
    model, start, history = source.build(seed), clock(), [dict[str, float]()]
    stages = [("standard", study.training, steps["first half"])] if steps["first half"] else []
    stages.append((method, study.fine_tuning if stages else study.training, steps["steps"]))
    for stage, optimization, count in stages:
        # Whole epochs over a number of images such that they have exactly this number of steps.
        size = optimization.batch_size
        epochs = -(-count * size // len(data.train))
        examples = data.train.take(slice(size * max(1, count // epochs)))
        objective = objective_of(stage, study, std)
        history = fit(model, objective, examples, replace(optimization, epochs=epochs), seed=seed, progress=False)
    found = clock() - start, history[-1].get("PertAlign")
    run.save_network(file, source, model, json.dumps(found))
    return model, *found


def evaluate(model: nn.Module, data: DataSet, args: argparse.Namespace, seed: int) -> Row:
    """Return clean and robust accuracy with their intervals."""
    ball = study_of("relu", args).ball()
    attacks = {"PGD-20": PGD(ball, steps=20), "margin-PGD-20": PGD(ball, steps=20, loss=margin_loss)}
    found: Row = {}
    for name, attack in attacks.items():
        left = evaluation.attack(model, data.test, attack, seed=seed, progress=False)
        for key, right in (("clean", left.robust_to()), (name, left.robust)):
            share = proportion(int(right.sum()), len(right))
            found[key] = [share.value, share.low, share.high]
    return found


def main() -> None:
    """Train, evaluate, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="cifar10")
    parser.add_argument("--data-dir", type=Path, help="needed for the tasks cifar10 and vit")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished networks")
    parser.add_argument("--minutes", type=float, help="training time of every method; default: 12, 0.5 and 4 by task")
    parser.add_argument("--width", type=int, help="width of the network of cifar10 or vit; default: 8 and 48")
    parser.add_argument("--methods", nargs="+", help="default: all of the task")
    parser.add_argument("--examples", type=int, default=2000, help="test images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="under a minute: seconds of training")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.minutes = args.minutes or MINUTES[args.task]
    args.width = args.width or {"vit": 48}.get(args.task, 8)
    if args.quick:
        args.minutes, args.width, args.examples = 0.05, 4, 64
    named = {"data_dir": str(args.data_dir) if args.data_dir else None}
    limits = replace(study_of("relu", args).limits, validation=1, test=args.examples)
    limits = replace(limits, train=2000) if args.quick else limits
    data = load(study_of("relu", args).data, limits=limits if args.task != "digits" else Limits(), **named)
    run = Run(args.out)
    plan = run.read_json("plan.json")
    if plan is None:
        plan = plan_steps(seconds_of_steps(data, args), args)
        run.write_json("plan.json", plan)
    nonlinearity = next(reversed(TASKS[args.task].values()))[1]
    settings = {
        "task": args.task, "minutes": args.minutes, "threads": args.threads, "seeds": args.seeds,
        "train": len(data.train), "test": len(data.test),
        "study": {**asdict(study_of(nonlinearity, args)), "data_dir": None}, "plan": plan, "torch": torch.__version__,
        "Python": platform.python_version(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    rows: list[Row] = []
    for name in args.methods or list(TASKS[args.task]):
        for seed in args.seeds:
            model, seconds, aligned = train(name, seed, plan[name], data, run, args)
            found = evaluate(model.eval(), data, args, seed)
            row: Row = {"method": name, "seed": seed, **plan[name], "seconds": seconds, "PertAlign": aligned, **found}
            rows.append(row)
            accuracies = "  ".join(f"{key} {row[key][0]:6.1%}" for key in ACCURACIES)  # type: ignore[index]
            print(f"{name:30} {row['steps']:5} steps {seconds:6.0f} s  {accuracies}", flush=True)
        if args.json:
            content = {"settings": settings, "methods": rows, "results": {"comparison": dump(table_of(rows))}}
            args.json.write_text(json.dumps(content, indent=1) + "\n")


def table_of(rows: list[Row]) -> Table:
    """Return the rows as a table for the reader, one row a method."""
    columns = [Column("method"), Column("steps", "Steps of the method.", "d")]
    columns += [Column("first", "Steps of standard training.", "d"), Column("seconds", "Training time.", ".0f")]
    aligned = any(row["PertAlign"] is not None for row in rows)
    if aligned:
        columns.append(Column("PertAlign", "Mean over the last epoch.", ".2f"))
    columns += [Column(name, form=".1%") for name in ACCURACIES]
    cells = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cell = [name, own[0]["steps"], own[0]["first half"], mean_of(own, "seconds")]
        cell += [mean_of(own, "PertAlign")] if aligned else []
        cells.append((*cell, *(accuracy_of([row[key] for row in own]) for key in ACCURACIES)))  # type: ignore[misc]
    return Table("Methods at an equal cost", tuple(columns), tuple(cells))  # type: ignore[arg-type]


def mean_of(rows: list[Row], key: str) -> float | None:
    """Return the mean over seeds, or None where there is no number."""
    numbers = [row[key] for row in rows if row[key] is not None]
    return statistics.mean(numbers) if numbers else None  # type: ignore[type-var]


def accuracy_of(seeds: list[list[float]]) -> tuple[float, float, float]:
    """Return an accuracy with its 95 % interval; for several seeds their mean, with the lowest and the highest of them."""
    if len(seeds) == 1:
        return tuple(seeds[0])  # type: ignore[return-value]
    values = [seed[0] for seed in seeds]
    return statistics.mean(values), min(values), max(values)


def plan_steps(seconds: dict[str, float], args: argparse.Namespace) -> dict[str, Row]:
    """Return the number of steps of each method that fit into the minutes."""
    found: dict[str, Row] = {}
    for name, (method, nonlinearity) in TASKS[args.task].items():
        share = 0.5 if method in FINE_TUNED and args.task == "cifar10" else 1.0
        suffix = ", ReLU" if nonlinearity == "relu" else ", softplus"
        standard = seconds[f"standard{suffix if args.task == 'cifar10' else ''}"]
        found[name] = {
            "seconds a step": seconds[name],
            "first half": round((1 - share) * 60 * args.minutes / standard),
            "steps": max(1, round(share * 60 * args.minutes / seconds[name])),
        }
    return found


if __name__ == "__main__":
    main()
