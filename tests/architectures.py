"""Examine a network of another library: each cell is a number or one sentence."""

import time
import warnings
from collections.abc import Callable

import torch
from foreign_networks import CLASSES, Foreign
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, relu6
from torch.overrides import TorchFunctionMode

import lowcurve as lc
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import REPLAYED
from lowcurve.models.smoothness import smoothness

Cell = float | int | str
H = 0.5
"""Scale of CURE, in pixel units."""
CRASH = "crash: "


class HardSigmoid(TorchFunctionMode):
    """Write hardsigmoid, which has no second derivative in torch, as ReLU6, which has one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "hardsigmoid":
            return relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


def guarded(compute: Callable[[], dict[str, Cell]], name: str) -> dict[str, Cell]:
    """Return the cells, or the sentence of an error in the first one's place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute()
    except lc.InputError as error:
        return {name: " ".join(str(error).split())}
    except Exception as error:
        return {name: f"{CRASH}{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def examine(network: Foreign, *, images: int = 2, many: int = 2, rounds: int = 1) -> dict[str, Cell]:
    """Return all cells of a network, with the cost of a product for as many images as `many`."""
    model, y = network.build(), torch.arange(images) % CLASSES
    x = network.images(images)
    cells: dict[str, Cell] = {"parameters": sum(p.numel() for p in model.parameters()), "pixels": network.pixels}
    cells |= guarded(lambda: _measure(model, x, y), "measure")
    cells |= guarded(lambda: _cost(model, network.images(many), rounds), "product, in input gradients")
    cells |= guarded(lambda: _certificate(model, x), "certificate")
    cells |= guarded(lambda: _convert(model, x, lc.models.SmoothConversion(), strict=True), "convert")
    cells |= guarded(lambda: _convert(model, x, lc.models.LCNNConversion(), strict=False), "convert to LCNN")
    cells |= guarded(lambda: _fold(model, x), "fold")
    double, wide = model.double(), x[:2].double()
    cells |= guarded(lambda: _product(double, wide, y[:2]), "product, error")
    for name, penalty, reference in (
        ("CURE", lc.CURE(h=H), _cure),
        ("gradient norm", lc.InputGradientNorm(), _gradient_norm),
    ):
        cells |= guarded(lambda p=penalty, r=reference, n=name: _penalty(double, wide, y[:2], p, r, n), name)
    return cells


def _measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Cell]:
    found = lc.measure(model, x[:1], y[:1], lc.Curvature())
    return {"measure": float(found["normalized curvature"].mean())}


def _cost(model: nn.Module, x: Tensor, rounds: int) -> dict[str, Cell]:
    y = torch.arange(len(x)) % CLASSES
    model.requires_grad_(False)
    try:
        field, v = lc.loss_field(model, y), torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        product = lc.hessian(field, x)
        ways = {"gradient": lambda: gradient(field, x), "product": lambda: product(v)}
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds + 1):
            for name, way in ways.items():
                started = time.process_time()  # other programs may run beside it
                way()
                best[name] = min(best[name], time.process_time() - started)
    finally:
        model.requires_grad_(True)
    way = "replayed" if product.backend == REPLAYED else product.backend
    return {"way": way, "product, in input gradients": best["product"] / best["gradient"]}


def _certificate(model: nn.Module, x: Tensor) -> dict[str, Cell]:
    return {"certificate": float(smoothness(model, x[:1]).lipschitz.max())}


def _convert(model: nn.Module, x: Tensor, conversion, *, strict: bool) -> dict[str, Cell]:
    report = lc.convert(model, conversion, example=x, strict=strict).conversion_report
    smooth = isinstance(conversion, lc.models.SmoothConversion)
    name = "convert" if smooth else "convert to LCNN"
    return {name: len(report.replaced), f"{name}, left": "; ".join(f"{k} ({v})" for k, v in [*report.left.items()][:4])}


def _fold(model: nn.Module, x: Tensor) -> dict[str, Cell]:
    report = lc.fold(model, example=x).folding_report
    return {"fold": report.layers, "fold, difference": report.difference}


def _product(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Cell]:
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    model.train().eval()  # some networks keep tensors of a pass until their mode changes
    found = lc.hessian(lc.loss_field(model, y), x)(v)

    def loss(p: Tensor) -> Tensor:
        return cross_entropy(model(p), y, reduction="sum")

    with sdpa_kernel(SDPBackend.MATH), HardSigmoid():
        try:
            exact, by = torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1], "torch.func"
        except Exception:  # an operation without forward mode
            point = x.clone().requires_grad_()
            (first,) = torch.autograd.grad(loss(point), point, create_graph=True)
            (exact,), by = torch.autograd.grad(first, point, v), "double backward"
    return {"product, error": float((found - exact).norm() / exact.norm()), "reference": by}


def _penalty(model: nn.Module, x: Tensor, y: Tensor, penalty, reference, name: str) -> dict[str, Cell]:
    objective = lc.Objective(penalties={"penalty": lc.Term(penalty, 1.0)}, statistics="frozen")
    model.train().eval()  # some networks keep tensors of a pass until their mode changes
    found = _gradients(objective.terms(model, x, y)["penalty"], model)
    model.train().eval()
    with sdpa_kernel(SDPBackend.MATH), HardSigmoid():
        exact = _gradients(reference(model, x, y), model)
    lc.Objective(penalties={"penalty": lc.Term(penalty, 1.0)}).terms(model.train(), x, y)["penalty"].backward()
    model.eval().zero_grad()
    return {name: float((found - exact).norm() / exact.norm())}


def _gradients(value: Tensor, model: nn.Module) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(point), y, reduction="sum"), point, create_graph=True)[0]


def _gradient_norm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _input_gradient(model, x, y).square().flatten(1).sum(1).mean()


def _cure(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    clean = _input_gradient(model, x, y)
    z = clean.detach().sign()
    z = z / z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (_input_gradient(model, x + H * z, y) - clean).square().flatten(1).sum(1).mean()
