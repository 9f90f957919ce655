"""Measure time, floating-point operations and memory of a training step of every method, relative to a plain step.

    python benchmarks/training_step.py [--quick] [--json FILE] [--device cuda --width 64]

The network is ResNet-18 for 32 x 32 images at initialization, on random images. It has softplus (beta = 10) instead of ReLU,
so that first-order differences are accurate. All methods use the same weights, batch and BatchNorm mode (frozen statistics,
which all of them support). Their precision is float32, and some are there a second time in mixed precision (bfloat16). They
run interleaved in a new order each round, each twice in a row as in training, and the best second run of each counts. A step
goes from the batch to the parameters' gradients and the optimizer's update. torch counts the operations. Memory is the
increase of the peak over the resident memory, in a separate process.

LCNN's steps use the converted network and include power iteration. A line below the table gives its cost in inference once it
is folded, relative to the plain network.

For comparison, "public CURE code" has the passes of the code that was released with moosavi2019cure. The loss takes one forward
pass. The direction z takes two more, one of them unused, and a backward pass to the weights as well. Each end of the difference
takes one forward pass and is differentiated twice. Statistics are frozen here as well.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

# Set before torch is imported: spinning threads cost a factor of 60 on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peaks import peak_increase  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import flop_registry  # noqa: E402

from lowcurve.analysis.norms import L1, LINF, Ball, pixels  # noqa: E402
from lowcurve.attacks import NFGSM, PGD  # noqa: E402
from lowcurve.losses import cross_entropy, margin  # noqa: E402
from lowcurve.memory import keep_freed_memory  # noqa: E402
from lowcurve.models import ConvertedNetwork, LCNNConversion, Network, fold, update_norms  # noqa: E402
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, GradAlign, InputGradientNorm, Penalty  # noqa: E402
from lowcurve.penalties.lcnn import PUBLISHED  # noqa: E402
from lowcurve.randomness import permutation, stream, uniform  # noqa: E402
from lowcurve.results import Column, Table, dump  # noqa: E402
from lowcurve.training import Objective, Term  # noqa: E402

Step = Callable[[], object]
Row = dict[str, object]
BALL = Ball(LINF, pixels(8))
HALVED = ("plain", "gradient norm, l_1, exact", "PGD-7")
"""The methods that are also measured in mixed precision."""
SCALE = 0.6
"""The h of CURE, as in the released code for pixels in [0, 1]."""
REFERENCE = "public CURE code"


def with_penalty(penalty: Penalty, every: int = 1) -> Objective:
    """Return the objective of cross-entropy and one penalty."""
    return Objective(penalties={"penalty": Term(penalty, 1.0, every=every)}, statistics="frozen")


def objectives() -> dict[str, Objective]:
    """Return every method by name, the plain step first."""
    plain = Objective(statistics="frozen")
    cure = CURE(SCALE, squared=False)
    return {
        "plain": plain,
        "gradient norm, exact": with_penalty(InputGradientNorm()),
        "gradient norm, l_1, exact": with_penalty(InputGradientNorm(L1, squared=False)),
        "gradient norm, first order": with_penalty(InputGradientNorm(differentiation="first_order")),
        "Jacobian of the margin, exact": with_penalty(InputGradientNorm(L1, squared=False, of=margin)),
        "CURE, exact": with_penalty(cure),
        "CURE, first order": with_penalty(replace(cure, differentiation="first_order")),
        "CURE, first order, detached": with_penalty(replace(cure, differentiation="first_order_detached")),
        "CURE, detached": with_penalty(replace(cure, differentiation="detached")),
        "CURE, exact, every 4th step": with_penalty(cure, every=4),
        "GradAlign": with_penalty(GradAlign()),
        "GradAlign, detached": with_penalty(GradAlign(differentiation="detached")),
        "LLR, 2 steps": with_penalty(LLR(steps=2)),
        "ELLE": with_penalty(ELLE()),
        "N-FGSM": replace(plain, attack=NFGSM(BALL)),
        "PGD-7": replace(plain, attack=PGD(BALL, steps=7, answer="last")),
        "TRADES, 7 steps": with_penalty(TRADES(BALL, steps=7)),
    }


def converted_objectives() -> dict[str, Objective]:
    """Return the methods for a converted network."""
    penalty = Term(PUBLISHED, 1.0)
    both = {"low curvature": penalty, "gradient": Term(InputGradientNorm(), 1.0)}
    return {
        "LCNN": Objective(penalties={"low curvature": penalty}, statistics="frozen"),
        "LCNN + gradient norm": Objective(penalties=both, statistics="frozen"),
    }


class Operations(TorchDispatchMode):
    """Count floating-point operations. torch's own counter also follows modules, which fails for input gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


class Trainer:
    """A network, a batch and an optimizer, on which any objective can take a step."""

    def __init__(self, args: argparse.Namespace, *, converted: bool = False) -> None:
        spec = Network("resnet18", (3, 32, 32), 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "softplus", args.width)
        source = ConvertedNetwork(spec, LCNNConversion(), spec.shape) if converted else spec
        self.model = source.build(seed=0).to(args.device).eval()
        x = uniform(torch.zeros(args.batch, 3, 32, 32), 0.0, 1.0, generator=stream(0, "images"))
        self.x, self.y = x.to(args.device), (torch.arange(args.batch) % 10).to(args.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)

    def step(self, objective: Objective, number: int = 0, *, half: bool = False) -> None:
        """Take one step of an objective, in mixed precision if `half`."""
        self.optimizer.zero_grad(set_to_none=True)
        autocast = partial(torch.autocast, self.x.device.type, torch.bfloat16, enabled=half)
        source = stream(0, number)
        values = objective.term_values(self.model, self.x, self.y, generator=source, step=number, autocast=autocast)
        torch.stack([value.weight * value.mean for value in values.values()]).sum().backward()
        self.optimizer.step()
        update_norms(self.model)  # has an effect only for a converted network

    def public_cure(self) -> None:
        """Run the passes of the released code; see the docstring of this file."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(self.x), self.y).mean()
        x = self.x.clone().requires_grad_()
        self.model(x)
        found = cross_entropy(self.model(x), self.y).sum()
        wanted = [x, *self.model.parameters()]
        sign = torch.autograd.grad(found, wanted)[0].sign()
        z = SCALE * (sign + 1e-7) / (sign.flatten(1).norm(dim=1)[:, None, None, None] + 1e-7)
        ends = [cross_entropy(self.model(point), self.y) for point in (x + z, x)]
        change = torch.autograd.grad((ends[0] - ends[1]).sum(), x, create_graph=True)[0]
        (loss + change.flatten(1).norm(dim=1).mean()).backward()
        self.optimizer.step()


def ways(trainer: Trainer, low: Trainer, *names: str) -> dict[str, Step]:
    """Return a function for each method that runs its steps until they repeat. `low` has the converted network."""
    found: dict[str, Step] = {}
    for by, group in ((trainer, objectives()), (low, converted_objectives())):
        for name, objective in group.items():
            rounds = period(objective)
            found[name] = lambda t=by, o=objective, r=rounds: [t.step(o, k) for k in range(r)]  # type: ignore[misc]
    for name in HALVED:
        found[f"{name}, bfloat16"] = partial(trainer.step, objectives()[name], half=True)
    found[REFERENCE] = trainer.public_cure
    return {name: way for name, way in found.items() if not names or name in names}


def period(objective: Objective | None) -> int:
    """Return the number of steps after which an objective repeats."""
    return 1 if objective is None else max((term.every for term in objective.penalties.values()), default=1)


def measure_methods(args: argparse.Namespace) -> list[Row]:
    """Measure time and operations of every method, relative to a plain step."""
    trainer, low = Trainer(args), Trainer(args, converted=True)
    steps = ways(trainer, low)
    lengths = {name: period(objectives().get(name)) for name in steps}
    operations = {}
    for name, step in steps.items():
        step()  # excludes what the first step computes once for a network
        with Operations() as counter:
            step()
        operations[name] = counter.count / lengths[name]
    seconds = {name: found / lengths[name] for name, found in time_all(steps, args).items()}
    rows: list[Row] = []
    for name in steps:
        row: Row = {
            "method": name, "ms": 1e3 * seconds[name], "time": seconds[name] / seconds["plain"],
            "operations": operations[name] / operations["plain"],
        }  # fmt: skip
        rows.append(row)
    if not args.quick:
        for row in rows:
            row["MB"] = memory(args, str(row["method"]))
    return rows


def time_all(steps: dict[str, Step], args: argparse.Namespace) -> dict[str, float]:
    """Return the best seconds of each function, interleaved in a new order each round, the second of two runs in a row."""
    # CPU time of this process if it has one thread, so that other processes do not count.
    clock = time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter
    seconds = dict.fromkeys(steps, float("inf"))
    names = list(steps)
    for number in range(args.rounds):
        for place in permutation(len(names), generator=stream(0, "order", number)).tolist():
            name = names[place]
            gc.collect()
            steps[name]()  # as in training, where a step follows one of the same kind and finds memory as that left it
            start = clock()
            steps[name]()
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds[name] = min(seconds[name], clock() - start)
    return seconds


def table_of(rows: list[Row]) -> Table:
    """Return the rows as a table for the reader."""
    columns = (
        Column("a step of"), Column("time", "In plain steps.", ".2f"), Column("operations", "In plain steps.", ".2f"),
        Column("MB", "Increase of the peak of memory.", ".0f"),
    )  # fmt: skip
    cells = tuple(tuple(row.get(key) for key in ("method", "time", "operations", "MB")) for row in rows)
    return Table("Training steps, relative to a plain step", columns, cells)  # type: ignore[arg-type]


@torch.no_grad()
def inference(args: argparse.Namespace) -> dict[str, float]:
    """Time a forward pass of the converted and the folded network, relative to the plain one."""
    plain, low = Trainer(args), Trainer(args, converted=True)
    folded = fold(low.model, example=low.x[:2]).eval()
    networks = {"plain": plain.model, "converted": low.model, "folded": folded}
    seconds = time_all({name: lambda m=model: m(plain.x) for name, model in networks.items()}, args)  # type: ignore[misc]
    return {name: found / seconds["plain"] for name, found in seconds.items()}


def memory(args: argparse.Namespace, name: str) -> float:
    """Measure by how much one step raises the peak of memory, in a separate process."""
    if args.device == "cuda":
        step = ways(Trainer(args), Trainer(args, converted=True), name)[name]
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--batch", str(args.batch), "--width", str(args.width), "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(args: argparse.Namespace) -> None:
    """Print by how much one step raises the peak of memory."""
    trainer = Trainer(args, converted=args.peak in converted_objectives())
    few = Trainer(argparse.Namespace(**{**vars(args), "batch": 1}))
    ways(few, few, "plain")["plain"]()  # excludes the libraries that the first step loads
    print(peak_increase(ways(trainer, trainer, args.peak)[args.peak]))


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (default 7; quick 2)")
    parser.add_argument("--batch", type=int, default=None, help="images a step (default 32; quick 6)")
    parser.add_argument("--width", type=int, default=16, help="channels of the network's first stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rounds and images, and no memory")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 7)
    args.batch = args.batch or (6 if args.quick else 32)
    torch.set_num_threads(args.threads)
    kept = keep_freed_memory()  # as the commands do
    if args.peak:
        peak(args)
        return
    settings = {
        "network": f"ResNet-18, width {args.width}, softplus", "batch": args.batch, "threads": args.threads,
        "rounds": args.rounds, "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "precision": "float32 or as named", "BatchNorm": "frozen", "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": platform.machine(), "date": time.strftime("%Y-%m-%d"), "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        "freed memory": "kept" if kept else "system default",
    }  # fmt: skip
    print(", ".join(f"{name}: {value}" for name, value in settings.items()))
    print(f"\n{'method':32}{'ms':>9}{'time':>8}{'operations':>12}{'MB':>8}")
    rows = measure_methods(args)
    for row in rows:
        held = f"{row['MB']:8.0f}" if "MB" in row else ""
        print(f"{row['method']:32}{row['ms']:9.1f}{row['time']:8.2f}{row['operations']:12.2f}{held}")
    times = {str(row["method"]): float(row["ms"]) for row in rows}  # type: ignore[arg-type]
    print(f"\n{REFERENCE} takes {times[REFERENCE] / times['CURE, exact']:.2f} times as long as CURE, exact")
    passes = inference(args)
    print(
        f"relative to the plain network, inference takes {passes['converted']:.2f} converted and {passes['folded']:.3f} folded"
    )
    if args.json:
        results = {"comparison": dump(table_of(rows))}
        content = {"settings": settings, "steps": rows, "inference": passes, "results": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
