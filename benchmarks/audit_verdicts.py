"""Audit public and small networks, honest and masked, and write the verdicts.

    python benchmarks/audit_verdicts.py --data-dir DIR --weights-dir DIR [--only NAME ...] [--json FILE]

Each row has the verdict and the tests that are raised. Run it before and after a change of the audit and compare. The budget
is small, so the script takes some minutes; rows of an existing file that are not asked for stay.
"""

import argparse
import inspect
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import faulty_networks as faulty  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import lowcurve as lc  # noqa: E402
from lowcurve import evaluation  # noqa: E402
from lowcurve.analysis.norms import Ball  # noqa: E402
from lowcurve.attacks import Effort, strong  # noqa: E402
from lowcurve.data import Examples, Limits, digits, load  # noqa: E402
from lowcurve.evaluation.audit import Budget, audit  # noqa: E402
from lowcurve.examples.public_networks import lenet5, resnet20  # noqa: E402
from lowcurve.store import load_weights  # noqa: E402

BUDGET = Budget(
    landscape_images=10, neighbors=10, apgd_steps=50, restarts=3, queries=500, noise_draws=1000, noise_images=5, spsa_steps=10,
    spsa_draws=16, spsa_images=10, long_steps=50,
)  # fmt: skip
EFFORT = Effort(steps=50, targets=3, queries=1000, relays=2, near=None)


class Transformer(nn.Module):
    """A small vision transformer for the digits: patches of 2 by 2, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.places = nn.Parameter(torch.zeros(1, 16, 32))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        tokens = self.patches(2 * x - 1).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(tokens.mean(1))


def transformer() -> nn.Module:
    """Return the transformer, trained for some seconds."""
    torch.manual_seed(0)
    model, train = Transformer(), digits().train
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = train.pixels(slice(None)), train.y
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def untrained() -> nn.Module:
    """Return a network that was not trained."""
    data = digits()
    return lc.Network("small-convnet", data.shape, 10, *data.statistics(), width=8).build(seed=1).eval()


def public(args: argparse.Namespace, name: str) -> tuple[nn.Module, Examples]:
    """Return a public network and its test images."""
    build, file, data, count = {
        "advtrained": (lenet5, "mnist_lenet5_advtrained.pt", "mnist", 100),
        "cleantrained": (lenet5, "mnist_lenet5_clntrained.pt", "mnist", 60),
        "resnet20": (resnet20, "resnet20-12fca82f.th", "cifar10", 20),
    }[name]
    model = build()
    load_weights(model, args.weights_dir / file)
    test = load(data, data_dir=str(args.data_dir), limits=Limits(train=1, validation=1, test=count)).test
    return model.eval(), test


def networks(args: argparse.Namespace) -> dict[str, tuple]:
    """Return for each row a function that gives network and images, and the ball."""
    few = digits().test.take(slice(60))
    return {
        "LeNet5 adv., l_inf 0.3": (lambda: public(args, "advtrained"), Ball("linf", 0.3)),
        "LeNet5 adv., l_2 1.5": (lambda: public(args, "advtrained"), Ball("l2", 1.5)),
        "LeNet5, l_inf 0.1": (lambda: public(args, "cleantrained"), Ball("linf", 0.1)),
        "ResNet-20, l_inf 8/255": (lambda: public(args, "resnet20"), Ball("linf", 8 / 255)),
        "digits, transformer, l_inf 0.1": (lambda: (transformer(), few), Ball("linf", 0.1)),
        "digits, transformer, l_inf 0.3": (lambda: (transformer(), few), Ball("linf", 0.3)),
        "digits, not trained, l_inf 0.1": (lambda: (untrained(), few), Ball("linf", 0.1)),
        "digits, standard, l_inf 0.1": (lambda: (faulty.standard(), few), Ball("linf", 0.1)),
        "digits, standard, l_2 0.5": (lambda: (faulty.standard(), few), Ball("l2", 0.5)),
        "digits, adversarial, l_inf 0.1": (lambda: (faulty.robust(), few), Ball("linf", 0.1)),
        "masked: 5 levels, l_inf 0.1": (lambda: (faulty.Quantized(faulty.standard()), few), Ball("linf", 0.1)),
        "masked: input noise, l_inf 0.1": (lambda: (faulty.Noisy(faulty.standard()), few), Ball("linf", 0.1)),
        "masked: shattered, l_inf 0.1": (lambda: (faulty.Shattered(faulty.standard()), few), Ball("linf", 0.1)),
        "masked: logits x 100, l_inf 0.1": (lambda: (faulty.Scaled(faulty.robust(), 100), few), Ball("linf", 0.1)),
    }


def main() -> None:
    """Audit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=None, help="names of rows")
    parser.add_argument("--label", default="after", help="name of this version of the audit")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"rows": {}}
    for name, (make, ball) in networks(args).items():
        if args.only and name not in args.only:
            continue
        model, images = make()
        start = time.process_time()
        attacked = evaluation.attack(model, images, strong(ball, effort=EFFORT), progress=False)
        extra = {"attacked": attacked} if "attacked" in inspect.signature(audit).parameters else {}
        found = audit(model, images, ball, budget=BUDGET, progress=False, **extra)
        raised = {k: [f.number for f in found.findings if f.outcome == k] for k in ("fail", "flag")}
        row = {
            "images": len(images), "clean": float(attacked.clean.mean()), "strong": float(attacked.robust.mean()),
            "verdict": found.verdict, **raised, "CPU seconds": round(time.process_time() - start, 1),
        }  # fmt: skip
        content["rows"].setdefault(name, {})[args.label] = row
        print(
            f"{name}: strong {row['strong']:.1%}, fail {raised['fail']}, flag {raised['flag']}: {found.verdict}",
            flush=True,
        )
        if args.json:
            content["settings"] = {"torch": torch.__version__, "machine": platform.machine()}
            args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
