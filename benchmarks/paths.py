"""Measure the cost of paths within class regions of a small network, for 200 pairs of images.

    python benchmarks/paths.py --data-dir DIR --weights-dir DIR [--pairs 200] [--spacing 0.01] [--quick] [--json FILE]

The network is the public LeNet-5 with standard training on MNIST, on test images. There are three families of pairs. The first
has two natural images of one class. The second has a natural image and an adversarial one (targeted DeepFool), with the same
starts and similar distances. The third has two adversarial images in a third class. Each family is searched with the
projection as published, which overshoots the boundary by a few per cent, and with one that goes far beyond the boundary.

The column "images" counts all forward passes, for validation and for projection. "over the least" is this count over that of
one pass along the straight lines. "hidden" is the share of found paths that leave the region according to a check at a tenth
of their spacing.

The data directory has the parquet files of mnist, the weights directory has mnist_lenet5_clntrained.pt.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rows import Row, show  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lowcurve.attacks import DeepFool  # noqa: E402
from lowcurve.data import Limits, load  # noqa: E402
from lowcurve.examples.public_networks import lenet5  # noqa: E402
from lowcurve.geometry.endpoints import (  # noqa: E402
    Endpoints,
    LabeledPoints,
    adversarial_pairs,
    natural_adversarial_pairs,
    natural_pairs,
)
from lowcurve.geometry.path_measures import path_measures  # noqa: E402
from lowcurve.geometry.path_statistics import bootstrap_interval  # noqa: E402
from lowcurve.geometry.paths import PathSearch  # noqa: E402
from lowcurve.geometry.regions import RegionProjection, inner_margins  # noqa: E402
from lowcurve.geometry.segments import sample_segments  # noqa: E402
from lowcurve.randomness import stream  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

PROJECTIONS = {
    "as published": RegionProjection(DeepFool(bisections=0), overshoot=0.0),
    "beyond": RegionProjection(DeepFool(), overshoot=1.5),
}


def network(args: argparse.Namespace) -> nn.Module:
    """Load the trained LeNet-5 with frozen weights."""
    model = lenet5()
    load_weights(model, args.weights_dir / "mnist_lenet5_clntrained.pt")
    return model.eval().requires_grad_(requires_grad=False)


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the predicted class of each image."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(256)])


def families(args: argparse.Namespace, model: nn.Module) -> dict[str, Endpoints]:
    """Build the same number of pairs for each family."""
    test = load("mnist", data_dir=str(args.data_dir), limits=Limits(train=1, validation=1)).test
    x = test.pixels(slice(4 * args.pairs))
    predictions, number = predict(model, x), torch.arange(len(x))
    natural = natural_pairs(LabeledPoints(x, predictions, number), generator=stream(0, "natural"))
    starts = LabeledPoints(natural.start, natural.y, natural.start_index).take(torch.arange(args.pairs))
    target = (predictions + 3) % 10
    projected = PROJECTIONS["as published"](model, x, target, generator=stream(0, "adversarial"))
    there = torch.nonzero(inner_margins(model, projected, target, 256) > 0).flatten()
    adversarial = LabeledPoints(projected[there], target[there], number[there])
    third = adversarial_pairs(adversarial, predictions[there], generator=stream(0, "third"))
    matched = natural.distance[: args.pairs]
    mixed = natural_adversarial_pairs(starts, adversarial, generator=stream(0, "mixed"), distance=matched)
    found = {"natural, natural": natural, "natural, adversarial": mixed, "adversarial, adversarial": third}
    return {name: first(ends, args.pairs) for name, ends in found.items()}


def first(ends: Endpoints, count: int) -> Endpoints:
    """Return the first pairs."""
    return Endpoints(*(getattr(ends, name)[:count] for name in ends.__dataclass_fields__))


def search_family(args: argparse.Namespace, model: nn.Module, ends: Endpoints, projection: str) -> Row:
    """Search the paths of one family with one projection."""
    images = [0]
    counting = model.register_forward_hook(lambda _, given, __: images.__setitem__(0, images[0] + len(given[0])))
    search = PathSearch(PROJECTIONS[projection], spacing=args.spacing)
    start, worked = time.perf_counter(), time.process_time()
    paths = search(model, ends.start, ends.end, ends.y, generator=stream(0, "paths"))
    seconds, work = time.perf_counter() - start, time.process_time() - worked
    counting.remove()
    columns = path_measures(paths)
    segments, pair = paths.segments()
    again = sample_segments(model, segments, torch.full((len(segments),), args.spacing / 10)) if args.verify else None
    hidden = len(torch.unique(pair[~again.clear])) / max(1, int(paths.found.sum())) if again is not None else None
    anchors = bootstrap_interval(columns["anchors"][paths.found], generator=stream(0, "bootstrap"))
    return {
        "what": projection, "s": seconds, "s of all cores": work, "pairs": len(ends), "found": int(paths.found.sum()),
        "straight": int((paths.counts == 2).sum()), "distance": float(ends.distance.mean()),
        "anchors": anchors.value, "anchors, low": anchors.low, "anchors, high": anchors.high,
        "maximal deviation": float(columns["maximal deviation"].nanmean()),
        "images": images[0], "over the least": images[0] / float((ends.distance / args.spacing).sum()), "hidden": hidden,
    }  # fmt: skip


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=0.01, help="l_2, in pixel units")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verify", action="store_true", help="add the column `hidden`, at ten times the images")
    parser.add_argument("--quick", action="store_true", help="20 pairs at spacing 0.1, verified")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    if args.quick:
        args.pairs, args.spacing, args.verify = 20, 0.1, True
    torch.set_num_threads(args.threads)
    content: dict[str, object] = {
        "threads": args.threads, "pairs": args.pairs, "spacing": args.spacing, "torch": torch.__version__,
        "Python": platform.python_version(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"),
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
    }  # fmt: skip
    print(", ".join(f"{name}: {value}" for name, value in content.items()))
    model = network(args)
    for name, ends in families(args, model).items():
        content[name] = rows = [search_family(args, model, ends, projection) for projection in PROJECTIONS]
        show(name, rows, width=14)
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
