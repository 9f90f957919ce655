"""Compare attacks with those of other libraries: the same attack, steps and network, interleaved in one run.

    python benchmarks/attacks.py --data-dir DIR --weights-dir DIR [--quick] [--strong] [--json FILE]

There are three tables. *Speed*: FGSM and PGD-20 of lowcurve, foolbox and torchattacks, in seconds from images to robust
accuracy. lowcurve runs with the active set of `evaluation.attack` and, by a plain call, without it. One function computes
robust accuracy from the inputs of each library; `evaluation.attack` includes that already. *Memory*: the peak of a separate
process. *--strong*: the suite `strong` against the standard version of pyautoattack, image by image, which takes many minutes.
Libraries that are not installed are left out and named.

The data directory has the parquet files of mnist and cifar10. The weights directory has mnist_lenet5_clntrained.pt,
mnist_lenet5_advtrained.pt and resnet20-12fca82f.th.
"""

import argparse
import importlib.util
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peaks import peak_increase  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lowcurve import evaluation  # noqa: E402
from lowcurve.analysis.norms import L2, LINF, Ball  # noqa: E402
from lowcurve.attacks import FGSM, FULL, PGD, strong  # noqa: E402
from lowcurve.data import Examples, Limits, load  # noqa: E402
from lowcurve.examples.public_networks import lenet5, resnet20  # noqa: E402
from lowcurve.losses import cross_entropy  # noqa: E402
from lowcurve.randomness import stream  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

NETWORKS = {
    "ResNet-20": (resnet20, "resnet20-12fca82f.th", "cifar10", 8 / 255, 0.5),
    "LeNet5": (lenet5, "mnist_lenet5_clntrained.pt", "mnist", 0.1, 1.5),
    "LeNet5 adv.": (lenet5, "mnist_lenet5_advtrained.pt", "mnist", 0.3, 1.5),
}
"""Factory, file of weights, data set, radius in l_inf and radius in l_2 for each name."""
Run = Callable[[], Tensor]


def network(name: str, args: argparse.Namespace) -> tuple[nn.Module, Examples, float, float]:
    """Load a public network and its test images."""
    build, file, data, radius, round_radius = NETWORKS[name]
    model = build()
    load_weights(model, args.weights_dir / file)
    test = load(data, data_dir=str(args.data_dir), limits=Limits(train=1, validation=1)).test
    return model.eval(), test.take(slice(args.examples)), radius, round_radius


def ways(
    model: nn.Module, few: Examples, radius: float, round_radius: float, missing: set[str]
) -> dict[str, dict[str, Run]]:
    """Return functions that run each attack with each library, with step 2.5 radius / steps and one random start."""
    x, y = few.pixels(slice(None)), few.y
    flat, round_ = Ball(LINF, radius), Ball(L2, round_radius)
    ours = {
        "FGSM": FGSM(flat),
        "PGD-20 l_inf": PGD(flat, loss=cross_entropy),
        "PGD-20 l_2": PGD(round_, step_size=2.5 * round_radius / 20, loss=cross_entropy),
    }
    found: dict[str, dict[str, Run]] = {}
    for name, attack in ours.items():
        found[name] = {
            "lowcurve": lambda attack=attack: torch.from_numpy(evaluation.attack(model, few, attack).robust),
            "lowcurve, no active set": lambda attack=attack: torch.cat(
                [attack(model, a, b, generator=stream(0)) for a, b in zip(x.split(256), y.split(256), strict=True)]
            ),
        }
    if importlib.util.find_spec("foolbox"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import foolbox
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        theirs = {
            "FGSM": (foolbox.attacks.FGSM(), radius),
            "PGD-20 l_inf": (foolbox.attacks.LinfPGD(rel_stepsize=2.5 / 20, steps=20), radius),
            "PGD-20 l_2": (foolbox.attacks.L2PGD(rel_stepsize=2.5 / 20, steps=20), round_radius),
        }
        for name, (attack, reach) in theirs.items():
            found[name]["foolbox"] = lambda attack=attack, reach=reach: torch.cat(
                [attack(wrapped, a, b, epsilons=reach)[1] for a, b in zip(x.split(256), y.split(256), strict=True)]
            )
    else:
        missing.add("foolbox")
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        step, round_step = 2.5 * radius / 20, 2.5 * round_radius / 20
        others = {
            "FGSM": torchattacks.FGSM(model, eps=radius),
            "PGD-20 l_inf": torchattacks.PGD(model, eps=radius, alpha=step, steps=20),
            "PGD-20 l_2": torchattacks.PGDL2(model, eps=round_radius, alpha=round_step, steps=20),
        }
        for name, attack in others.items():
            found[name]["torchattacks"] = lambda attack=attack: torch.cat(
                [attack(a, b) for a, b in zip(x.split(256), y.split(256), strict=True)]
            )
    else:
        missing.add("torchattacks")
    return found


def robust(model: nn.Module, few: Examples, inputs: Tensor) -> Tensor:
    """Return the images that are correct at the clean and at the attacked inputs; a boolean tensor is returned unchanged."""
    if inputs.dtype == torch.bool:
        return inputs
    with torch.no_grad():
        return (model(few.pixels(slice(None))).argmax(1) == few.y) & (model(inputs.detach()).argmax(1) == few.y)


def speed(args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure the median wall-clock seconds over interleaved rounds."""
    rows, missing = [], set()
    for name in args.networks:
        model, few, radius, round_radius = network(name, args)
        for attack, libraries in ways(model, few, radius, round_radius, missing).items():
            seconds: dict[str, list[float]] = {library: [] for library in libraries}
            accuracy = {}
            for _ in range(args.rounds):
                for library, run in libraries.items():
                    torch.manual_seed(0)
                    start = time.perf_counter()
                    left = run()
                    accuracy[library] = float(robust(model, few, left).double().mean())
                    seconds[library].append(time.perf_counter() - start)
            base = statistics.median(seconds["lowcurve"])
            for library, times in seconds.items():
                middle = statistics.median(times)
                rows.append(
                    {"network": name, "attack": attack, "library": library, "seconds": middle,
                     "times lowcurve": middle / base, "robust accuracy": accuracy[library]}
                )  # fmt: skip
                print(f"{name:12} {attack:13} {library:24} {middle:8.3f} s  x {middle / base:5.2f}  "
                      f"{accuracy[library]:6.1%}", flush=True)  # fmt: skip
    for library in sorted(missing):
        print(f"{library} is not installed and left out")
    return rows


def memory(args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure the peak memory of PGD-20 in l_inf over that of the network and the images, one process per library."""
    rows = []
    for library in ("lowcurve", "foolbox", "torchattacks"):
        if library != "lowcurve" and not importlib.util.find_spec(library):
            continue
        command = [sys.executable, __file__, "--data-dir", str(args.data_dir), "--weights-dir", str(args.weights_dir)]
        command += ["--examples", str(args.examples), "--peak", library, "--networks", args.networks[0]]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append({"network": args.networks[0], "attack": "PGD-20 l_inf", "library": library, "MB": float(output)})
        print(f"{args.networks[0]:12} PGD-20 l_inf  {library:24} {float(output):8.0f} MB", flush=True)
    return rows


def peak(args: argparse.Namespace) -> None:
    """Print by how much PGD-20 raises the peak of memory."""
    model, few, radius, round_radius = network(args.networks[0], args)
    run = ways(model, few, radius, round_radius, set())["PGD-20 l_inf"][args.peak]
    with torch.no_grad():
        model(few.pixels(slice(0, 1)))
    print(peak_increase(run))


def against_autoattack(args: argparse.Namespace) -> list[dict[str, object]]:
    """Compare `strong` and pyautoattack's standard version on the same images: robust images and seconds."""
    from pyautoattack import AutoAttack

    logging.getLogger("pyautoattack").setLevel(logging.ERROR)
    rows = []
    for name in args.networks:
        model, few, radius, _ = network(name, args)
        x, y = few.pixels(slice(None)), few.y
        # CPU time of this process: in minutes of wall-clock time, other processes would count as well.
        start = time.process_time()
        ours = evaluation.attack(model, few, strong("linf", radius, effort=args.effort), seed=args.seed)
        middle = time.process_time()
        print(f"{name}: strong leaves {int(ours.robust.sum())} of {len(few)} in {middle - start:.1f} s", flush=True)
        reference = AutoAttack(model, norm="Linf", eps=radius, version="standard", device="cpu", seed=args.seed)
        inputs = reference.run_standard_evaluation(x, y, batch_size=250)
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        seconds = (middle - start, time.process_time() - middle)
        theirs = robust(model, few, inputs).numpy()
        row = {
            "network": name, "seed": args.seed, "radius": radius, "examples": len(few),
            "strong robust": int(ours.robust.sum()), "AutoAttack robust": int(theirs.sum()),
            "only strong fools": int((theirs & ~ours.robust).sum()),
            "only AutoAttack fools": int((~theirs & ours.robust).sum()), "strong seconds": seconds[0],
            "AutoAttack seconds": seconds[1], "times strong": seconds[1] / seconds[0],
        }  # fmt: skip
        rows.append(row)
        print(", ".join(f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True)
    return rows


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("LOWCURVE_DATA"), required="LOWCURVE_DATA" not in os.environ
    )
    parser.add_argument(
        "--weights-dir",
        type=Path,
        default=os.environ.get("LOWCURVE_WEIGHTS"),
        required="LOWCURVE_WEIGHTS" not in os.environ,
    )
    parser.add_argument("--examples", type=int, default=None, help="test images (default 500; quick 16)")
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (default 5; quick 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of strong and of AutoAttack")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer images, fewer rounds")
    parser.add_argument("--strong", action="store_true", help="the suite strong against AutoAttack; many minutes")
    parser.add_argument("--queries", type=int, default=FULL.queries, help="queries of Square in strong")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.examples = args.examples or (16 if args.quick else 500)
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.effort = replace(FULL, queries=args.queries)
    torch.set_num_threads(args.threads)
    if args.peak:
        peak(args)
        return
    settings = {
        "threads": torch.get_num_threads(), "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"], "examples": args.examples,
        "rounds": args.rounds, "strong": asdict(args.effort), "torch": torch.__version__, "Python": platform.python_version(),
        "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(", ".join(f"{key}: {value}" for key, value in settings.items()), flush=True)
    content: dict[str, object] = {"settings": settings}
    if args.strong:
        content["strong"] = against_autoattack(args)
    else:
        content |= {"speed": speed(args), "memory": memory(args)}
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
