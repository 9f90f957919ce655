"""Measure the memory of an attack on a folder of many images: python benchmarks/many_images.py [--images N ...] [--json FILE]

JPEG files of 224 pixels are written to a temporary folder: random colors on a grid of 7 by 7, enlarged. PGD-2 attacks a small
network on all of them, in a process of its own for each number of images. The peak is the process's largest resident memory.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH = 64


def write_images(folder: Path, count: int) -> None:
    """Write so many JPEG files in two classes."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        small = Image.fromarray(draws.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        small.resize((224, 224), Image.Resampling.BICUBIC).save(folder / "ab"[number % 2] / f"{number}.jpg")


def attack(folder: str) -> None:
    """Attack the folder and print what it took."""
    import torch
    from torch import nn

    import lowcurve as lc

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 2)).eval()
    before, start = _peak(), time.process_time()
    data = lc.image_folder(folder)
    found = lc.attack(
        model, data, lc.PGD("linf", 2 / 255, steps=2), batch_size=BATCH, keep_inputs=False, progress=False
    )
    used = time.process_time() - start
    row = {"images": len(found.robust), "peak, GB": _peak(), "before any data, GB": before, "CPU s": used}
    print(json.dumps(row))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Write the images, attack them, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.attack:
        attack(args.attack)
        return
    rows = []
    for count in args.images:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count)
            command = [sys.executable, __file__, "--attack", folder]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    if args.json:
        settings = {
            "attack": "PGD-2", "pixels": 224, "batch": BATCH, "threads": 1, "Python": platform.python_version(),
            "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        args.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
