"""Measure the audit's error rates on a panel of masked and honest networks.

    python benchmarks/audit_panel.py --data-dir DIR --weights-dir DIR [--half NAME] [--only NAME ...] [--json FILE]

Each network is trained in seconds and attacked four times: naively (PGD with 20 steps on cross-entropy), by a suite of
`strong`'s attacks, by attacks made for it, and by the audit's remedies. A masked network counts as masked only if attacks made
for it leave at least 5 images of 100 fewer robust than the suite, or 15 fewer than the naive attack. Half of the networks
of the first two sets serve to tune the audit, the others give the final figures. `panel/entries.py` splits them by name.

The third set, `panel/fresh.py`, the fourth, `panel/fourth.py`, and the fifth, `panel/fifth.py`, were each written for an audit
that was finished. It gets exactly the evaluation that is judged: the naive attack's result, with its images, is both scored and
given to the audit. The suite of every fourth network of the third and fourth set is `strong` with all searches for every
image. The suite of the fifth set is the default `strong`.

With --again a run on a later audit stands beside the first one, which stays: the first verdicts give the error rates.

Weights, attacks and audits are stored in --cache, one file each, so an interrupted run continues. With --seconds no new
network is begun after so long. The whole panel takes about an hour on one core.
"""

import argparse
import json
import os
import pickle
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from panel.again import brief, summarize  # noqa: E402
from panel.attacks import DRAWS, PLAIN, adaptive, naive  # noqa: E402
from panel.data import Sets  # noqa: E402
from panel.entries import Entry, halves  # noqa: E402
from panel.fifth import fifth  # noqa: E402
from panel.figures import judged, only_naive_is_wrong  # noqa: E402
from panel.fourth import fourth  # noqa: E402
from panel.fresh import fresh  # noqa: E402
from panel.honest import honest  # noqa: E402
from panel.masked import MASKED  # noqa: E402
from panel.weak import Weak  # noqa: E402
from torch import nn  # noqa: E402

from lowcurve import evaluation  # noqa: E402
from lowcurve.analysis.norms import Ball  # noqa: E402
from lowcurve.attacks import PGD, Effort, Suite, strong  # noqa: E402
from lowcurve.data import Examples  # noqa: E402
from lowcurve.errors import InputError  # noqa: E402
from lowcurve.evaluation.attack_result import AttackResult  # noqa: E402
from lowcurve.evaluation.audit import audit  # noqa: E402
from lowcurve.randomness import temporary_seed  # noqa: E402
from lowcurve.results.versions import code_version  # noqa: E402

SEED = 0
DATA = ("digits", "pairs", "mnist", "cifar10")
"""Data sets in order of cost: the cheapest networks come first."""
EFFORT = Effort(steps=100, targets=4, queries=1000, relays=0, near=None)
"""The gradient attacks of `strong` at full effort, and a third of its queries."""
FULL = Effort(targets=4, relays=3, near=None)
"""`strong` with all searches for every image: every fourth network of the third and fourth set."""


def effort(entry: Entry) -> Effort:
    """Return the effort of the suite of an entry: the default of today in the fifth set."""
    if entry.declared == "fifth":
        return Effort()
    return FULL if entry.full else EFFORT


class Panel:
    """The networks of the panel with everything that is stored of them.

    Args:
        sets: The data sets.
        cache: Folder of weights, attacks and audits.
        label: Name of the audit's version.
    """

    def __init__(self, sets: Sets, cache: Path, label: str) -> None:
        self.sets, self.cache, self.label = sets, cache, label

    def network(self, entry: Entry) -> nn.Module:
        """Return the trained network, from the cache if it is there."""
        data, file = self.sets(entry.data), self._file("weights", entry.name, "pt")
        if entry.fit is None:
            return entry.make(data)
        if not file.exists():
            torch.save(entry.make(data).state_dict(), file)
        model = entry.shell(data)
        model.load_state_dict(torch.load(file))
        return model.requires_grad_(False)

    def is_stored(self, entry: Entry) -> bool:
        """Return whether the entry's audit is stored."""
        return self._file(f"audit-{self.label}", entry.title, "json").exists()

    def judge(self, entry: Entry) -> dict[str, Any]:
        """Return the row of an entry."""
        file = self._file(f"audit-{self.label}", entry.title, "json")
        if not file.exists():
            model, examples, known = self.attack(entry)
            row = {name: value for name, value in known.items() if "attacked" not in name} | {"random": entry.random}
            only_naive = entry.masked and only_naive_is_wrong(row)
            if not (entry.declared and only_naive) or entry.full:  # otherwise the verdict and the cost do not need it
                row |= _audited(model, examples, entry.ball, known["attacked"])
            has_gradient = known["attacked"].members[0][0] != "Square"
            if only_naive and (has_gradient or entry.declared):
                plain = known.get("naively attacked")
                plain = plain or evaluation.attack(model, examples, _naive(entry), seed=SEED, progress=False)
                found = _audited(model, examples, entry.ball, plain)
                row["audit of the naive attack"] = {"naive": _short(float(plain.robust.mean())), **found}
            file.write_text(json.dumps(row, indent=1) + "\n")
        return json.loads(file.read_text())

    def attack(self, entry: Entry) -> tuple[nn.Module, Examples, dict[str, Any]]:
        """Return an entry's network, its images, and what the attacks but the audit's found."""
        model, data = self.network(entry), self.sets(entry.data)
        x, y = data.test_x[: entry.images], data.test_y[: entry.images]
        examples = Examples(x, y, tuple(map(str, range(data.classes))))
        return model, examples, self._attacked(entry, model, examples)

    def _attacked(self, entry: Entry, model: nn.Module, examples: Examples) -> dict[str, Any]:
        """Return the accuracies under the naive attack, the suite and the adaptive attacks, with the suite's result."""
        file = self._file("attacks", entry.title, "pickle")
        if not file.exists():
            x, y = examples.pixels(slice(None)), examples.y
            start = time.process_time()
            attacked = _attack(model, examples, entry.ball, effort(entry))
            suite_seconds, start = time.process_time() - start, time.process_time()
            with temporary_seed(SEED, entry.title):
                draws = DRAWS if entry.random else 1
                if entry.declared:
                    plainly = evaluation.attack(model, examples, _last_point(entry), seed=SEED, progress=False)
                    plain = plainly.robust
                else:
                    plainly, plain = None, naive(model, x, y, entry.ball, steps=entry.steps, draws=draws).numpy()
                ways = entry.all_ways(model) if entry.masked else entry.all_ways(model)[:1]
                settings = {
                    "restarts": 2 if entry.masked and not entry.random else 1,
                    "steps": 40 if entry.random else 60,
                }
                best = adaptive(model, ways, x, y, entry.ball, random=entry.random, **settings).numpy()
            if not entry.random:
                best = np.minimum(best, attacked.robust)
            seconds = time.process_time() - start
            known = {
                "images": len(x), "clean": float(attacked.clean.mean()), "naive": float(plain.mean()),
                "suite": float(attacked.robust.mean()), "adaptive": float(best.mean()),
                "suite seconds": suite_seconds, "adaptive seconds": seconds,
            }  # fmt: skip
            results = {"attacked": attacked, "naively attacked": plainly}
            file.write_bytes(pickle.dumps({name: _short(v) for name, v in known.items()} | results))
        return pickle.loads(file.read_bytes())

    def _file(self, folder: str, name: str, ending: str) -> Path:
        place = self.cache / folder / ("".join(c if c.isalnum() else "-" for c in name) + f".{ending}")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


def _audited(model: nn.Module, examples: Examples, ball: Ball, attacked: AttackResult) -> dict[str, Any]:
    """Return the audit of an evaluation."""
    start = time.process_time()
    found = audit(model, examples, ball, attacked=attacked, seed=SEED, progress=False)
    return {
        "audit seconds": round(time.process_time() - start, 2),
        "audited": round(float(found.robust["worst case"].mean()), 4),
        "level": found.level,
        "verdict": found.summary,
        "findings": [_finding(finding) for finding in found.findings],
        "remedies": [asdict(remedy) for remedy in found.remedies],
        "version": code_version(),
    }


def _naive(entry: Entry) -> Suite:
    """Return the naive attack as the package's own: PGD with 20 steps, or FGSM, on torch's cross-entropy."""
    one = {"steps": 1, "step_size": entry.ball.radius, "start": "center"}
    attack = PGD(entry.ball, loss=PLAIN, **(one if entry.steps == 1 else {"steps": 20}))
    return Suite((("FGSM" if entry.steps == 1 else "PGD-20", attack),))


def _last_point(entry: Entry) -> Suite:
    """Return the naive attack of an entry of a declared set: the last point of the panel's own PGD, or a weak attack."""
    return Suite((("naive", entry.weak(entry.ball) if entry.weak else Weak(entry.ball, entry.steps)),))


def _attack(model: nn.Module, examples: Examples, ball: Ball, effort: Effort) -> AttackResult:
    """Return the suite's result; of a network without a gradient, which gradient attacks refuse, that of its queries."""
    suite = strong(ball, effort=effort)
    try:
        return evaluation.attack(model, examples, suite, seed=SEED, progress=False)
    except InputError:
        queries = Suite(tuple(member for member in suite.members if member[0] == "Square"))
        return evaluation.attack(model, examples, queries, seed=SEED, progress=False)


def _short(value: float) -> float:
    return round(value, 4) if isinstance(value, float) else value


def _finding(finding: Any) -> dict[str, Any]:
    names = ("number", "name", "outcome", "measured", "threshold", "evidence")
    return {name: getattr(finding, name) for name in names}


def chosen(args: argparse.Namespace) -> list[tuple[Entry, str]]:
    """Return the entries that are asked for, with their halves."""
    entries = [*MASKED, *honest(args.weights_dir), *fresh(args.weights_dir), *fourth(), *fifth(args.weights_dir)]
    half = halves(entries)
    entries = [entry for entry in entries if args.side in (None, "masked" if entry.masked else "honest")]
    entries.sort(key=lambda entry: -1 if entry.declared else DATA.index(entry.data.split(":")[0]))
    found = [(entry, half[entry.name]) for entry in entries if args.half in (None, half[entry.name])]
    return [(e, h) for e, h in found if not args.only or any(word in e.title for word in args.only)]


def main() -> None:
    """Attack, audit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "audit-panel")
    parser.add_argument("--half", choices=("tuning", "final", "third", "fourth", "fifth"))
    parser.add_argument("--side", choices=("masked", "honest"))
    parser.add_argument("--only", nargs="+", help="parts of titles of entries")
    parser.add_argument("--label", default="now", help="name of the audit's version; its audits are stored under it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no network after so many seconds")
    parser.add_argument("--attack-only", action="store_true", help="train and attack, and audit nothing")
    parser.add_argument("--stored", action="store_true", help="take only networks whose audits are stored")
    parser.add_argument("--list", action="store_true", help="print the entries and their halves")
    parser.add_argument("--json", type=Path, help="file to write; its rows that are not asked for stay")
    parser.add_argument("--again", action="store_true", help="keep the first verdicts, and put these beside them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    panel, begin = Panel(Sets(args.data_dir, args.cache), args.cache, args.label), time.monotonic()
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for entry, half in chosen(args):
        if args.list:
            print(half, "masked" if entry.masked else "honest", entry.title, f"({entry.kind})")
            continue
        if time.monotonic() - begin > args.seconds:
            print("stopped: the time is over")
            return
        about = {"name": entry.title, "network": entry.name, "kind": entry.kind, "data": entry.data, "masked": entry.masked,
                 "half": half, "random": entry.random, "full": entry.full, "seed": entry.seed()}  # fmt: skip
        if args.stored and not panel.is_stored(entry):
            missing.append(entry.title)
            continue
        if args.attack_only:
            panel.attack(entry)
            continue
        rows.append({**about, **panel.judge(entry)})
        _show(rows[-1])
    if args.json and rows:
        if args.json.exists():
            known, now = json.loads(args.json.read_text())["rows"], {row["name"]: row for row in rows}
            if args.again:
                rows = [row | ({"again": brief(now[row["name"]])} if row["name"] in now else {}) for row in known]
            else:
                rows = [row for row in known if row["name"] not in now] + rows
        settings = {
            "suite": asdict(EFFORT), "full suite": asdict(FULL),
            "suite of the fifth set": asdict(Effort()),
            "seed": SEED, "threads": 1, "torch": torch.__version__,
            "Python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "code": sorted({judged(row)["version"] for row in rows}), "date": time.strftime("%Y-%m-%d"),
            "not run": missing,
        }  # fmt: skip
        content = {"settings": settings, **summarize(rows), "rows": list(map(_without_figures, rows))}
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _without_figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without the sentences of tests that are not raised."""
    found = dict(row)
    if "audit of the naive attack" in row:
        found["audit of the naive attack"] = _without_figures(row["audit of the naive attack"])
    if "findings" not in row:
        return found
    found["findings"] = [
        {k: v for k, v in finding.items() if k != "evidence" or finding["outcome"] in ("flag", "fail")}
        for finding in row["findings"]
    ]
    return found


def _show(row: dict[str, Any]) -> None:
    row = judged(row)
    raised = {k: [f["number"] for f in row["findings"] if f["outcome"] == k] for k in ("fail", "flag")}
    accuracies = ", ".join(f"{name} {row[name]:.0%}" for name in ("clean", "naive", "suite", "adaptive", "audited"))
    side = "masked" if row["masked"] else "honest"
    seconds = f"{row['suite seconds']:.0f} + {row['audit seconds']:.0f} s"
    print(
        f"{side} {row['half']} {row['judged']} | {row['name']}: {accuracies} | {raised} | {seconds} | {row['level']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
