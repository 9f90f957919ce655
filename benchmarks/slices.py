"""Measure the cost of a network's values on a grid of input space, relative to plain forward passes.

    python benchmarks/slices.py --weights-dir DIR [--quick] [--json FILE]

The network is ResNet-20 for CIFAR-10 in eval mode, float32, with one thread. The reference is the plain forward pass of the
same number of images from memory, at the best of several batch sizes. All candidates run interleaved, and the best round of
each counts, in CPU time of this process. The images are random, since their content does not change the cost.

The weights directory has resnet20-12fca82f.th.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lowcurve.examples.public_networks import resnet20  # noqa: E402
from lowcurve.geometry import random_directions, span, surface  # noqa: E402
from lowcurve.losses import loss_field, margin  # noqa: E402
from lowcurve.randomness import stream, uniform  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

SIZES = (16, 32, 64, 128, 256)
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def plain(model: nn.Module, x: Tensor, size: int, count: int) -> None:
    """Pass `count` images through the network in batches of the given size."""
    with torch.no_grad():
        for start in range(0, count, size):
            model(x[: min(size, count - start)])


def ways(model: nn.Module, points: int) -> dict[str, Callable[[], object]]:
    """Return plain passes for every batch size and layout, and one plane and a field on several planes."""
    found: dict[str, Callable[[], object]] = {}
    images = uniform(torch.zeros(max(SIZES), 3, 32, 32), 0, 1, generator=stream(0, "images"))
    side = torch.linspace(-1, 1, points)
    half, y = side[: points // 2], torch.arange(4)
    for layout, format_ in LAYOUTS.items():
        x = images.contiguous(memory_format=format_)
        for size in SIZES:
            found[f"plain, {layout}, batches of {size}"] = lambda x=x, size=size: plain(model, x, size, points**2)
        one = span(x[:1], *random_directions(x[:1]))
        four = span(x[:4], *random_directions(x[:4]))
        found[f"one plane, {layout}"] = lambda one=one: surface(model, one, side, side)
        field = loss_field(model, y, margin)
        found[f"margin on 4 planes, {layout}"] = lambda four=four, field=field: surface(field, four, half, half)
    return found


def main() -> None:
    """Time all candidates and print each relative to the best plain passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--points", type=int, default=101, help="along each direction (default 101)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="31 points, 1 round")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    if args.quick:
        args.points, args.rounds = 31, 1
    torch.set_num_threads(1)
    model = resnet20()
    load_weights(model, args.weights_dir / "resnet20-12fca82f.th")
    todo = ways(model.eval(), args.points)
    settings = {
        "network": "ResNet-20, CIFAR-10", "points": f"{args.points} x {args.points}", "rounds": args.rounds, "threads": 1,
        "torch": torch.__version__, "Python": platform.python_version(), "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"), "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
    }  # fmt: skip
    print(", ".join(f"{name}: {value}" for name, value in settings.items()))
    best = dict.fromkeys(todo, float("inf"))
    for _ in range(args.rounds):
        for name, way in todo.items():
            start = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - start)
    images = {name: 4 * (args.points // 2) ** 2 if "4 planes" in name else args.points**2 for name in todo}
    each = {name: seconds / images[name] * 1e3 for name, seconds in best.items()}
    rows = []
    for name, value in each.items():
        layout = next(layout for layout in LAYOUTS if layout in name)
        yardstick = min(v for other, v in each.items() if other.startswith("plain") and layout in other)
        rows.append({"way": name, "ms an image": round(value, 4), "best plain passes": round(value / yardstick, 3)})
        print(f"{name:50} {value:8.4f} ms an image, {value / yardstick:6.3f} of the best plain passes of its layout")
    if args.json:
        args.json.write_text(json.dumps({"settings": settings, "ways": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
