"""Hold Hessian products of random networks against torch: python benchmarks/random_networks.py [--networks N] [--json FILE]

Each network consists of one to five operations, drawn by its seed from the vocabulary of `tests/random_programs.py`. The
reference is forward over reverse by torch.func in double precision; for hooks, double backward; where torch has a gradient
only, a difference of gradients. A product must be right to 1e-8, or there must be a sentence.
"""

import argparse
import collections
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from random_programs import COARSE, OPERATIONS, TOLERANCE, Program, examine  # noqa: E402

from lowcurve.analysis.hessians import REPLAYED  # noqa: E402


def main() -> None:
    """Examine, print and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--json", type=Path, help="write the counts here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    worst, wrong = 0.0, []
    refused: collections.Counter[str] = collections.Counter()
    for seed in range(args.first, args.first + args.networks):
        program = Program.of(seed)
        outcome = examine(program)
        if outcome is None:
            counts["without values in torch"] += 1
            continue
        if outcome.backend.startswith("refused: "):
            counts["refused by a sentence"] += 1
            refused[outcome.backend.removeprefix("refused: ")] += 1
        elif outcome.backend.startswith("NaN"):
            counts["NaN, as torch has it"] += 1
        else:
            counts["replayed" if outcome.backend == REPLAYED else "differentiated twice"] += 1
            counts["replay found wrong by the check"] += "replayed product" in outcome.backend
            if outcome.tolerance == TOLERANCE:
                worst = max(worst, outcome.error)
        if not outcome.right:
            wrong.append(
                {"seed": seed, "operations": program.names, "backend": outcome.backend, "error": outcome.error}
            )
    content: dict[str, object] = {
        "networks": args.networks, "first seed": args.first, "operations": len(OPERATIONS), "torch": torch.__version__,
        "Python": platform.python_version(), "date": time.strftime("%Y-%m-%d"), "tolerance": TOLERANCE,
        "tolerance of differences": COARSE, "worst relative error": worst, **counts, "sentences": dict(refused),
        "wrong or crashed": wrong,
    }  # fmt: skip
    print(json.dumps(content, indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
