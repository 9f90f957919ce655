"""Measure the angle between gradients and differences (test 4 of the audit) for every network of the panel.

    python benchmarks/audit_differences.py --data-dir DIR --weights-dir DIR [--cache DIR] [--half NAME ...] [--json FILE]

The threshold of test 4 was set on the tuning half alone. Weights come from the cache of `audit_panel.py`, or are trained.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from audit_panel import SEED, Panel, chosen  # noqa: E402
from panel.data import Sets  # noqa: E402
from panel.entries import Entry  # noqa: E402

from lowcurve.data import Examples  # noqa: E402
from lowcurve.errors import InputError  # noqa: E402
from lowcurve.evaluation.audit import Budget  # noqa: E402
from lowcurve.evaluation.audit.differences import disagreement  # noqa: E402
from lowcurve.evaluation.audit.gradients import ANGLE, CUT, GRAPH  # noqa: E402
from lowcurve.evaluation.audit.state import AuditState  # noqa: E402
from lowcurve.randomness import temporary_seed  # noqa: E402


def measure(panel: Panel, entry: Entry) -> dict[str, Any]:
    """Return how many images have an angle above test 4's, of how many near which the network is smooth."""
    model, data = panel.network(entry), panel.sets(entry.data)
    examples = Examples(data.test_x[: entry.images], data.test_y[: entry.images], tuple(map(str, range(data.classes))))
    with temporary_seed(SEED, "differences"), torch.no_grad():
        logits = model(examples.x)
    right = (logits.argmax(1) == examples.y).numpy()
    state = AuditState(model, examples, right, entry.ball, Budget(), SEED, 256, logits)
    try:
        sines = disagreement(state, state.queried[: state.budget.landscape_images])
    except (InputError, RuntimeError) as error:
        return {"no gradient": str(error).splitlines()[0][:120]}
    judged = sines[~np.isnan(sines)]
    found = GRAPH.judge_count(int((judged > ANGLE).sum()), len(judged), "", allowed=CUT)
    return {
        "images": len(sines), "smooth": len(judged), "above": int((judged > ANGLE).sum()), "test 4": found.outcome,
        "sines": [round(float(q), 3) for q in np.quantile(judged, (0.5, 0.9, 1))] if len(judged) else None,
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "audit-panel")
    parser.add_argument("--half", nargs="+", default=["tuning", "final", "third", "fourth"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    panel, rows = Panel(Sets(args.data_dir, args.cache), args.cache, "now"), []
    wanted = argparse.Namespace(weights_dir=args.weights_dir, side=None, half=None, only=None)
    for entry, half in chosen(wanted):
        if half not in args.half or entry.random:  # of a random network test 4 asks nothing
            continue
        about = {"name": entry.title, "set": half, "masked": entry.masked}
        rows.append({**about, **measure(panel, entry)})
        print(rows[-1], flush=True)
    if args.json:
        settings = {"torch": torch.__version__, "sine": ANGLE}
        args.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
