"""Bracket robust accuracy: attacks above it, certificates below it, on public networks, the package's own and fresh ones.

    python benchmarks/bracket.py --data-dir DIR --weights-dir DIR --fresh-dir FOLDER [--networks NAME ...]
        [--norms linf l2 l1] [--examples 100] [--columns attacked ...] [--json FILE]

Each row is a network and a ball: images that are correct without an attack, under `strong` and under the standard version of
AutoAttack, the numbers of those that one of them alone fools, CPU seconds of this process with one thread, and passes.
*Smallest*: AttackBench's optimality of smallest radii, next to foolbox's FMN if it is installed. Below, on as many images as
a budget of work allows: verified accuracy, and certified over attacked radius for global bounds and each order of local ones,
with their cost in forward passes. The columns of a row come from functions of a case, see COLUMNS. Fresh networks are trained
on 10,000 images if FOLDER lacks them.

The data directory has the parquet files of mnist and cifar10; the weights directory the files that benchmarks/attacks.py names.
"""

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bracket_above import attacked, smallest, table
from bracket_below import certified
from bracket_cases import NETWORKS, Case, cases

from lowcurve.attacks import FULL
from lowcurve.results import dump

COLUMNS: dict[str, Callable[[Case], dict[str, object]]] = {
    "attacked": attacked,
    "certified": certified,
    "smallest": smallest,
}
"""Functions that fill a row."""


def main() -> None:
    """Fill the rows, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, variable in (("data", "LOWCURVE_DATA"), ("weights", "LOWCURVE_WEIGHTS"), ("fresh", "LOWCURVE_FRESH")):
        known = os.environ.get(variable)
        parser.add_argument(f"--{name}-dir", type=Path, default=known, required=known is None)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--norms", nargs="+", default=["linf", "l2"], choices=["linf", "l2", "l1"])
    parser.add_argument("--examples", type=int, default=100, help="first test images of each network")
    parser.add_argument("--columns", nargs="+", default=["attacked", "certified"], choices=list(COLUMNS))
    parser.add_argument("--json", type=Path, help="write the numbers here; rows that it has are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "threads": 1, "torch": torch.__version__, "Python": platform.python_version(),
        "machine": platform.machine(), "cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d"),
        "effort of strong": asdict(FULL),
    }  # fmt: skip
    rows: list[dict[str, object]] = (
        json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    )
    done = {(row["network"], row["norm"]) for row in rows}
    folders = args.data_dir, args.weights_dir, args.fresh_dir
    for case in cases(tuple(args.networks), tuple(args.norms), args.examples, *folders):
        if (case.network, case.norm) in done:
            continue
        row: dict[str, object] = {"network": case.network, "norm": case.norm, "radius": case.radius}
        row["images"] = len(case.images)
        for name in args.columns:
            row |= COLUMNS[name](case)
        rows.append(row)
        print(", ".join(f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True)
        if args.json:
            both: dict[str, object] = {"settings": settings, "rows": rows}
            if all("strong" in row for row in rows):
                both["results"] = {"attacked": dump(table(rows))}
            content = json.dumps(both, indent=1)
            args.json.write_text(re.sub(r"\[[\d,\s]*\]", lambda numbers: " ".join(numbers[0].split()), content) + "\n")


if __name__ == "__main__":
    main()
