"""The command `lowcurve doctor`: what is there, what is missing, and how to get it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lowcurve.cli.parsing import new_parser, parse_words
from lowcurve.cli.processes import prepare_process
from lowcurve.cli.terminal import console, empty_table, print_json
from lowcurve.cli.threads import VARIABLE, running_processes, usable_cores

OLDEST, NEWEST = (3, 11), (3, 13)
"""Python versions that the package supports."""
OK, OPTIONAL, NEEDED = "ok", "optional", "needed"
COMPILERS = ("cc", "gcc", "clang", "cl")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NEEDS = {
    "hf": "named data sets, image folders, parquet files, and transformers' models",
    "onnx": "ONNX files, and instances for a verifier",
    "timm": "models of timm",
    "lightning": "callbacks and metrics for Lightning",
    "trackers": "--loggers tensorboard, wandb, mlflow and trackio",
    "autoattack": "the reference AutoAttack as a suite",
    "figures": "figures as PDF, PNG and SVG, and in trackers",
    "topology": "persistent homology of regions",
}
"""What each extra is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Args:
        part: Name of the part, such as "torch".
        found: What was found.
        status: "ok", "optional" for something that only some need, or "needed".
        advice: How to get what is missing; empty if nothing is.
    """

    part: str
    found: str
    status: str = OK
    advice: str = ""


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, doctor.
        words: The words after it.

    Returns:
        The exit code: 1 if something that every command needs is missing, else 0.
    """
    parser = new_parser(command)
    parser.add_argument("--data_dir", type=str | None, default=None)
    asked = parse_words(command, parser, words)
    prepare_process()
    findings = list(examine(asked.data_dir))
    failed = any(finding.status == NEEDED for finding in findings)
    if not print_json([asdict(finding) for finding in findings]):
        _show(findings)
    return int(failed)


def _show(findings: list[Finding]) -> None:
    shown, screen = empty_table("What lowcurve finds here"), console()
    for heading in ("part", "found", "what to do"):
        shown.add_column(heading, overflow="fold")
    for finding in findings:
        shown.add_row(finding.part, finding.found, finding.advice)
    screen.print(shown, markup=False, highlight=False)
    missing = [finding.part for finding in findings if finding.status == NEEDED]
    end = f"Missing: {', '.join(missing)}." if missing else "Everything that every command needs is there."
    screen.print(end, markup=False, highlight=False, soft_wrap=True)


def examine(data_dir: str | None = None) -> Iterator[Finding]:
    """Yield all findings. Nothing that is missing or broken raises an error.

    Args:
        data_dir: Folder of parquet files; by default the environment variable LOWCURVE_DATA.
    """
    yield _package()
    yield _python()
    yield from _required()
    torch = _torch()
    yield from _devices(torch)
    yield _threads(torch)
    yield _extension(torch is not None)
    yield from _extras()
    yield _browser()
    yield from _data(data_dir)
    if torch is not None:
        yield _cache()
    yield _disk()


def _package() -> Finding:
    try:
        return Finding("lowcurve", f"{version('lowcurve')} in {Path(__file__).parents[1]}")
    except PackageNotFoundError:
        return Finding(
            "lowcurve", f"a copy in {Path(__file__).parents[1]}", NEEDED, "run pip install . in its checkout"
        )


def _python() -> Finding:
    supported = OLDEST <= sys.version_info[:2] <= NEWEST
    found = f"{platform.python_version()} on {platform.platform()}"
    return Finding("Python", found) if supported else Finding("Python", found, NEEDED, "use Python 3.11 to 3.13")


def _required() -> Iterator[Finding]:
    """Compare the packages that every command needs with their smallest versions."""
    for requirement in _requirements(""):
        found = _version(requirement.name)
        fits = found is not None and requirement.specifier.contains(found, prereleases=True)
        status, advice = (OK, "") if fits else (NEEDED, f"run pip install '{requirement.name}{requirement.specifier}'")
        yield Finding(requirement.name, found or "missing", status, advice)


def _requirements(extra: str) -> list[Any]:
    """Return the requirements of an extra, or the ones that every command needs."""
    try:
        from packaging.requirements import Requirement

        found = [Requirement(line) for line in requires("lowcurve") or ()]
    except (ImportError, PackageNotFoundError):
        return []
    always = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [
        one for one in found if one.marker is not None and one not in always and one.marker.evaluate({"extra": extra})
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch() -> Any:
    """Return torch, or None if it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    return torch


def _devices(torch: Any) -> Iterator[Finding]:
    """List the CPU and each GPU."""
    if torch is None:
        yield Finding("torch", "cannot be imported", NEEDED, "install it again, as pytorch.org says for your machine")
        return
    yield Finding("CPU", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {_memory()}")
    if not torch.cuda.is_available():
        built = "which this torch is built without" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        advice = "use --accelerator cpu, or install torch for CUDA, as pytorch.org says for your machine"
        yield Finding("GPU", f"none, {built}", OPTIONAL, advice)
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield Finding(f"GPU {number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


def _memory() -> str:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory"


def _threads(torch: Any) -> Finding:
    cores, others = usable_cores(), running_processes()
    count = torch.get_num_threads() if torch is not None else "unknown"
    chosen = os.environ.get(VARIABLE)
    found = f"{count} of {cores} cores, {VARIABLE}={chosen}, other processes running now: {others}"
    advice = f"wait for the other processes, or set {VARIABLE}" if others >= cores else ""
    return Finding("threads", found, OPTIONAL if advice else OK, advice)


def _extension(importable: bool) -> Finding:
    """Say whether centered softplus runs in C."""
    part = "compiled softplus"
    if not importable:
        return Finding(part, "unknown, since torch cannot be imported", OPTIONAL)
    from lowcurve.analysis.fused import COMPILED

    if COMPILED:
        return Finding(part, "built")
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    first = "" if compiler else "install a C compiler such as gcc, and "
    advice = f"{first}run pip install --no-deps --force-reinstall with the source of lowcurve"
    return Finding(part, "not built: LCNN trains a little slower, with the same numbers", OPTIONAL, advice)


def _extras() -> Iterator[Finding]:
    """List the packages of each extra."""
    for extra, purpose in NEEDS.items():
        versions = {one.name: _version(one.name) for one in _requirements(extra)}
        found = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        missing = [name for name, number in versions.items() if number is None]
        words = "; ".join(filter(None, [found, f"without {', '.join(missing)}" if missing else ""])) or "unknown"
        status, advice = (OPTIONAL, f"for {purpose}: pip install 'lowcurve[{extra}]'") if missing else (OK, "")
        yield Finding(f"[{extra}]", words, status, advice)


def _browser() -> Finding:
    found = next((place for name in BROWSERS if (place := shutil.which(name))), None)
    if found:
        return Finding("browser", found)
    return Finding(
        "browser", "no chromium", OPTIONAL, "reports open in any browser; only the package's tests use chromium"
    )


def _data(data_dir: str | None) -> Iterator[Finding]:
    """List the named data sets that are found without a download."""
    folder = data_dir or os.environ.get("LOWCURVE_DATA")
    yield Finding("data", "digits, colored-digits, two-moons (in the package)")
    if folder is None:
        advice = "set LOWCURVE_DATA or write --data-dir to work offline with parquet files; else they are downloaded"
        yield Finding("LOWCURVE_DATA", "not set", OPTIONAL, advice)
    elif not Path(folder).is_dir():
        yield Finding("LOWCURVE_DATA", f"{folder}, which is no folder", OPTIONAL, "correct the path")
    else:
        names = sorted(path.name for path in Path(folder).iterdir() if any(path.glob("*.parquet")))
        advice = "" if names else "put files <split>-*.parquet into folders named after the data sets"
        status = OK if names else OPTIONAL
        yield Finding("LOWCURVE_DATA", f"{folder}: {', '.join(names) or 'no parquet files'}", status, advice)
    if find_spec("datasets") is not None and os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield Finding("Hugging Face hub", "offline by HF_HUB_OFFLINE", OPTIONAL, "unset it to download data sets")


def _cache() -> Finding:
    """List the named data sets that were downloaded before."""
    from lowcurve.data.sources import SOURCES

    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    found = [name for name, one in SOURCES.items() if (hub / f"datasets--{one.hub.replace('/', '--')}").is_dir()]
    return Finding("downloaded data", f"{hub}: {', '.join(found) or 'no named data set'}")


def _disk() -> Finding:
    place = Path.cwd()
    free = f"{shutil.disk_usage(place).free / 2**30:.0f} GiB free"
    if os.access(place, os.W_OK):
        return Finding("runs", f"written below {place}, {free}")
    return Finding(
        "runs", f"{place} cannot be written, {free}", OPTIONAL, "write --out DIRECTORY, or change the folder"
    )
