"""Measure cost and accuracy of Hessian products, spectra and eigenvalues on a real network.

    python benchmarks/curvature.py --data-dir DIR --weights-dir DIR [--quick] [--json FILE]

The network is ResNet-20 for CIFAR-10 with softplus (beta = 10) instead of ReLU, in eval mode, on test images. All candidates
run interleaved with one thread, and the best round of each counts. There are four tables. The first has products with the
Hessian, relative to one batched input gradient. The second has all 3,072 eigenvalues of one image. The third has the largest
eigenvalue of many images, compared with PyHessian where it is installed. The fourth has memory, in separate processes. Errors
are relative to the same quantity in float64.

The data directory has the parquet files of cifar10, the weights directory has resnet20-12fca82f.th.
"""

import argparse
import gc
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peaks import peak_increase  # noqa: E402
from rows import Row, show  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lowcurve.analysis.calculus import Jet, gradient, pullback  # noqa: E402
from lowcurve.analysis.hessians import gauss_newton_spectrum, hessian  # noqa: E402
from lowcurve.analysis.spectra import dense, lanczos, spectrum  # noqa: E402
from lowcurve.data import Examples, Limits, load  # noqa: E402
from lowcurve.examples.public_networks import resnet20, soft_resnet20  # noqa: E402
from lowcurve.losses import LossField, loss_field  # noqa: E402
from lowcurve.randomness import normal, stream  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

Ways = dict[str, Callable[[], Any]]


def network(args: argparse.Namespace, *, soft: bool = True) -> nn.Module:
    """Load the trained ResNet-20 with frozen weights."""
    model = soft_resnet20() if soft else resnet20()
    load_weights(model, args.weights_dir / "resnet20-12fca82f.th")
    return model.eval().requires_grad_(requires_grad=False)


def images(args: argparse.Namespace, count: int) -> Examples:
    """Load test images of CIFAR-10."""
    test = load("cifar10", data_dir=str(args.data_dir), limits=Limits(train=1, validation=1)).test
    return test.take(slice(count))


def best(ways: Ways, rounds: int) -> dict[str, float]:
    """Return the seconds of each candidate, the best of interleaved rounds."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            start = time.perf_counter()
            way()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def products(args: argparse.Namespace) -> list[Row]:
    """Time one product for 64 images, or with 64 vectors of one image, relative to one batched input gradient."""
    few = images(args, 64)
    x, y = few.pixels(slice(None)), few.y
    model = network(args)
    field, alone = loss_field(model, y), loss_field(model, y[:1])
    v = normal(x, generator=stream(0, "vectors"))
    fast, slow, one = hessian(field, x), hessian(field, x, replay=False), hessian(alone, x[:1])
    slow_one = hessian(alone, x[:1], replay=False)
    fast(v), slow(v), slow_one.apply_many(v[:, None])

    def forward_over_reverse() -> Tensor:
        return torch.func.jvp(lambda p: gradient_of(field, p), (x,), (v,))[1]

    ways: Ways = {
        "input gradient": lambda: gradient(field, x),
        "recording (once)": lambda: hessian(field, x),
        "replayed, 64 images": lambda: fast(v),
        "replayed, 64 vectors of one image": lambda: one.apply_many(v[:, None]),
        "fallback, 64 images": lambda: slow(v),
        "fallback, 64 vectors of one image": lambda: slow_one.apply_many(v[:, None]),
        "torch.func.jvp of the gradient": forward_over_reverse,
    }
    seconds = best(ways, args.rounds)
    double = loss_field(network(args).double(), y[:16])
    exact = hessian(double, x[:16].double(), replay=False)(v[:16].double())
    errors = {
        "replayed, 64 images": relative(fast(v)[:16], exact),
        "fallback, 64 images": relative(slow(v)[:16], exact),
    }
    with torch.no_grad():
        losses = field(x)[:16]
    print(f"losses of the 16 images of the error column: {float(losses.min()):.1e} to {float(losses.max()):.1e}")
    return [
        {"what": name, "ms": 1e3 * took, "gradients": took / seconds["input gradient"], "error": errors.get(name)}
        for name, took in seconds.items()
    ]


def gradient_of(field: LossField, x: Tensor) -> Tensor:
    """Return the gradient of the sum by torch.func."""
    return torch.func.grad(lambda p: field(p).sum())(x)


def relative(found: Tensor, exact: Tensor) -> float:
    """Return the largest error of an image's product, relative to its length."""
    return float(((found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max())


def profile(args: argparse.Namespace) -> list[Row]:
    """Time all eigenvalues of one image. Slow candidates are timed on a part and scaled, as the column "timed" says."""
    few = images(args, 64)
    x, y = few.pixels(slice(None)), few.y
    field, alone = loss_field(network(args), y), loss_field(network(args), y[:1])
    size, part = x[0].numel(), 64 if args.quick else 256
    units = torch.eye(size).view(size, 1, *x.shape[1:])
    relu = loss_field(network(args, soft=False), y)
    matrix = dense(hessian(alone, x[:1]), x[:1])
    kept = hessian(alone, x[:1], replay=False)
    kept(units[0])
    jet = Jet(alone, x[:1])  # torch's own second derivatives
    operator = hessian(alone, x[:1])
    ways: Ways = {
        "input gradients, one an eigenvalue": lambda: gradient(field, x),
        "replayed products": lambda: [operator.apply_many(p) for p in units[:part].split(128)],
        "all columns": lambda: dense(operator, x[:1]),
        "torch's kept graph, one at a time": lambda: [
            pullback(jet.gradient, jet.x, u, retain_graph=True) for u in units[: part // 8]
        ],
        "fallback, one at a time": lambda: [kept(u) for u in units[: part // 8]],
        "eigvalsh (float64)": lambda: spectrum(matrix),
        "ReLU network, exact, 64 images": lambda: gauss_newton_spectrum(relu, x),
        "gradient of the ReLU network": lambda: gradient(relu, x),
    }
    seconds = best(ways, max(1, args.rounds // 2))
    times = {
        "input gradients, one an eigenvalue": size / 64, "replayed products": size / part, "all columns": 1,
        "torch's kept graph, one at a time": size / (part // 8), "fallback, one at a time": size / (part // 8),
        "eigvalsh (float64)": 1,
    }  # fmt: skip
    rows: list[Row] = [
        {"what": name, "s": seconds[name] * factor, "timed": f"1/{factor:.0f}, scaled" if factor > 1 else "whole"}
        for name, factor in times.items()
    ]
    gradients = seconds["ReLU network, exact, 64 images"] / seconds["gradient of the ReLU network"]
    took = {row["what"]: float(row["s"]) for row in rows}  # type: ignore[arg-type]
    columns, values = took["all columns"], took["eigvalsh (float64)"]
    rows.append({"what": "all eigenvalues of one image", "s": columns + values, "timed": "sum"})
    rows.append(
        {"what": "one at a time over many at once", "times": took["torch's kept graph, one at a time"] / columns}
    )
    rows.append({"what": "ReLU network: exact spectrum", "gradients": gradients})
    return rows


def largest(args: argparse.Namespace) -> list[Row]:
    """Time the eigenvalue of largest magnitude of each image, with the number of products and the error."""
    count = 8 if args.quick else 64
    few = images(args, count)
    x, y = few.pixels(slice(None)), few.y
    model = network(args)
    field = loss_field(model, y)
    ends = lanczos(hessian(field, x), gradient(field, x), steps=12, tolerance=1e-3)
    double = loss_field(network(args).double(), y)
    truth = lanczos(hessian(double, x.double()), gradient(double, x.double()), steps=60, tolerance=1e-9).spectral_norm
    error = (ends.spectral_norm / truth - 1).abs()
    theirs: dict[int, float] = {}

    def ours() -> None:
        operator = hessian(field, x)
        lanczos(operator, operator.gradient, steps=12, tolerance=1e-3)

    def pyhessian() -> None:
        for k in range(2 if args.quick else 6):
            theirs[k] = by_pyhessian(model, x[k : k + 1], y[k : k + 1])

    ways: Ways = {"lowcurve: Lanczos from the gradient, batched": ours}
    if importlib.util.find_spec("pyhessian"):
        ways["PyHessian: power iteration, one image at a time"] = pyhessian
    else:
        print("PyHessian is not installed and left out")
    seconds = best(ways, max(1, args.rounds // 2))
    an_image = {name: took / (len(theirs) if "PyHessian" in name else count) for name, took in seconds.items()}
    first = next(iter(an_image))
    rows: list[Row] = [
        {
            "what": first, "ms an image": 1e3 * an_image[first], "times": 1.0, "worst error": float(error.max()),
            "median error": float(error.median()), "products at most": ends.max_products,
        }
    ]  # fmt: skip
    for name in list(an_image)[1:]:
        off = [abs(abs(value) / float(truth[k]) - 1) for k, value in theirs.items()]
        took = an_image[name]
        rows.append({"what": name, "ms an image": 1e3 * took, "times": took / an_image[first], "worst error": max(off)})
    return rows


class _Image(nn.Module):
    """A network whose image is a parameter, because PyHessian differentiates in parameters only."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model, self.image = model, nn.Parameter(x.clone())

    def forward(self, _: Tensor) -> Tensor:
        return torch.as_tensor(self.model(self.image))


def by_pyhessian(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return PyHessian's top eigenvalue at the same tolerance."""
    from pyhessian import hessian as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = theirs(_Image(model, x), nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        return float(problem.eigenvalues(maxIter=100, tol=1e-3, top_n=1)[0][0])


def memory(args: argparse.Namespace) -> list[Row]:
    """Measure by how much products raise the peak of memory over that of the network, in separate processes."""
    rows: list[Row] = []
    for chunk in (64, 128):
        command = [sys.executable, __file__, "--data-dir", str(args.data_dir), "--weights-dir", str(args.weights_dir)]
        output = subprocess.run([*command, "--peak", str(chunk)], capture_output=True, text=True, check=True).stdout
        rows.append({"what": f"{chunk} products of one image at once", "MB": float(output.split()[0])})
        rows.append({"what": f"{chunk} images at once", "MB": float(output.split()[1])})
    return rows


def peak(args: argparse.Namespace) -> None:
    """Print the increase of the memory peak for several products of one image, and for the same number of images."""
    few = images(args, args.peak)
    x, y = few.pixels(slice(None)), few.y
    model, v = network(args), normal(x, generator=stream(0, "vectors"))
    gradient(loss_field(model, y[:1]), x[:1])
    for run in (
        lambda: hessian(loss_field(model, y[:1]), x[:1]).apply_many(v[:, None]),
        lambda: hessian(loss_field(model, y), x)(v),
    ):
        print(peak_increase(run))


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (default 7; quick 2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rounds and images")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 7)
    torch.set_num_threads(args.threads)
    if args.peak:
        peak(args)
        return
    content: dict[str, object] = {
        "threads": args.threads, "rounds": args.rounds, "torch": torch.__version__, "Python": platform.python_version(),
        "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"), "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
    }  # fmt: skip
    print(", ".join(f"{name}: {value}" for name, value in content.items()))
    for name, table in (("products", products), ("profile", profile), ("largest", largest), ("memory", memory)):
        content[name] = rows = table(args)
        show(name, rows)
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
