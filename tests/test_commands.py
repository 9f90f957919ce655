"""The commands as a user meets them: what each writes, how a study goes on after an end, the report in a browser."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import browser
import pytest
import torch
from command import (
    FOUR,
    LONGER,
    PROJECT,
    SMOKE,
    cells,
    done,
    files,
    image_folder,
    parquet,
    process,
    refused,
    results,
    settings,
)
from torch import nn

from lowcurve.attacks import SUITES
from lowcurve.cli.commands import COMMANDS
from lowcurve.cli.drawings import DRAWINGS
from lowcurve.cli.options import STUDY
from lowcurve.cli.report import report
from lowcurve.cli.requests import parse
from lowcurve.errors import InputError
from lowcurve.libraries import LOGGERS
from lowcurve.models import ARCHITECTURES, summary
from lowcurve.store import Run
from lowcurve.study.method_options import METHOD_NAMES
from lowcurve.study.presets import preset
from lowcurve.study.settings import Study

pytestmark = pytest.mark.usefixtures("alone")


# --- without a command


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m lowcurve reproduce --list | head -n 1"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "/" in ran.stdout
    assert ran.stderr == ""


def test_help_comes_at_once_and_without_torch():
    script = (
        "import sys\nfrom lowcurve.cli import main\nassert main(['--help']) == 0\n"
        "assert not {'torch', 'numpy', 'jsonargparse', 'rich', 'lightning_fabric'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, stdout=subprocess.DEVNULL)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        child = process("--help")
        out, _ = child.communicate()
        times.append(time.perf_counter() - started)
        assert child.returncode == 0
        assert all(command in out for command in ("study", "train", "measure", "attack", "report", "recipes"))
    assert min(times) < 1


def test_no_words_show_the_usage(capsys):
    assert done() == 2
    assert capsys.readouterr().out.startswith("usage: lowcurve")


def test_the_version(capsys):
    assert done("--version") == 0
    assert capsys.readouterr().out.startswith("lowcurve 0.")


def test_an_unknown_command(capsys):
    sentence = refused(capsys, "stduy")
    assert f"a command among {', '.join(COMMANDS)}, got 'stduy'" in sentence
    assert sentence.endswith("Did you mean study?")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen(capsys, command):
    """Each option has a description and, where there is one, its default; below stands an example."""
    assert done(command, "--help") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err
    assert lines[0].startswith(f"usage: lowcurve {command}")
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert "<class" not in out
    assert f"\n  lowcurve {command} " in out.partition("\nexample")[2]
    assert not undescribed(lines)
    assert ("--training" in out) == (command in ("study", "train"))
    shown = set(re.findall(r"^  --([\w.-]+)", out, re.MULTILINE)) - {"help-all"}
    assert shown == {name for name in COMMANDS[command].shown if not name.isupper()}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_whole_help_of_a_command_describes_every_option(capsys, command):
    assert done(command, "--help-all") == 0
    out, err = capsys.readouterr()
    assert not err
    assert "<class" not in out
    assert "configuration file" not in out
    assert not undescribed(out.splitlines())
    assert ("--evaluation.budget.queries" in out) == (command in ("study", "train", "measure", "attack", "audit"))
    assert ("--fine-tuning.epochs" in out) == (command in ("study", "train"))
    every = set(re.findall(r"^  --([\w.-]+)", out, re.MULTILINE))
    assert {name for name in COMMANDS[command].shown if not name.isupper()} <= every


def undescribed(lines: list[str]) -> list[str]:
    """The options of a help page that have no text of their own."""
    found = []
    for line, after in itertools.pairwise([*lines, ""]):
        if re.match(r"  (--|[A-Z]+ )", line):
            text = (
                re.sub(r"^  \S+( \S+)?", "", line[:28]) + line[28:] if len(line) > 28 and line[26:28] == "  " else after
            )
            found += [line] if not re.search("[a-z]{2}", re.sub(r"\(default.*", "", text)) else []
    return found


def test_the_choices_and_defaults_that_help_names_are_those_of_the_package():
    study = Study()
    assert set(re.split(", | or ", STUDY["network"].text.removeprefix("Network: "))) == set(ARCHITECTURES)
    assert STUDY["methods"].text.removeprefix("Training methods: ").split(", ") == list(METHOD_NAMES)
    assert set(re.split(", | or ", STUDY["suite"].text.partition(": ")[2])) == set(SUITES)
    assert set(re.findall(r"\w+", STUDY["loggers"].text.partition(": ")[2].partition(".")[0])) - {"or"} == set(LOGGERS)
    assert STUDY["loggers"].default == ",".join(study.loggers)
    assert STUDY["methods"].default == ",".join(study.methods)
    assert STUDY["norm"].default == study.norm.replace("_", "")
    defaults = {name: STUDY[name].default for name in ("data", "suite", "seed", "accelerator", "devices")}
    assert defaults == {name: str(getattr(study, name)) for name in defaults}
    for name in ("steps", "audited", "lanczos_steps"):
        whole, smoke = (getattr(preset("digits", scale).evaluation, name) for scale in ("laptop", "smoke"))
        assert re.findall(r"\d+", STUDY[f"evaluation.{name.replace('_', '-')}"].default) == [str(whole), str(smoke)]
    assert {kind: drawing.examples for kind, drawing in DRAWINGS.items()}["path"] == 40


def test_lists_need_no_brackets_and_dashes_are_underscores():
    request = parse("train", ["--methods", "standard,CURE", "--eps=8/255", "--fine-tuning.epochs", "3", "--norm", "l2"])
    assert request == parse(
        "train", ["--methods=[standard, CURE]", "--radius", "8/255", "--fine_tuning.epochs=3", "--norm=l_2"]
    )
    assert (request.study.methods, request.study.norm, request.study.radius) == (("standard", "CURE"), "l_2", "8/255")
    assert parse("train", ["--evaluation.radii", "0,1"]).study.evaluation.radii == (0.0, 1.0)


def test_the_scale_of_a_file_is_honored_or_its_word_refused(capsys):
    Path("few.yaml").write_text("seed: 4\n")
    assert parse("train", ["--config", "few.yaml", "--scale", "smoke"]).study.training.epochs == 1
    assert done("train", *SMOKE, "--print-config") == 0
    Path("whole.yaml").write_text(capsys.readouterr().out)
    assert parse("train", ["--config", "whole.yaml", "--scale", "smoke"]).study.training.epochs == 1
    sentence = refused(capsys, "train", "--config", "whole.yaml", "--scale", "laptop")
    assert re.search(
        "--scale or a file with all settings, got --scale laptop with .*whole.yaml. Leave out --scale", sentence
    )


@pytest.mark.parametrize("command", ["measure", "attack", "audit"])
def test_what_trains_nothing_takes_no_options_of_training(capsys, command):
    sentence = refused(capsys, command, "--model", "own:make", "--training.epochs", "3")
    assert f"options of lowcurve {command}, which trains nothing, got --training.epochs. Leave it out." in sentence


# --- a study


def test_a_study_writes_a_whole_run(smoke):
    networks = {f"networks/{name}.safetensors" for name in FOUR}
    parts = {f"parts/{step}-{name}.json" for step in ("training", "curvature", "attack") for name in FOUR}
    found = {f"adversarial/{name}.safetensors" for name in FOUR}
    expected = (
        {"settings.yaml", "study.json", "report.html", "log.txt", "examples.txt", "provenance.json"}
        | {"parts/transfer.json", "parts/drawn.json"}
        | networks
        | parts
        | found
    )
    assert {name for name in files(smoke) if not name.startswith("logs/")} == expected
    assert all((smoke / "logs" / name / "part-1" / "metrics.csv").stat().st_size for name in FOUR)
    log = (smoke / "log.txt").read_text()
    assert all(f"{name}: attack done" in log for name in FOUR)


def test_the_networks_of_a_run_are_audited_into_it(smoke, capsys):
    shutil.copytree(smoke, "run")
    assert done("audit", "run", "--evaluation.audited", 8, "--evaluation.effort.steps", 2) in (0, 1, 3)
    audits = json.loads(Path("run/audit.json").read_text())["audits"]
    assert list(audits) == FOUR
    said = capsys.readouterr().out
    assert all(f"{name}: Audit of 8 images: " in said for name in audits)
    assert "Outcome of every test" in Path("run/audit.html").read_text()


def test_the_numbers_of_a_study_are_json_and_all_of_the_report(smoke):
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((smoke / "study.json").read_text(), parse_constant=refuse)
    assert content["settings"] == settings(smoke)
    found = content["results"]
    assert [row[0] for row in found["comparison"]["rows"]] == FOUR
    assert [c["heading"] for c in found["comparison"]["columns"]][:4] == ["network", "clean", "PGD-3", "strong"]
    expected = {"against radius", "against scale", "stability", "profile", "profile at scale", "density", "gallery"}
    expected |= {"curvature and robustness", "geometry", "spectrum", "boundary", "indicator", "discrepancy"}
    expected |= {"section 1", "margin 1", "along cross-entropy 1", "classes 1", "margin gradients"}
    assert expected <= set(found)
    assert {f"training {name}" for name in FOUR} <= set(found)
    page = (smoke / "report.html").read_text()
    for name in FOUR:
        assert name in page
    for value, low, high in (cell for h in ("clean", "PGD-3", "strong") for cell in cells(found, h).values()):
        assert 0 <= low <= value <= high <= 1
        assert f"{value:.1%}" in page
    assert all(length > 0 for length in cells(found, "‖g‖").values())
    orders = {"spectrum": ("‖H‖, power", "‖H‖_F"), "linearity": ("‖e‖‖g‖(1 + a/2)", "‖e‖‖g‖(eᵃ − 1)/a")}
    for table, headings in orders.items():  # what is true of every image is true of the quantiles
        lower, upper = (cells(found, heading, table) for heading in headings)
        assert all(a <= 1.001 * b for name in FOUR for a, b in zip(lower[name], upper[name], strict=True))
    for name in FOUR:
        # A network that the audit does not believe (these are hardly trained) bears the words wherever its accuracy stands.
        lines = {key.split(" (")[0]: line for key, line in found["against radius"]["lines"].items()}
        line = lines[name]["y"]
        assert line[0] == cells(found, "clean")[name][0]
        assert line[1] <= line[0]


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_evaluation_of_a_run_can_be_asked_for_otherwise(tmp_path):
    folder = tmp_path / "run"
    assert done("study", *SMOKE, "--methods", "standard,CURE", "--out", folder) == 0
    before = settings(folder)["evaluation"]
    weights = {path.name: path.read_bytes() for path in folder.glob("networks/*")}
    assert done("attack", folder, "--radius", "0.05", "--evaluation.steps=2") == 0
    assert settings(folder)["radius"] == "0.05"
    assert settings(folder)["evaluation"] == {**before, "steps": 2}
    assert "PGD-2" in [column["heading"] for column in results(folder)["comparison"]["columns"]]
    assert weights == {path.name: path.read_bytes() for path in folder.glob("networks/*")}
    # The curvature at the attacks' scale belongs to the same radius.
    found = {
        json.loads((folder / "parts" / f"curvature-{name}.json").read_text())["key"] for name in ("standard", "CURE")
    }
    assert all("'0.05'" in key and "'0.125'" not in key for key in found)
    assert done("measure", folder, "--eps", "0.1") == 0
    assert "'0.1'" in json.loads((folder / "parts" / "attack-CURE.json").read_text())["key"]


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
@pytest.mark.slow
def test_a_study_of_real_images(name, data_dir):
    words = ("--scale", "smoke", "--data-dir", data_dir, "--methods", "[standard,CURE]")
    assert done("study", "--data", name, *words, "--out", "run") == 0
    assert [row[0] for row in results(Path("run"))["comparison"]["rows"]] == ["standard", "CURE"]


@pytest.mark.slow
def test_a_study_of_an_image_folder_and_of_parquet(tmp_path):
    image_folder(tmp_path / "pets")
    parquet(tmp_path / "pets.parquet", [k % 2 for k in range(30)])
    for number, path in enumerate((tmp_path / "pets", tmp_path / "pets.parquet")):
        folder = tmp_path / f"run-{number}"
        words = ("--scale", "smoke", "--methods", "[standard]", "--training.batch_size", "8")
        assert done("study", "--data", path, *words, "--out", folder) == 0
        assert list(cells(results(folder), "clean")) == ["standard"]


@pytest.mark.parametrize(("suite", "steps"), [("moosavi2019cure", 20), ("srinivas2022lcnn", 10)])
def test_a_suite_that_begins_with_the_studys_own_attack_has_it_once(suite, steps, tmp_path):
    folder = tmp_path / "run"
    assert done("train", *SMOKE, "--methods", "[standard]", "--out", folder) == 0
    assert done("attack", folder, "--suite", suite, "--evaluation.steps", steps, "--evaluation.audited", 0) == 0
    found = results(folder)
    assert [column["heading"] for column in found["attacks"]["columns"]] == ["network", "clean", f"then PGD-{steps}"]
    assert cells(found, suite) == cells(found, f"PGD-{steps}")


# --- one's own model


@pytest.mark.parametrize(("kind", "robust"), [("cln", (0.0, 0.2)), ("adv", (0.8, 1.0))])
@pytest.mark.slow
def test_a_public_network_is_measured_and_attacked(kind, robust, data_dir, weights_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    folder = tmp_path / "run"
    weights = weights_dir / f"mnist_lenet5_{kind}trained.pt"
    words = (
        "--model",
        "lowcurve.examples.public_networks:lenet5",
        "--weights",
        weights,
        "--data",
        "mnist",
        "--scale",
        "smoke",
    )
    assert done("measure", *words, "--data_dir", data_dir, "--out", folder) == 0
    assert cells(results(folder), "‖g‖")["given"] > 0
    assert done("attack", folder, "--radius", "0.3", "--evaluation.steps", "20") == 0
    found = results(folder)
    assert cells(found, "clean")["given"][0] > 0.9
    assert robust[0] <= cells(found, "PGD-20")["given"][0] <= robust[1]
    assert cells(found, "‖g‖")["given"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_cure_starts_from_ones_own_network():
    words = ("--model", "own:make", "--weights", "own.pt", "--methods", "[standard,CURE]")
    assert done("study", *SMOKE, *words, "--out", "run") == 0
    assert list(cells(results(Path("run")), "clean")) == ["given", "CURE"]
    given = Run(Path("run")).load_network("given")
    assert torch.equal(given[1].weight, torch.load("own.pt")["1.weight"])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("weights", [(), ("--weights", "own.pt")], ids=["from the function", "from a file"])
def test_a_study_of_ones_own_network_trains_nothing_unasked(weights, capsys):
    assert done("study", *SMOKE, "--model", "own:make", *weights, "--out", "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing is trained: own:make is evaluated as it is. Add --train or --methods NAMES to train it" in said
    assert "Your network classifies only" in said
    assert "Check its normalization (--mean and --std, or a first layer of its own" in said
    assert list(cells(results(Path("run")), "clean")) == ["given"]
    assert Run(Path("run")).networks() == ("given",)
    assert settings(Path("run"))["methods"] == []
    assert not list(Path("run").glob("parts/training-*"))


@pytest.mark.usefixtures("own")
def test_what_is_trained_from_ones_own_network_is_said(capsys):
    words = (
        "--model",
        "own:make",
        "--weights",
        "own.pt",
        "--train",
        "--evaluation.drawn",
        "0",
        "--evaluation.audited",
        "0",
    )
    assert done("study", *SMOKE, *words, "--out", "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    plan = (
        "will be trained: CURE from the weights in --weights; gradient-norm, PGD from the weights that own:make returns"
    )
    assert plan in said
    assert list(cells(results(Path("run")), "clean")) == ["given", "CURE", "gradient-norm", "PGD"]


@pytest.mark.usefixtures("own")
def test_standardization_outside_ones_own_network():
    """The network behind --mean and --std is that with a first layer of its own; its weights keep their names."""
    words = ("--model", "own:make", "--weights", "own.pt", "--mean", "0.3", "--std", "0.4", "--evaluation.audited", "0")
    assert done("attack", *SMOKE, *words, "--out", "run") == 0
    whole = Run(Path("run")).load_network("given")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    plain.load_state_dict(torch.load("own.pt"))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(whole(x), plain((x - 0.3) / 0.4))
    assert done("measure", "run") == 0
    assert "given" in cells(results(Path("run")), "‖g‖")


@pytest.mark.usefixtures("own")
def test_ones_own_network_without_weights_is_trained():
    assert done("train", *SMOKE, "--model", "own:make", "--methods", "[standard]", "--out", "run") == 0
    assert Path("run/parts/training-standard.json").exists()
    words = (*SMOKE, "--model", "own:make", "--methods", "[standard]")
    assert done("study", *words, "--out", "study") == 0
    assert Path("study/parts/training-standard.json").exists()
    assert list(cells(results(Path("study")), "clean")) == ["standard"]


BENT = """
from torch import nn
from torch.nn import functional as F
class Bent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)
    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).flatten(1))
"""


@pytest.mark.slow
def test_low_curvature_by_construction_from_ones_own_network(tmp_path, monkeypatch):
    """The networks of LCNN and of its minimal recipe are ours, converted, with the course of what they learn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bent.py").write_text(BENT)
    methods = ("LCNN", "LCNN+gradient-norm", "minimal")
    words = ("--model", "bent:Bent", "--methods", f"[{','.join(methods)}]", "--low_curvature.beta", "3.0")
    assert done("study", *SMOKE, *words, "--out", "run") == 0
    found, run = results(Path("run")), Run(Path("run"))
    assert [row[0] for row in found["comparison"]["rows"]] == list(methods)
    rows = {(row[0], row[2]) for row in found["layers"]["rows"]}
    assert rows >= {("LCNN", "LipschitzLinear"), ("minimal", "CenteredSoftplus")}
    assert ("minimal", "LipschitzLinear") not in rows
    assert found["training LCNN of β"]["lines"].keys() == found["training minimal of β"]["lines"].keys()
    assert "training minimal of γ" not in found
    for name in methods:
        betas = [row.beta for row in summary(run.load_network(name)) if row.beta is not None]
        assert betas
        assert all(2.5 < beta < 3.5 and beta != 3.0 for beta in betas)


# --- the report in a browser


@pytest.mark.slow
def test_the_report_of_a_study_opens_in_a_browser(smoke, tmp_path):
    if browser.find_browser() is None:
        pytest.skip("no Chromium is installed")
    script = """return { sentences: [...document.querySelectorAll(".findings li")].map((entry) => entry.textContent),
      warnings: document.querySelector(".warnings").textContent, charts: document.querySelectorAll("svg.chart").length,
      nodes: document.querySelectorAll("*").length }"""
    page = (smoke / "report.html").read_text(encoding="utf-8")
    seen = browser.ask(page, script, tmp_path)
    assert seen["sentences"] == json.loads((smoke / "study.json").read_text())["findings"]
    assert "Nothing can be read from" in seen["warnings"]
    assert seen["charts"] > 10
    assert seen["nodes"] < 5000
    assert len(page) < 2_500_000
    assert done("report", smoke, "--static") == 0
    assert (smoke / "report-static.html").stat().st_size < 800_000


def test_two_runs_are_shown_side_by_side(smoke, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(smoke, other)
    page = tmp_path / "both.html"
    assert done("report", smoke, other, "--out", page) == 0
    numbers = json.loads(page.with_suffix(".json").read_text())
    names = [row[0] for row in numbers["results"]["comparison"]["rows"]]
    assert names == [f"{run}: {name}" for run in ("run", "other") for name in FOUR]
    assert "Settings in which the runs differ" in page.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="two runs or more with --out, got one"):
        report("report", [str(smoke), "--out", "x.html"])
    with pytest.raises(InputError, match=r"runs that differ, got .* twice"):
        report("report", [str(smoke), str(smoke)])
    bare = [Run.create(tmp_path / name) for name in ("c", "d")]
    for run in bare:
        run.begin(Study())
    with pytest.raises(InputError, match=r"runs with results, got none\. Run lowcurve measure or attack on them first"):
        report("report", [str(run.folder) for run in bare])


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
@pytest.mark.slow
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


@pytest.mark.slow
def test_kill_and_going_on(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    child = started_until("checkpoints/CURE.pt", folder)
    time.sleep(0.05)
    child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    check_consistent(folder)
    check_finished(folder, uninterrupted)


@pytest.mark.slow
def test_kill_in_the_middle_of_an_attack_and_going_on(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    child = started_until("ledgers/standard", folder)
    child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not (folder / "report.html").exists()
    assert done("study", "--resume", folder) == 0
    assert results(folder) == results(uninterrupted)
    assert not list((folder / "ledgers").iterdir())


def test_ctrl_c_before_the_run_has_begun(tmp_path):
    # A pipe for a file of settings holds the command at a known place, however busy the machine is.
    os.mkfifo(tmp_path / "settings.yaml")
    child = process("study", *LONGER, "--config", tmp_path / "settings.yaml", "--out", tmp_path / "run")
    with (tmp_path / "settings.yaml").open("w"):
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted before anything was written" in err
    assert not (tmp_path / "run").exists()


def test_a_report_shows_only_results_of_the_current_radius(smoke, tmp_path, caplog):
    folder = shutil.copytree(smoke, tmp_path / "run")
    text = (folder / "settings.yaml").read_text()
    # As of a command that was killed once it had written its new settings.
    Run(folder).write("settings.yaml", re.sub(r"^radius: .*$", "radius: '0.03'", text, flags=re.MULTILINE))
    assert done("report", folder) == 0
    assert not {"comparison", "robustness", "geometry", "against radius"} & results(folder).keys()
    assert "attack-standard is left out of the report: it belongs to another norm or radius" in caplog.text
