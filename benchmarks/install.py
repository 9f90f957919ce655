"""Install the wheel into empty environments, run it from elsewhere, and measure size and times.

    python benchmarks/install.py [--python EXECUTABLE ...] [--torch VERSION] [--constraints FILE] [--json FILE]

For each Python, the wheel is installed into an empty environment, after torch; for the first Python with and without a C
compiler. In another folder run `lowcurve --help`, `import lowcurve`, `lowcurve doctor` and `lowcurve study --scale smoke`.
Sizes are those of site-packages, of all packages and without torch. Times are the fastest of three processes, after a first
one. They grow with the load of the machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, show

from lowcurve.results import Column, Table, dump

ROOT = Path(__file__).resolve().parents[1]
STUDY = ("study", "--scale", "smoke", "--methods", "standard,CURE", "--json")
COLUMNS = (
    Column("environment"),
    Column("size, MB", form=".0f"),
    Column("without torch, MB", form=".0f"),
    Column("--help, s", form=".2f"),
    Column("import lowcurve, s", form=".2f"),
    Column("import torch, s", form=".2f"),
    Column("smoke study, s", form=".0f"),
    Column("softplus in C"),
)


def called(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program that must succeed, with nothing of this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LOWCURVE_DATA")}
    ran = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, env={**kept, **options.pop("variables", {})}, **options
    )
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{ran.stdout}\n{ran.stderr}")
    return ran


def build(place: Path, compiler: bool) -> Path:
    """Build the wheel in a folder, from a clean copy of the commit."""
    source = place / "source"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    variables = {} if compiler else {"CC": "/bin/false", "CXX": "/bin/false"}
    called(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", place, source, variables=variables)
    (wheel,) = place.glob("*.whl")
    return wheel


def seconds(*words: object, folder: Path) -> float:
    """Return the time of a process, the fastest of three after a first one."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        called(*words, cwd=folder)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def size(folder: Path, name: str = "") -> float:
    """Return the size of a folder's files in MB, all or those of one package."""
    files = (path for path in (folder / name).rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6


def measured(python: str, wheel: Path, torch: str, constraints: Path | None, place: Path) -> Row:
    """Install the wheel into an empty environment, run it, and return what was measured."""
    env, work = place / "env", place / "work"
    work.mkdir()
    called(python, "-m", "venv", env)
    inside = env / "bin" / "python"
    limits = ("-c", constraints) if constraints else ()
    install = (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *limits)
    called(*install, f"torch=={torch}", "numpy")
    began = time.perf_counter()
    called(*install, wheel)
    installed = time.perf_counter() - began
    command = env / "bin" / "lowcurve"
    (site,) = env.glob("lib/python*/site-packages")
    doctor = json.loads(called(command, "doctor", "--json", cwd=work).stdout)
    found = {one["part"]: one["found"] for one in doctor}
    began = time.perf_counter()
    study = json.loads(called(command, *STUDY, cwd=work).stdout)
    took = time.perf_counter() - began
    assert [row["network"] for row in study["tables"]["comparison"]["rows"]] == ["standard", "CURE"]
    whole = size(site)
    return {
        "what": f"Python {found['Python'].split()[0]}, torch {found['torch']}",
        "size, MB": whole - size(site, "pip") - size(site, "setuptools"),
        "without torch, MB": whole - size(site, "torch") - size(site, "pip") - size(site, "setuptools"),
        "--help, s": seconds(command, "--help", folder=work),
        "import lowcurve, s": seconds(inside, "-c", "import lowcurve", folder=work),
        "import torch, s": seconds(inside, "-c", "import torch", folder=work),
        "smoke study, s": took,
        "softplus in C": found["compiled softplus"].split(":")[0],
        "wheel, MB": wheel.stat().st_size / 1e6,
        "installed in, s": installed,
        "packages": len(list(site.glob("*.dist-info"))),
    }


def main() -> None:
    """Measure each environment, print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--torch", default="2.13.0")
    parser.add_argument("--constraints", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number, python in enumerate(given.python):
            for compiler in (True, False) if not number else (True,):
                own = place / f"{number}-{compiler}"
                wheel = build(own / "wheel", compiler)
                rows.append(measured(python, wheel, given.torch, given.constraints, own))
                show("Installed", rows[-1:])
    table = Table(
        "The base install in an empty environment",
        COLUMNS,
        tuple((row["what"], *(row[column.heading] for column in COLUMNS[1:])) for row in rows),  # type: ignore[misc]
    )
    content = {
        "settings": {"machine": platform.machine(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")},
        "rows": rows,
        "results": {"comparison": dump(table)},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
