"""Hold the bounds of random networks against dense Jacobians, Hessians and slopes between far points.

    python benchmarks/certificates.py [--networks 5000] [--seed 0] [--json FILE]

Each network has two to seven random steps. They have aliasing, repeats, keywords, broadcasting, indexing, dilation, overlapping
pools, tokens, concatenation, padding modes, in-place operations, BatchNorm and every nonlinearity that has a rule; see
`tests/random_networks.py`. One network in twenty may also have an operation without a rule.

The slopes and Hessians of each certified network at six points, the slopes and turns of gradients between them, and the dense
Jacobians of two operations are held against their bounds. The table counts networks, refusals by reason, and violations.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from random_networks import Tally, check_network  # noqa: E402


def summarize(tally: Tally, networks: int, seed: int, seconds: float) -> dict[str, object]:
    """Return the counts of a fuzz as they are kept."""
    tightness = sorted(tally.tightness)
    return {
        "settings": {"networks": networks, "seed": seed, "precision": "float64", "threads": 1},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
        },
        "seconds": round(seconds, 1),
        "certified": tally.certified,
        "certified with a finite curvature": tally.smooth,
        "refused": sum(tally.refused.values()),
        "violations": len(tally.violations),
        "errors": tally.errors,
        "largest slope found over its bound": {
            "median": round(tightness[len(tightness) // 2], 3),
            "90 % quantile": round(tightness[len(tightness) * 9 // 10], 3),
            "largest": round(tightness[-1], 6),
        },
        "refused, by reason": dict(tally.refused.most_common()),
        "networks with each step": dict(tally.steps.most_common()),
        "certified networks with each operation": dict(tally.operations.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network; the others follow")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tally, start = Tally(), time.perf_counter()
    for seed in range(args.seed, args.seed + args.networks):
        try:
            check_network(seed, tally)
        except Exception as error:  # a bug is listed, so that the other networks are still checked
            tally.errors.append(f"{seed}: {error!r}")
    found = summarize(tally, args.networks, args.seed, time.perf_counter() - start)
    print("\n".join(tally.violations[:20]))
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
