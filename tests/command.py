"""The command line in tests: run in this process or in one of its own, and what a run directory then holds."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import yaml
from PIL import Image

from lowcurve.cli import main

PROJECT = Path(__file__).parents[1]
SMOKE = ("--data", "digits", "--scale", "smoke")
FOUR = ["standard", "CURE", "gradient-norm", "PGD"]
LONGER = (*SMOKE, "--methods", "[standard,CURE]", "--training.epochs", "12", "--fine_tuning.epochs", "12")


def done(*words: object) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return end.code


def refused(capsys, *words: object) -> str:
    """The one sentence on stderr of a command that ends with 2."""
    capsys.readouterr()
    code = done(*words)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert re.match(r"lowcurve: (Expected .*, got .*\. |Unknown option .*\. )[A-Z].*[.?]$", lines[0]), lines[0]
    return lines[0]


def process(*words: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "lowcurve", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    pipe, first = subprocess.PIPE, options.pop("preexec_fn", None)

    def heard() -> None:
        """Ctrl-C reaches it, also where the tests were begun in the background of a shell, which makes it unheard."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if first is not None:
            first()

    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=heard, **options)


def results(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text())["results"]


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "settings.yaml").read_text())


def files(folder: Path) -> set[str]:
    """The files of a folder, without a run's lock, digests and number of threads."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in paths if ".digests" not in path.parts and path.name not in (".lock", ".threads")}


def cells(found: dict, heading: str, table: str = "comparison") -> dict[str, object]:
    """A column of the comparison, or of another table, by network."""
    number = [column["heading"] for column in found[table]["columns"]].index(heading)
    return {row[0]: row[number] for row in found[table]["rows"]}


def picture(label: int, number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 120, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels + np.uint8(120 * label))


def image_folder(root: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(15):
            picture(label, number).save(root / name / f"{number:02}.png")
    return root


def parquet(path: Path, labels: list[int]) -> Path:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [picture(k % 2, k) for k in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path
