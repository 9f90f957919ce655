"""Examine networks of timm and transformers: python benchmarks/architectures.py [NAME ...] [--json FILE]

The networks have random weights and 32 to 75 pixels. Each row has a measurement, a Hessian product, two training steps,
conversion, folding and a certificate. The error of the product is against torch.func in float64, and its cost is in input
gradients, in processor time. The steps are those of CURE and of the gradient norm. Their errors are those of the parameters'
gradients against double backward in float64. A cell is a number or one sentence. timm is imported without torchvision where
that is missing.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from architectures import CRASH, Cell, examine  # noqa: E402
from foreign_networks import NETWORKS  # noqa: E402


def main() -> None:
    """Examine, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; all by default")
    parser.add_argument("--images", type=int, default=8, help="number of images for the cost of a product")
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="write the cells here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Cell]] = {}
    for name in args.names or NETWORKS:
        rows[name] = examine(NETWORKS[name], many=args.images, rounds=args.rounds)
        print(name, json.dumps(rows[name], indent=1), flush=True)
    content = {"summary": summary(rows), "facts": facts(args.images), "networks": rows}
    print(json.dumps(content["summary"], indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def summary(rows: dict[str, dict[str, Cell]]) -> dict[str, Cell]:
    """Return how many networks have each thing, and the worst errors."""

    def numbers(name: str) -> list[float]:
        return [float(row[name]) for row in rows.values() if isinstance(row.get(name), int | float)]

    found: dict[str, Cell] = {"networks": len(rows)}
    found["replayed"] = sum(row.get("way") == "replayed" for row in rows.values())
    found["crashes"] = sum(str(cell).startswith(CRASH) for row in rows.values() for cell in row.values())
    for name in (
        "measure",
        "product, error",
        "CURE",
        "gradient norm",
        "convert",
        "convert to LCNN",
        "fold",
        "certificate",
    ):
        found[f"{name}: networks"] = len(numbers(name))
    for name in ("product, error", "CURE", "gradient norm"):
        found[f"{name}: worst"] = max(numbers(name), default=0.0)
    return found


def facts(images: int) -> dict[str, Cell]:
    """Return the versions that the cells belong to, and the conditions of the costs."""
    from importlib.metadata import version

    versions = {name: version(name) for name in ("timm", "transformers")}
    return versions | {
        "torch": torch.__version__, "Python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        "threads": 1, "images for the cost": images, "cores": os.cpu_count() or 0, "load at the end": os.getloadavg()[0],
    }  # fmt: skip


if __name__ == "__main__":
    main()
