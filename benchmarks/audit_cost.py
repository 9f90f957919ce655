"""Measure what each test of the audit costs next to the suite that it accompanies.

    python benchmarks/audit_cost.py --data-dir DIR --weights-dir DIR [--only NAME ...] [--label after] [--json FILE]
        [--all-searches]

For each network: the processor time of the suite `strong`, of every test of the audit that follows it on the same images, and
of the attacks that failed tests call for. With --all-searches the suite gives every image all searches. The audit gets the
suite's result, as on the command line. Rows of an existing file that are not asked for stay.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import faulty_networks as faulty  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from lowcurve import evaluation  # noqa: E402
from lowcurve.analysis.norms import Ball  # noqa: E402
from lowcurve.attacks import Effort, strong  # noqa: E402
from lowcurve.data import Examples, Limits, digits, load  # noqa: E402
from lowcurve.evaluation.audit import CHECKS, THOROUGH, Budget, audit  # noqa: E402
from lowcurve.examples.public_networks import lenet5, resnet20  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

Made = tuple[nn.Module, Examples, Ball]
IMAGES = 100


class Clock:
    """A progress display that measures the processor time of each test."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, places: range, _heading: str) -> Iterator[int]:
        """Yield the places of the tests."""
        for place in places:
            start = time.process_time()
            yield place
            check = CHECKS[place]
            self.seconds[f"{check.number}. {check.name}"] = time.process_time() - start


def networks(args: argparse.Namespace) -> dict[str, Callable[[], Made]]:
    """Return for each row a function that gives network, images and ball."""
    few = digits().test.take(slice(IMAGES))

    def public(build: Callable[[], nn.Module], file: str, data: str, ball: Ball) -> Made:
        model = build()
        load_weights(model, args.weights_dir / file)
        limits = Limits(train=1, validation=1, test=IMAGES)
        return model.eval(), load(data, data_dir=str(args.data_dir), limits=limits).test, ball

    return {
        "digits, standard, l_inf 0.1": lambda: (faulty.standard(), few, Ball("linf", 0.1)),
        "digits, standard, l_inf 0.3": lambda: (faulty.standard(), few, Ball("linf", 0.3)),
        "digits, adversarial, l_inf 0.1": lambda: (faulty.robust(), few, Ball("linf", 0.1)),
        "digits, adversarial, l_2 0.5": lambda: (faulty.robust(), few, Ball("l2", 0.5)),
        "digits, standard, l_2 0.5": lambda: (faulty.standard(), few, Ball("l2", 0.5)),
        "digits, adversarial, l_1 3": lambda: (faulty.robust(), few, Ball("l1", 3.0)),
        "digits, standard, l_1 1.5": lambda: (faulty.standard(), few, Ball("l1", 1.5)),
        "digits, 5 levels (masked), l_inf 0.1": lambda: (faulty.Quantized(faulty.standard()), few, Ball("linf", 0.1)),
        "LeNet5 adv. (public), l_inf 0.3": lambda: public(
            lenet5, "mnist_lenet5_advtrained.pt", "mnist", Ball("linf", 0.3)
        ),
        "ResNet-20 (public), l_inf 8/255": lambda: public(
            resnet20, "resnet20-12fca82f.th", "cifar10", Ball("linf", 8 / 255)
        ),
    }


def measure(make: Callable[[], Made], budget: Budget, effort: Effort) -> dict[str, object]:
    """Attack and audit one network."""
    model, images, ball = make()
    start = time.process_time()
    attacked = evaluation.attack(model, images, strong(ball, effort=effort), progress=False)
    suite = time.process_time() - start
    clock, start = Clock(), time.process_time()
    found = audit(model, images, ball, attacked=attacked, budget=budget, progress=clock)
    whole = time.process_time() - start
    remedies = whole - sum(clock.seconds.values())
    return {
        "images": len(images),
        "robust": int(attacked.robust.sum()),
        "suite": round(suite, 2),
        "audit": round(whole, 2),
        "ratio": round(whole / suite, 2),
        "level": found.level,
        "tests": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        "other (clean logits, remedies)": round(remedies, 2),
        "not run": [one.number for one in found.findings if one.outcome == "not run"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=None, help="names of rows")
    parser.add_argument("--thorough", action="store_true", help="run all tests")
    parser.add_argument("--all-searches", action="store_true", help="the suite gives every image all searches")
    parser.add_argument("--label", default="after", help="name of this version of the audit")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"rows": {}}
    for name, make in networks(args).items():
        if args.only and name not in args.only:
            continue
        effort = Effort(targets=4, relays=3, near=None) if args.all_searches else Effort()
        row = measure(make, THOROUGH if args.thorough else Budget(), effort)
        content["rows"].setdefault(name, {})[args.label] = row
        print(
            f"{name}: suite {row['suite']} s, audit {row['audit']} s, ratio {row['ratio']}: {row['tests']}", flush=True
        )
        if args.json:
            content["settings"] = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1}
            args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
