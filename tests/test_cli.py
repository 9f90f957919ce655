"""The command line as a user meets it: what it writes, what it says when asked for something impossible, how it goes on."""

import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import browser
import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lowcurve.cli import main
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.store import DiskCheckpoint, Run

HOUSE = Path(__file__).parents[1]
SMOKE = ("--data", "digits", "--scale", "smoke")
FOUR = ["standard", "CURE", "gradient-norm", "PGD"]
LONGER = (*SMOKE, "--methods", "[standard,CURE]", "--training.epochs", "25", "--fine_tuning.epochs", "25")
OWN = """
import torch
from torch import nn

def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def a_map(): return nn.Sequential(nn.Conv2d(1, 10, 3))
def a_number(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Flatten(0))
def two(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
def nothing(): return None
def broken(): raise RuntimeError("no such layer")
"""


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Each test in a folder of its own, with nothing of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOWCURVE_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder with the user's own networks, and weights for the first of them."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(model.state_dict(), tmp_path / "own.pt")
    return tmp_path


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
    assert lines[0].startswith("lowcurve: expected ")
    assert ", received " in lines[0]
    assert "; " in lines[0]
    return lines[0]


def process(*words: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "lowcurve", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **options)


def results(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text())["results"]


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "settings.yaml").read_text())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def cells(found: dict, heading: str) -> dict[str, object]:
    """A column of the comparison by network."""
    number = [column["heading"] for column in found["comparison"]["columns"]].index(heading)
    return {row[0]: row[number] for row in found["comparison"]["rows"]}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke") / "run"
    assert done("study", *SMOKE, "--out", folder) == 0
    return folder


# --- without a command


def test_help_comes_at_once_and_without_torch():
    script = (
        "import sys\nfrom lowcurve.cli import main\nassert main(['--help']) == 0\n"
        "assert not {'torch', 'numpy', 'jsonargparse', 'rich', 'lightning_fabric'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, stdout=subprocess.DEVNULL)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        child = process("--help")
        out, _ = child.communicate()
        times.append(time.perf_counter() - started)
        assert child.returncode == 0
        assert all(command in out for command in ("study", "train", "measure", "attack", "report"))
    assert min(times) < 1


def test_no_words_show_the_usage(capsys):
    assert done() == 2
    assert capsys.readouterr().out.startswith("usage: lowcurve")


def test_the_version(capsys):
    assert done("--version") == 0
    assert capsys.readouterr().out.startswith("lowcurve 0.")


def test_an_unknown_command(capsys):
    assert "a command among study, train, measure, attack, report, received 'stduy'" in refused(capsys, "stduy")


@pytest.mark.parametrize("command", ["study", "train", "measure", "attack", "report"])
def test_the_help_of_a_command(capsys, command):
    assert done(command, "--help") == 0
    out, err = capsys.readouterr()
    assert not err
    assert all(option in out for option in ("--data", "--radius", "--training.epochs", "--config", "--print_config"))


# --- a study


def test_a_study_writes_a_whole_run(smoke):
    networks = {f"networks/{name}.safetensors" for name in FOUR}
    parts = {f"parts/{step}-{name}.json" for step in ("training", "curvature", "attack") for name in FOUR}
    expected = {"settings.yaml", "study.json", "report.html", "log.txt"} | networks | parts
    assert {name for name in files(smoke) if not name.startswith("logs/")} == expected
    assert all((smoke / "logs" / name / "part-1" / "metrics.csv").stat().st_size for name in FOUR)
    log = (smoke / "log.txt").read_text()
    assert all(f"{name}: attack done" in log for name in FOUR)


def test_the_numbers_of_a_study_are_json_and_all_of_the_report(smoke):
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((smoke / "study.json").read_text(), parse_constant=refuse)
    assert content["settings"] == settings(smoke)
    found = content["results"]
    assert [row[0] for row in found["comparison"]["rows"]] == FOUR
    assert [c["heading"] for c in found["comparison"]["columns"]][:4] == ["network", "clean", "PGD-3", "strong"]
    assert {"against radius", "against scale", "profile", "gallery"} <= set(found)
    assert {f"training {name}" for name in FOUR} <= set(found)
    page = (smoke / "report.html").read_text()
    for name in FOUR:
        assert name in page
    for value, low, high in (cell for h in ("clean", "PGD-3", "strong") for cell in cells(found, h).values()):
        assert 0 <= low <= value <= high <= 1
        assert f"{value:.1%}" in page
    assert all(length > 0 for length in cells(found, "‖g‖").values())
    for name in FOUR:
        line = found["against radius"]["lines"][name]["y"]
        assert line[0] == cells(found, "clean")[name][0]
        assert line[1] <= line[0]


def test_the_commands_one_at_a_time_make_the_same_study(smoke, tmp_path):
    folder = tmp_path / "run"
    assert done("train", *SMOKE, "--out", folder) == 0
    assert Run.open(folder).networks() == tuple(sorted(FOUR))
    assert not list(folder.glob("parts/attack*"))
    for command in ("measure", "attack"):
        assert done(command, folder) == 0
    assert results(folder) == results(smoke)
    before = (folder / "study.json").read_text()
    for name in ("study.json", "report.html"):
        (folder / name).unlink()
    assert done("report", folder) == 0
    assert results(folder) == json.loads(before)["results"]
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_study_that_is_done_is_not_done_again(smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "run")
    times = {name: (folder / name).stat().st_mtime_ns for name in files(folder) if name.startswith(("netw", "parts"))}
    assert done("study", "--resume", folder) == 0
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    assert results(folder) == results(smoke)


def test_the_evaluation_of_a_run_can_be_asked_for_otherwise(smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "run")
    weights = {path.name: path.read_bytes() for path in folder.glob("networks/*")}
    assert done("attack", folder, "--radius", "0.05", "--evaluation.steps=2") == 0
    assert settings(folder)["radius"] == "0.05"
    assert settings(folder)["evaluation"] == {**settings(smoke)["evaluation"], "steps": 2}
    assert "PGD-2" in [column["heading"] for column in results(folder)["comparison"]["columns"]]
    assert weights == {path.name: path.read_bytes() for path in folder.glob("networks/*")}


def test_the_settings_can_be_printed_and_read_back(smoke, tmp_path, capsys):
    assert done("study", *SMOKE, "--print_config") == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    for number, config in enumerate((tmp_path / "printed.yaml", smoke / "settings.yaml")):
        folder = tmp_path / str(number)
        assert done("train", "--config", config, "--methods", "[standard]", "--out", folder) == 0
        assert settings(folder) == {**settings(smoke), "methods": ["standard"]}
        assert Run(folder).made_by("standard") == Run(smoke).made_by("standard")


def test_a_file_with_a_few_settings_begins_from_the_preset_of_its_data(tmp_path):
    (tmp_path / "few.yaml").write_text("data: two-moons\nscale: smoke\nmethods: [standard]\nseed: 4\n")
    assert done("train", "--config", "few.yaml", "--out", "run") == 0
    assert settings(Path("run"))["network"] == "mlp"
    assert settings(Path("run"))["seed"] == 4
    assert settings(Path("run"))["training"]["epochs"] == 1


def test_words_come_after_a_file(tmp_path):
    (tmp_path / "few.yaml").write_text("methods: [standard]\nseed: 4\n")
    assert done("train", *SMOKE, "--config", "few.yaml", "--seed", "5", "--out", "run") == 0
    assert settings(Path("run"))["seed"] == 5


def test_a_run_without_a_place_is_made_below_runs():
    assert done("train", *SMOKE, "--methods", "[standard]") == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("train-digits-2")
    assert Run.open(folder).networks() == ("standard",)


# --- data


def test_a_study_of_points():
    assert done("study", "--data", "two-moons", "--scale", "smoke", "--out", "run") == 0
    found = results(Path("run"))
    assert [row[0] for row in found["comparison"]["rows"]] == FOUR
    assert "gallery" not in found


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_study_of_real_images(name, data_dir):
    words = ("--scale", "smoke", "--data-dir", data_dir, "--methods", "[standard,CURE]")
    assert done("study", "--data", name, *words, "--out", "run") == 0
    assert [row[0] for row in results(Path("run"))["comparison"]["rows"]] == ["standard", "CURE"]


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


def test_a_study_of_an_image_folder_and_of_parquet(tmp_path):
    image_folder(tmp_path / "pets")
    parquet(tmp_path / "pets.parquet", [k % 2 for k in range(30)])
    for number, path in enumerate((tmp_path / "pets", tmp_path / "pets.parquet")):
        folder = tmp_path / f"run-{number}"
        words = ("--scale", "smoke", "--methods", "[standard]", "--training.batch_size", "8")
        assert done("study", "--data", path, *words, "--out", folder) == 0
        assert list(cells(results(folder), "clean")) == ["standard"]


# --- one's own model


@pytest.mark.parametrize(("kind", "robust"), [("cln", (0.0, 0.2)), ("adv", (0.8, 1.0))])
def test_a_public_network_is_measured_and_attacked(kind, robust, data_dir, weights_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(HOUSE)
    folder = tmp_path / "run"
    weights = weights_dir / f"mnist_lenet5_{kind}trained.pt"
    words = ("--model", "examples.public_networks:lenet5", "--weights", weights, "--data", "mnist", "--scale", "smoke")
    assert done("measure", *words, "--data_dir", data_dir, "--out", folder) == 0
    assert cells(results(folder), "‖g‖")["given"] > 0
    assert done("attack", folder, "--radius", "0.3", "--evaluation.steps", "20") == 0
    found = results(folder)
    assert cells(found, "clean")["given"][0] > 0.9
    assert robust[0] <= cells(found, "PGD-20")["given"][0] <= robust[1]
    assert cells(found, "‖g‖")["given"] > 0


@pytest.mark.usefixtures("own")
def test_cure_starts_from_ones_own_network():
    words = ("--model", "own:make", "--weights", "own.pt", "--methods", "[standard,CURE]")
    assert done("study", *SMOKE, *words, "--out", "run") == 0
    assert list(cells(results(Path("run")), "clean")) == ["given", "CURE"]
    given = Run(Path("run")).load_network("given")
    assert torch.equal(given[1].weight, torch.load("own.pt")["1.weight"])


@pytest.mark.usefixtures("own")
def test_ones_own_network_without_weights_is_trained():
    assert done("train", *SMOKE, "--model", "own:make", "--methods", "[standard]", "--out", "run") == 0
    assert Path("run/parts/training-standard.json").exists()
    words = (*SMOKE, "--model", "own:make", "--methods", "[standard]")
    assert done("study", *words, "--out", "study") == 0
    assert Path("study/parts/training-standard.json").exists()
    assert list(cells(results(Path("study")), "clean")) == ["standard"]


# --- the report in a browser


def test_the_report_of_a_study_opens_in_a_browser(smoke, tmp_path):
    if browser.find_browser() is None:
        pytest.skip("no Chromium is installed")
    seen = browser.render(smoke / "report.html", tmp_path, height=6000)
    assert seen.console == ()
    assert seen.requests == ()
    assert seen.dom.count('class="main-svg"') >= 2 * len(re.findall('<script type="application/json">', seen.dom)) > 0
    with Image.open(seen.screenshot) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)} <= colors, "a network's color is missing"
    assert (smoke / "report.html").stat().st_size < 6_000_000


# --- interrupted


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert done("study", *LONGER, "--out", folder) == 0
    return folder


def started_until(file: str, folder: Path) -> subprocess.Popen:
    child = process("study", *LONGER, "--out", folder)
    until = time.monotonic() + 60
    while not (folder / file).exists():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    return child


def check_consistent(folder: Path) -> None:
    run = Run.open(folder)
    assert not [name for name in files(folder) if name.endswith(".part") and "checkpoints" not in name]
    for name in run.networks():
        run.load_network(name)
    run.parts()
    assert not (folder / "report.html").exists()
    assert list((folder / "checkpoints").glob("*.pt"))


def check_finished(folder: Path, uninterrupted: Path) -> None:
    assert done("study", "--resume", folder) == 0
    assert results(folder) == results(uninterrupted)
    assert not list((folder / "checkpoints").glob("*.pt"))
    for name in ("standard", "CURE"):
        ours, theirs = (Run(place).load_network(name).state_dict() for place in (folder, uninterrupted))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("file", ["checkpoints/standard.pt", "checkpoints/CURE.pt"])
def test_ctrl_c_and_going_on(file, tmp_path, uninterrupted):
    folder = tmp_path / "run"
    child = started_until(file, folder)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert f"lowcurve study --resume {folder}" in err
    check_consistent(folder)
    check_finished(folder, uninterrupted)


def test_kill_and_going_on(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    child = started_until("checkpoints/CURE.pt", folder)
    time.sleep(0.05)
    child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    check_consistent(folder)
    check_finished(folder, uninterrupted)


def test_ctrl_c_before_the_run_has_begun(tmp_path):
    folder = tmp_path / "run"
    child = process("study", *LONGER, "--out", folder)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err


# --- what cannot be done: nothing is written, one sentence is said


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "mnits"], "write 'mnist'"),
        (["--data", "mnist", "--data_dir", "/nowhere"], "train-*.parquet below"),
        (["--radius", "8"], "write pixels(8) or 8/255"),
        (["--radius", "eight"], "a radius such as 8/255"),
        (["--radius", "-0.1"], "a finite radius of at least 0"),
        (["--radius", "nan"], "a finite radius of at least 0"),
        (["--radius", "0.6", "--evaluation.radii", "[0.0,2.0]"], "a radius within the pixel range"),
        (["--scale", "tiny"], "a scale among smoke, laptop, paper"),
        (["--methods", "[standard,magic]"], "methods among standard, CURE, gradient-norm, PGD"),
        (["--methods", "[]"], "at least one method"),
        (["--network", "vgg"], "a network among mlp, small-convnet"),
        (["--nonlinearity", "tanh"], "a nonlinearity among relu, softplus"),
        (["--width", "0"], "a width of at least 1"),
        (["--norm", "l_7"], "l_7"),
        (["--training.optimizer", "lion"], "lion"),
        (["--training.epochs", "0"], "at least one epoch"),
        (["--training.epochs", "many"], "many"),
        (["--training.batch_size", "0"], "a batch size of at least 1"),
        (["--training.learning_rate", "-1"], "a learning rate of 0 or more"),
        (["--cure.h", "0"], "a scale h > 0"),
        (["--cure.form", "other"], "other"),
        (["--training_attack.steps", "0"], "at least one step"),
        (["--evaluation.steps", "0"], "at least one step"),
        (["--evaluation.strong_restarts", "0"], "at least one step"),
        (["--evaluation.examples", "0"], "at least one example"),
        (["--evaluation.curvature_examples", "0"], "at least one example"),
        (["--evaluation.lanczos_steps", "0"], "at least one step"),
        (["--evaluation.radii", "[1.0,0.5]"], "radii of 0 or more in rising order"),
        (["--evaluation.radii", "[]"], "at least one radius"),
        (["--limits.train", "0"], "a limit of at least 1 for train"),
        (["--accelerator", "abacus"], "abacus"),
        (["--precision", "12-maybe"], "12-maybe"),
        (["--radus", "0.1"], "options of lowcurve study, received unrecognized arguments: --radus"),
        (["--rad", "0.1"], "rad"),
        (["--radius"], "radius"),
        (["--data"], "a value for the option"),
        (["stray"], "stray"),
        (["--weights", "own.pt"], "a model for the weights"),
        (["--model", "own"], "a model written package.module:factory"),
        (["--model", "own:missing"], "a factory missing in own"),
        (["--model", "nowhere:make"], "a factory make in nowhere"),
        (["--model", "own:nothing"], "a torch.nn.Module from own:nothing, received NoneType"),
        (["--model", "own:broken"], "no such layer"),
        (["--model", "own:make", "--weights", "missing.pt"], "a file of weights"),
        (["--model", "own:two", "--weights", "own.pt"], "size mismatch for 1.weight"),
        (["--config", "missing.yaml"], "a YAML file of settings"),
        (["--resume", "nowhere"], "a run directory"),
        (["--data", "two-moons", "--network", "small-convnet"], "images for small-convnet"),
        (["--data", "two-moons", "--training.augmentation.flip", "true"], "images to augment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_before_anything_is_written(capsys, words, sentence):
    place = [] if "--resume" in words else ["--out", "run"]
    given = [word for word in SMOKE if "--data" not in words or word not in ("--data", "digits")]
    given = [word for word in given if "--scale" not in words or word not in ("--scale", "smoke")]
    assert sentence in refused(capsys, "study", *given, *words, *place)
    assert not Path("run").exists()
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is CUDA")
def test_hardware_that_is_not_here(capsys):
    assert "cuda" in refused(capsys, "study", *SMOKE, "--accelerator", "cuda", "--out", "run")
    assert not Path("run").exists()


@pytest.mark.parametrize("content", ["a: [", "- 3\n", "sede: 3\n", "training: {epochz: 3}\n", "\0"])
def test_a_file_that_holds_no_settings(capsys, content):
    Path("bad.yaml").write_text(content)
    refused(capsys, "study", *SMOKE, "--config", "bad.yaml", "--out", "run")
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["measure", "attack"])
def test_neither_a_run_nor_a_model(capsys, command):
    assert "a run or a model, received neither" in refused(capsys, command)


def test_a_report_on_nothing(capsys):
    assert "the run to report on" in refused(capsys, "report")
    Path("empty").mkdir()
    assert "a run directory (with settings.yaml), received empty" in refused(capsys, "report", "empty")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seed", "3"], "--seed"),
        (["--training.epochs=3"], "--training"),
        (["--out", "other"], "a run to go on with, or a new one, received both"),
        (["--radius", "8"], "a radius within the pixel range"),
    ],
)
def test_what_a_run_cannot_change(capsys, smoke, tmp_path, words, sentence):
    folder = shutil.copytree(smoke, tmp_path / "run")
    before = (folder / "settings.yaml").read_text()
    assert sentence in refused(capsys, "study", "--resume", folder, *words)
    assert (folder / "settings.yaml").read_text() == before


def test_a_place_that_is_taken_or_cannot_be_written(capsys, smoke, tmp_path):
    before = files(smoke)
    assert f"go on with it by --resume {smoke}" in refused(capsys, "study", *SMOKE, "--out", smoke)
    assert files(smoke) == before
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "run", Path("/proc/lowcurve/run")):
        assert f"to be able to write {place}" in refused(capsys, "study", *SMOKE, "--out", place)
    assert "a new or empty directory" in refused(capsys, "study", *SMOKE, "--out", tmp_path / "file")


# --- networks and weights that are not what they should be


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("command", ["study", "measure", "attack"])
def test_weights_that_are_not_finite(capsys, command):
    weights = torch.load("own.pt")
    weights["1.bias"][3] = math.nan
    torch.save(weights, "nan.pt")
    words = (*SMOKE, "--model", "own:make", "--weights", "nan.pt", "--out", "run")
    assert "finite weights, received NaN or infinity in '1.bias'" in refused(capsys, command, *words)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("factory", ["a_map", "a_number"])
def test_logits_of_the_wrong_shape(capsys, factory):
    sentence = refused(capsys, "measure", *SMOKE, "--model", f"own:{factory}", "--out", "run")
    assert "logits of shape (2, classes)" in sentence


@pytest.mark.usefixtures("own")
def test_a_network_of_too_few_classes(capsys):
    sentence = refused(capsys, "measure", *SMOKE, "--model", "own:two", "--out", "run")
    assert "as the network has logits" in sentence or "a network for 10 classes, received 2" in sentence


@pytest.mark.usefixtures("own")
def test_a_network_for_other_data(capsys):
    words = ("--scale", "smoke", "--data", "two-moons", "--model", "own:make", "--out", "run")
    assert "a network for inputs of shape (2,)" in refused(capsys, "measure", *words)
    # Without weights it would be trained: that it does not fit is found before.
    assert "a network for inputs of shape (2,)" in refused(capsys, "study", *words)
    assert not Path("run").exists()


@pytest.mark.usefixtures("own")
def test_weights_that_are_none(capsys):
    words = ("--model", "own:make", "--out", "run", "--weights")
    Path("bad.pt").write_bytes(b"\x80\x04 no weights at all")
    assert "a damaged file, or one with code in it" in refused(capsys, "measure", *SMOKE, *words, "bad.pt")
    torch.save(nn.Linear(2, 2), "module.pt")
    assert "a damaged file, or one with code in it" in refused(capsys, "measure", *SMOKE, *words, "module.pt")
    Path("code.pt").write_bytes(pickle.dumps(print))
    assert "a damaged file, or one with code in it" in refused(capsys, "measure", *SMOKE, *words, "code.pt")
    Path("bad.safetensors").write_bytes(b"no weights at all")
    assert "safetensors in bad.safetensors" in refused(capsys, "measure", *SMOKE, *words, "bad.safetensors")
    assert not Path("run").exists()


# --- data that is not what it should be


def test_labels_out_of_range(capsys, tmp_path):
    parquet(tmp_path / "bad.parquet", [-1] + [k % 2 for k in range(29)])
    words = ("--scale", "smoke", "--data", tmp_path / "bad.parquet", "--out", "run")
    assert "labels from 0 to 1 for 2 classes, received -1" in refused(capsys, "study", *words)
    assert not Path("run").exists()


def test_pixels_out_of_range():
    for x, received in ((torch.full((1, 2), 2.0), "values from 2 to 2"), (torch.full((1, 2), math.nan), "NaN")):
        with pytest.raises(InputError, match=received):
            Examples(x, torch.tensor([0]), ("a",))


def test_data_that_is_not_images(capsys, tmp_path):
    Path("bad.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "a parquet file" in refused(capsys, "study", "--data", "bad.parquet", "--out", "run")
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "03.png").write_bytes(b"no picture")
    assert "a readable image" in refused(
        capsys, "study", "--data", tmp_path / "pets", "--scale", "smoke", "--out", "run"
    )
    assert not Path("run").exists()


# --- what goes wrong under way: what was finished is kept


def test_a_training_that_diverges(capsys):
    words = ("--training.optimizer", "sgd", "--training.learning_rate", "1e30", "--training.epochs", "3")
    assert "a finite loss in training" in refused(capsys, "study", *SMOKE, *words, "--out", "run")
    assert "a finite loss in training" in Path("run/log.txt").read_text()
    assert Run.open("run").networks() == ()


@pytest.fixture
def begun(smoke, tmp_path) -> Path:
    """A run of which only the settings are there."""
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    shutil.copy(smoke / "settings.yaml", tmp_path / "begun")
    return tmp_path / "begun"


def test_a_checkpoint_that_is_none_of_this_run(capsys, begun):
    path = begun / "checkpoints" / "standard.pt"
    torch.save({"epoch": 3}, path)
    assert f"delete {path}" in refused(capsys, "study", "--resume", begun)
    DiskCheckpoint(path, "another training").save({"step": 3})
    assert "one with other settings" in refused(capsys, "study", "--resume", begun)
    path.write_bytes(b"\x80\x02 nothing")
    assert str(path) in refused(capsys, "study", "--resume", begun)
    path.unlink()
    assert done("train", begun) == 0


def test_a_damaged_run(capsys, smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "run")
    (folder / "networks" / "CURE.safetensors").write_bytes(b"nothing")
    assert "CURE.safetensors" in refused(capsys, "study", "--resume", folder)
    (folder / "networks" / "CURE.safetensors").unlink()
    (folder / "parts" / "attack-PGD.json").write_text('{"key": ')
    assert "attack-PGD.json" in refused(capsys, "study", "--resume", folder)
    (folder / "parts" / "attack-PGD.json").unlink()
    whole = (folder / "settings.yaml").read_text()
    for content in ("seed: [", "seed: 3\n", whole.replace("seed: 0", "seed: soon"), whole + "sede: 3\n"):
        assert content != whole
        (folder / "settings.yaml").write_text(content)
        assert "settings.yaml" in refused(capsys, "report", folder)
    (folder / "settings.yaml").write_text("seed: 3\n")
    assert "the settings of a study in" in refused(capsys, "report", folder)


def test_an_earlier_run_keeps_the_settings_that_made_it(capsys, smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "run")
    before = (folder / "settings.yaml").read_text()
    for words in (["--seed", "3"], ["--training.epochs=9"], ["--data", "mnist"]):
        assert "the settings that the run was made with" in refused(capsys, "attack", folder, *words)
    assert (folder / "settings.yaml").read_text() == before


def test_a_full_disk(smoke, tmp_path):
    folder = tmp_path / "run"
    limit = 40_000  # the first network is larger
    child = process(
        "study", *SMOKE, "--out", folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2, err
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("lowcurve: expected to be able to write")
    assert "received file too large; free some room" in line
    assert not [name for name in files(folder) if name.endswith(".part")]
    assert done("study", "--resume", folder) == 0
    assert results(folder) == results(smoke)
