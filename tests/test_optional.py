"""A number that cannot be computed for a network is missing with its reason, and all else is computed."""

import json
from pathlib import Path

import pytest
import torch
from command import SMOKE, cells, done, results
from torch import nn

from lowcurve import evaluation
from lowcurve.errors import InputError, RunError
from lowcurve.results import Column, Table
from lowcurve.store import Run
from lowcurve.study import geometry_results, robustness_results
from lowcurve.study.optional import MISSING, OptionalSteps

pytestmark = pytest.mark.usefixtures("alone")
NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        return g * (1 + x.cos())
    @staticmethod
    def backward(ctx, g):
        raise NotImplementedError("no second derivative here")

class Wave(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x + x.sin()
    @staticmethod
    def backward(ctx, g):
        return Slope.apply(*ctx.saved_tensors, g)

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0) + 0.1 * x * x
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ((x > 0).to(g) + 0.2 * x)

class Own(nn.Module):
    function = Wave
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)
    def forward(self, x):
        return self.last(self.function.apply(self.first(x.view(x.size(0), -1))))

class OnceOnly(Own):
    function = Once

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.qkv, self.last = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 24), nn.Linear(8, 10)
    def forward(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(t).reshape(len(x), t.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(t.shape)
        return self.last((t + a).mean(1))
"""


@pytest.fixture
def own(monkeypatch, tmp_path) -> Path:
    (tmp_path / "odd.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


QUICK = (*SMOKE, "--evaluation.audited", "4", "--evaluation.drawn", "0")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["Own", pytest.param("OnceOnly", marks=pytest.mark.slow), "Attention"])
def test_a_network_that_is_not_replayed_goes_through_every_step(name, capsys):
    words = (*QUICK, "--model", f"odd:{name}", "--methods", "standard", "--limits.test", "6", "--limits.train", "64")
    assert done("study", *words, "--out", "run") == 0
    found = results(Path("run"))
    assert cells(found, "strong")["standard"] is not None
    assert cells(found, "‖g‖")["standard"] > 0
    lost = {name: what for name, what, reason in found[MISSING]["rows"] if reason}
    assert lost.keys() == {"standard"}
    page, said = Path("run/report.html").read_text(), capsys.readouterr().out
    for _, what, reason in found[MISSING]["rows"]:
        assert f"standard: no {what}. {reason}" in said
    assert "What could not be computed" in page
    assert "network&#39;s share" in page
    assert done("study", "--resume", "run") == 0
    assert results(Path("run")) == found


@pytest.mark.usefixtures("own")
def test_each_part_of_an_evaluation_may_fail_alone(monkeypatch):
    """One after the other is replaced by a function that raises; all else is there, and the reason too."""

    def broken(*_, **__):
        raise KeyError("size")

    words = (*QUICK, "--model", "odd:Own", "--limits.test", "6", "--limits.train", "64", "--suite", "moosavi2019cure")
    assert done("attack", *words, "--out", "run") == 0
    assert done("measure", "run") == 0
    whole = results(Path("run")).keys()
    for (of_measure, one), (of_attack, other) in (
        (("_geometry", "geometry"), ("audit_attacked", "audit")),
        (("boundary_results", "boundary"), ("_suite_results", "attacks")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(geometry_results, of_measure, broken)
            patched.setattr(robustness_results, of_attack, broken)
            for path in Path("run/parts").iterdir():
                path.unlink()
            assert done("attack", "run") == (2 if other == "attacks" else 0)
            assert done("measure", "run") == 0
        found = results(Path("run"))
        assert not {one, other} & found.keys()
        rows = [what for _, what, reason in found[MISSING]["rows"] if reason == "KeyError: 'size'"]
        assert rows == [other, one]
        assert len(whole - found.keys()) <= 4


@pytest.mark.usefixtures("own")
def test_a_step_of_which_nothing_can_be_computed_is_an_error_after_the_report(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no such thing\nand a long story")

    assert done("measure", *QUICK, "--model", "odd:Own", "--limits.test", "6", "--out", "run") == 0
    with monkeypatch.context() as patched:
        for name in ("_suite_results", "_against_radius", "_galleries"):
            patched.setattr(robustness_results, name, broken)
        capsys.readouterr()
        assert done("attack", "run") == 2
    said = capsys.readouterr().err
    assert "Expected numbers of the network given, got none: RuntimeError: no such thing. See the table" in said
    assert results(Path("run"))["geometry"]
    assert done("attack", "run") == 0  # tried again
    assert cells(results(Path("run")), "clean")["given"] is not None


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RunError("a", "b", "c"),
        RuntimeError("Connection closed by peer [127.0.0.1]:4"),
    ],
)
def test_what_concerns_the_whole_run_is_no_missing_column(error):
    def fails():
        raise error

    steps = OptionalSteps("CURE")
    with pytest.raises(type(error)):
        steps.run("anything", fails)
    assert steps.table() == {}


def test_what_is_missing_is_listed_by_reason():
    def fails(reason):
        raise InputError("a field", reason, "leave it out")

    steps = OptionalSteps("CURE")
    found = steps.collect(
        {
            "a": lambda: fails("x"),
            "b": lambda: Table("t", (Column("c"),), ((1.0,),)),
            "c": lambda: fails("y"),
            "d": lambda: fails("x"),
        }
    )
    assert list(found) == ["b"]
    assert steps.table()[MISSING].rows == (
        ("CURE", "a; d", "Expected a field, got x. Leave it out."),
        ("CURE", "c", "Expected a field, got y. Leave it out."),
    )
    with pytest.raises(InputError):
        OptionalSteps("CURE", strict=True).run("a", lambda: fails("x"))


class TwoProcesses:
    """Fabric with two processes, as the first of them sees it."""

    world_size, global_rank = 2, 0


def test_an_error_of_another_process_is_raised_here(monkeypatch):
    def gather(parts, mine):
        parts[:] = [mine, InputError("finite logits", "NaN", "check them")]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    model, x = nn.Linear(2, 2).eval(), torch.rand(4, 2)
    with pytest.raises(InputError, match="Expected finite logits, got NaN"):
        evaluation.measure(model, x, [0, 1, 0, 1], lambda field, x: field(x), fabric=TwoProcesses())


def test_an_error_here_reaches_the_other_process_and_no_memory_ends_this_one(monkeypatch):
    sent = []

    def gather(parts, mine):
        sent.append(mine)
        parts[:] = [mine, None]

    def measure(error):
        def fails(*_):
            raise error

        model, x = nn.Linear(2, 2).eval(), torch.rand(4, 2)
        return evaluation.measure(model, x, [0, 1, 0, 1], fails, fabric=TwoProcesses())

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(RuntimeError, match="KeyError: 'layer'"):
        measure(KeyError("layer"))
    assert len(sent) == 1
    with pytest.raises(MemoryError):
        measure(MemoryError())
    assert len(sent) == 1


def test_an_empty_cell_of_the_summary_is_a_dash(tmp_path):
    run = Run.create(tmp_path / "run")
    steps = OptionalSteps("CURE", missing={"‖H‖": "RuntimeError: no"})
    run.save_part("curvature-CURE", "so", steps.table())
    assert json.loads((run.folder / "parts" / "curvature-CURE.json").read_text())["results"][MISSING]["rows"] == [
        ["CURE", "‖H‖", "RuntimeError: no"]
    ]
