"""The origin of a run's numbers: command, code, packages, machine and data."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lowcurve.results import code_version, training_version

if TYPE_CHECKING:
    from lowcurve.data import DataSet


def machine_facts() -> dict[str, str]:
    """Return the versions, the machine and the time of a computation, for its report."""
    threads = torch.get_num_threads()
    parts = [platform.machine(), torch.backends.cpu.get_cpu_capability(), f"{threads} thread{'s' * (threads > 1)}"]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return {
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": ", ".join([*parts, *gpu]),
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }


def describe_origin(
    command: str, data: "DataSet | None" = None, parts: Sequence[str] = ("train", "validation", "test")
) -> dict[str, Any]:
    """Describe the origin of numbers.

    Args:
        command: The command, as it was written.
        data: The data set.
        parts: The parts of it that the command uses. A digest reads all images of a part.

    Returns:
        Text, numbers and mappings of them: command, time, code and its commit in a checkout, packages, machine and data.
        Each part of the data has its number of examples and its digest; see `Examples.digest`.
    """
    facts = machine_facts()
    found: dict[str, Any] = {
        "command": command,
        "written": facts.pop("written"),
        "code": code_version(),
        "training code": training_version(),
        "commit": commit(),
        "packages": package_versions(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **facts,
    }
    if data is not None:
        used = {name: getattr(data, name) for name in parts}
        about = {name: {"examples": len(part), "digest": part.digest} for name, part in used.items()}
        found["data"] = {"name": data.name, "note": data.note, **about}
    return found


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that lowcurve needs, by name."""
    found = {}
    for requirement in requires("lowcurve") or ():
        if "extra ==" not in requirement:
            name = required_name(requirement)
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "missing"
    return found


def required_name(requirement: str) -> str:
    """Return the name of the package in a requirement.

    Example:
        >>> required_name("jsonargparse[signatures]>=4.49"), required_name('matplotlib>=3.8; extra == "figures"')
        ('jsonargparse', 'matplotlib')
    """
    end = next((k for k, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None)
    return requirement[:end]


def commit() -> str:
    """Return the commit of the checkout that the package runs from, with "+changes" if files differ; else ""."""
    place = Path(__file__).parents[2]
    if not (place / ".git").exists():
        return ""
    words = ("git", "-C", str(place), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*")
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
