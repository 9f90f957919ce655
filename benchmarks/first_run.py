"""Time the commands of a first run, against an earlier checkout: the study on digits, and a public network on MNIST.

    python benchmarks/first_run.py [--earlier CHECKOUT] [--weights-dir DIR --data-dir DIR] [--rounds N] [--json FILE]

Each command runs in a process of its own, with the free cores that it finds. The two checkouts take turns. Of each the
fastest round counts, in seconds from the start of the process to its end. CPU time includes the processes that it starts. The
first row is the first line with an accuracy of the standard network. The profile has the seconds of each kind of job, which
run side by side. The tables of both are compared: their numbers are equal where the number of threads is.

The weights directory has mnist_lenet5_clntrained.pt and mnist_lenet5_advtrained.pt.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rows import Row, show

from lowcurve.results import Column, Table, dump

ROOT = Path(__file__).resolve().parents[1]
LENET5 = ("--model", "lowcurve.examples.public_networks:lenet5", "--data", "mnist", "--radius", "0.3")


def commands(weights: Path | None) -> dict[str, tuple[str, ...]]:
    """Return the commands by what they are called here."""
    found: dict[str, tuple[str, ...]] = {"study, digits": ("study",)}
    if weights is not None:
        plain, hardened = (str(weights / f"mnist_lenet5_{kind}trained.pt") for kind in ("cln", "adv"))
        found["measure, LeNet5"] = ("measure", *LENET5, "--weights", plain)
        attack = ("attack", *LENET5, "--weights", hardened, "--evaluation.examples", "40")
        found["attack, LeNet5, 40 images"] = attack
    return found


@dataclass(frozen=True)
class Timing:
    """Times of one command.

    Args:
        seconds: From its start to its end.
        used: Seconds of CPU time, of all its processes.
        first: Seconds to the first row, None without one.
        jobs: Seconds of each kind of job.
        table: Its table.
    """

    seconds: float
    used: float
    first: float | None
    jobs: dict[str, float]
    table: list[object]

    def row(self, name: str) -> Row:
        """Return the times as entries that begin with a name."""
        found: Row = {f"{name}, s": round(self.seconds, 1), f"{name}, CPU s": round(self.used, 1)}
        found |= {} if self.first is None else {f"{name}, first row, s": round(self.first, 1)}
        return found | ({f"{name}, profile": self.jobs} if self.jobs else {})


def run(words: tuple[str, ...], source: Path, data: Path | None) -> Timing:
    """Run a command of a checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(source), "PYTHONUNBUFFERED": "1"}
    environment |= {} if data is None else {"LOWCURVE_DATA": str(data)}
    first, lines, jobs = None, [], dict[str, float]()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "lowcurve", *words, "--out", str(out)]
        child = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if job := re.search(r"(train|measure|attack|draw|transfer)( \S+)? took ([\d.]+) s; ", line):
                jobs[job[1]] = round(jobs.get(job[1], 0.0) + float(job[3]), 1)
            if first is None and "standard: " in line and "clean " in line:
                first = time.monotonic() - began
        if child.wait():
            raise SystemExit("".join(lines))
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        table = json.loads((out / "study.json").read_text())["results"]["comparison"]["rows"]
    return Timing(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, first, jobs, table)


def table_of(rows: list[Row]) -> Table:
    """Return the times as a table."""
    columns = (
        Column("command", "The command."),
        Column("before, s", "Seconds from start to end, in the earlier checkout.", ".0f"),
        Column("now, s", "Seconds from start to end.", ".0f"),
        Column("before, CPU s", "Seconds of CPU time of all processes, in the earlier checkout.", ".0f"),
        Column("now, CPU s", "Seconds of CPU time of all processes.", ".0f"),
        Column("first row, s", "Seconds until the first accuracy is shown.", ".0f"),
    )
    names = ("what", "earlier, s", "now, s", "earlier, CPU s", "now, CPU s", "now, first row, s")
    return Table("A first run", columns, tuple(tuple(row.get(name) for name in names) for row in rows))


def main() -> None:
    """Time all commands and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", type=Path, help="an earlier checkout of the repository")
    parser.add_argument("--weights-dir", type=Path, help="without it only the study is timed")
    parser.add_argument("--data-dir", type=Path, help="folder of parquet files")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    sources = {"earlier": args.earlier, "now": ROOT} if args.earlier else {"now": ROOT}
    rows: list[Row] = []
    for what, words in commands(args.weights_dir).items():
        best: dict[str, Timing] = {}
        for _ in range(args.rounds):
            for name, source in sources.items():
                timing = run(words, source.resolve(), args.data_dir)
                best[name] = min(best.get(name, timing), timing, key=lambda one: one.seconds)
        row: Row = {"what": what}
        for name, timing in best.items():
            row |= timing.row(name)
        if "earlier" in best:
            row["same table"] = best["earlier"].table == best["now"].table
        rows.append(row)
        show(what, [row])
    if args.json:
        settings = {
            "cores": os.cpu_count(), "rounds": args.rounds, "Python": platform.python_version(),
            "machine": platform.machine(), "load before": os.getloadavg()[0], "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        results = {"comparison": dump(table_of(rows))}
        args.json.write_text(json.dumps({"settings": settings, "commands": rows, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
