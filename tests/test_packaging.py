"""The wheel: what it holds, whether the base install suffices, and whether its types are usable from outside."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1]
ABSENT = ("sklearn", "datasets", "pandas", "pyarrow", "matplotlib", "tensorboard", "wandb", "transformers", "kornia")
"""Packages that no command of the base install needs."""
OUTSIDE = """\
import torch
import lowcurve as lc

data = lc.load("digits")
model: torch.nn.Module = lc.Network("small-convnet", data.shape, 10, *data.statistics(), width=4).build(seed=0)
images, labels = data.test.x[:8], data.test.y[:8]
result = lc.attack(model, images, labels, lc.strong("linf", 0.125))
reveal_type(lc.audit(model, images, labels, "linf", 0.125))
wrong: int = lc.PGD("linf", 0.1)
"""
"""A user's program: its last line is wrong, which only a typed package tells."""


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process that sees nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LOWCURVE_DATA")}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built from a copy."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(PROJECT / "lowcurve", source / "lowcurve", ignore=ignored)
    place = tmp_path_factory.mktemp("wheel")
    words = ("-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "-w", str(place), str(source))
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=place)
    if ran.returncode and "setuptools" in ran.stderr and "No matching distribution" in ran.stderr:
        pytest.skip("setuptools cannot be fetched to build the wheel")
    assert ran.returncode == 0, ran.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base(wheel, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel and links to what it requires, and nothing else."""
    place = tmp_path_factory.mktemp("base") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (about,) = site.glob("lowcurve-*.dist-info")
    for found in required(Distribution.at(about)).values():
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return place / "bin" / "python"


def required(of: Distribution, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """The distributions that one requires, and those that these require, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(of, extras)]
    while waiting:
        one, wanted = waiting.pop()
        for requirement in map(Requirement, one.requires or ()):
            if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                continue
            try:
                needed = distribution(requirement.name)
            except PackageNotFoundError:
                continue  # of another system
            if requirement.name not in found:
                waiting.append((needed, frozenset(requirement.extras)))
                found[requirement.name] = needed
    return found


@pytest.mark.slow
def test_the_wheel_holds_everything_and_serves_every_python(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    assert "-cp311-abi3-" in wheel.name
    for name in (
        "py.typed",
        "__init__.pyi",
        "data/digits.csv.gz",
        "data/digits_split.txt",
        "report/templates/page.html",
    ):
        assert f"lowcurve/{name}" in names
    here = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "lowcurve").rglob("*") if path.is_file()}
    kinds = (".py", ".pyi", ".yaml", ".html", ".css", ".js", ".txt", ".gz")
    assert {name for name in here if name.endswith(kinds) and "__pycache__" not in name} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    assert wheel.stat().st_size < 1.5e6


@pytest.mark.slow
def test_the_base_install_runs_a_study_from_elsewhere(base, tmp_path):
    code = f"import importlib.util as u, sys; sys.exit(str([n for n in {ABSENT} if u.find_spec(n)] or ''))"
    assert subprocess.run([base, "-c", code], capture_output=True, text=True, env=environment()).stderr.strip() == ""
    words = ("--scale", "smoke", "--methods", "standard", "--evaluation.audited", "0", "--out", "run", "--json")
    ran = subprocess.run(
        [base, "-m", "lowcurve", "study", *words], capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["tables"]["comparison"]["rows"][0]["network"] == "standard"
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_types_are_usable_from_outside(base, tmp_path):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    words = ("--strict", "--no-incremental", "--python-executable", str(base), "outside.py")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *words], capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("outside.py")]
    assert [line.split(":")[1] for line in lines] == ["8", "9"], ran.stdout + ran.stderr
    assert "evaluation.audit.verdict.Audit" in lines[0]
    assert 'expression has type "PGD", variable has type "int"' in lines[1]
