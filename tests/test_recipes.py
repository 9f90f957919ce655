"""Recipes: each is what the paper says or says what differs, builds its study, trains, and stands in the run's report."""

import json
import os
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from command import cells, done, image_folder, refused, results, settings

from lowcurve.cli.parsing import flat
from lowcurve.cli.requests import parse
from lowcurve.data import DataSet, Examples, Limits
from lowcurve.papers.recipes import get_recipe, get_recipes, list_recipe_keys
from lowcurve.results import Column, Curves, Line, Table
from lowcurve.store import Run
from lowcurve.study import pipeline as steps
from lowcurve.study.comparison import UNRELIABLE
from lowcurve.study.method_options import Cure
from lowcurve.study.methods import method_of
from lowcurve.study.settings import Study

SHAPES = {"mnist": (1, 28, 28), "tiny-imagenet": (3, 64, 64)}
CURE = "moosavi2019cure/table-2/cure"
OURS = "yu2018interpreting/table-1/ours"
every_recipe = pytest.mark.parametrize("key", list_recipe_keys())


def stand_in(name: str) -> DataSet:
    """A few images of the data's shape, half of them dark and half of them bright."""
    shape = SHAPES.get(name, (3, 32, 32))
    y = torch.arange(24) % 2
    x = torch.rand(24, *shape, generator=torch.Generator().manual_seed(0)) / 2 + y.view(-1, 1, 1, 1) / 2
    part = Examples(x, y, ("dark", "bright"))
    return DataSet(name, part, part, part, "made up")


def tiny(study: Study) -> Study:
    return replace(study, width=2, limits=Limits(), training=replace(study.training, batch_size=12))


# --- what they say


def test_the_rows_that_are_shipped():
    assert len(list_recipe_keys()) == 39
    tables = {key.rsplit("/", 1)[0] for key in list_recipe_keys()}
    assert tables == {
        "moosavi2019cure/table-1", "moosavi2019cure/table-2", "moosavi2019cure/table-3", "srinivas2022lcnn/table-1",
        "srinivas2022lcnn/table-2", "yu2018interpreting/table-1", "yu2018interpreting/table-2", "bardusco_report/table-1",
        "rodriguez2024natural/released",
    }  # fmt: skip
    assert len({one.title for one in get_recipes()}) == len(list_recipe_keys())


@every_recipe
def test_a_recipe_is_whole(key):
    content = yaml.safe_load((files("lowcurve.papers.recipes") / f"{key}.yaml").read_text("utf-8"))
    assert set(content) <= {"title", "like", "paper", "quotation", "differs", "settings"}
    assert set(content["paper"]) <= {"where", "values", "counterparts"}
    found = get_recipe(key)
    assert found.title
    table = key.split("/")[1]
    place = "README" if table == "released" else f"Table {table.removeprefix('table-')}, section "
    assert found.paper.startswith(place)
    assert found.values
    assert found.quotation or found.differs
    assert set(found.counterparts) <= set(found.values)
    assert len(found.settings["methods"]) == 1
    assert all(re.match(r"[a-zA-Z_., ]+: ", reason) for reason in found.differs)


def letters(text: str) -> str:
    """The letters and digits alone, without marks of mathematics, which a page's text writes in several ways."""
    for command, letter in {"\\ell": "ℓ", "\\gamma": "γ", "\\infty": "", "\\cdot": "", "\\sim": ""}.items():
        text = text.replace(command, letter)
    return "".join(character for character in text if character.isalnum())


@every_recipe
def test_the_paper_has_these_words_and_numbers(key):
    folder = Path(os.environ.get("LOWCURVE_PAPERS", Path(__file__).parents[2] / "shared" / "papers"))
    path = folder / f"{key.split('/')[0]}.txt"
    if not path.is_file():
        pytest.skip("no texts of the papers: set LOWCURVE_PAPERS to their folder to run this")
    text, found = path.read_text(), get_recipe(key)
    for words in found.quotation.split("..."):
        assert letters(words) in letters(text), words
    for value in found.values.values():
        assert all(number in text for number in re.findall(r"\d*\.?\d+", value)), value


# What a quotation may say, and which setting that is.
SAID = {
    "fine_tuning.learning_rate": r"\[(10\^-4), 10\^-6\]",
    "cure.h": r"(?:fixed value of|we fix) h = (\d\.\d+)",
    "training.learning_rate": r"learning rate of (\d[\d.e-]*\d)",
    "training.momentum": r"a momentum of (\d\.\d)",
    "training.weight_decay": r"weight decay of (5×10\^-4)",
    "training_attack.radius": r"noise magnitude of (\d\.\d)",
    "training_attack.steps": r"(?:For \w+, we use|and) (\d+) iterations",
    "gradient.weight": r"is set to (\d+) for gradient regularization",
    "others.per_class": r"We built (\d+) adversarial samples",
}
EPOCHS = {
    "DeepFool": r"on (20) epochs for CIFAR-10",
    "CURE": r"for a duration of (20) epochs|for (200) epochs|for (30) epochs",
    "PGD": r"for (200) epochs|takes over (400) epochs",
    "gradient-norm": r"for (200) epochs|need (100) epochs",
    "standard": r"for (200) epochs|for (14) epochs|natural training takes about (30) epochs",
}


def number(text: str) -> float:
    return float(text.replace("×10^", "e").replace("10^", "1e"))


@every_recipe
def test_no_setting_contradicts_the_quotation(key):
    found = get_recipe(key)
    study, name = found.study(), found.method
    values = dict(flat("", json.loads(json.dumps(study, default=vars))))
    course = "fine_tuning" if method_of(name, study).fine_tunes else "training"
    said = {path: set(re.findall(pattern, found.quotation)) for path, pattern in SAID.items()}
    epochs = re.findall(EPOCHS.get(name, "(?!)"), found.quotation)
    said[f"{course}.epochs"] = {"".join(groups) for groups in epochs}
    if "γ, we set it to 4 and 8" in found.quotation:
        said["cure.weight"] = {"8" if study.network.startswith("wide") else "4"}
    for path, texts in said.items():
        for text in texts:
            admitted = any(path in reason.split(": ")[0] for reason in found.differs)
            assert float(values[path]) == number(text) or admitted, (path, text)
    if "10 at 150 and 175 epochs" in found.quotation:
        assert [share * study.training.epochs for share in study.training.learning_rate_schedule.milestones] == [
            150,
            175,
        ]
    if "10^-6]" in found.quotation:
        rates = study.fine_tuning
        assert rates.learning_rate * rates.learning_rate_schedule(1.0) == pytest.approx(1e-6)
    if "γ = 0.7" in found.quotation:
        schedule, count = study.training.learning_rate_schedule, study.training.epochs
        assert [schedule(k / count) for k in (0, 1, count)] == pytest.approx([1, 0.7, 0.7**count])
    if "during the first 5 epochs" in found.quotation:
        assert study.cure.ramp * study.fine_tuning.epochs == 5


def test_the_weights_of_lcnn_are_per_example():
    weights = {name: get_recipe(f"srinivas2022lcnn/table-1/{name}").study() for name in ("gradreg", "cure")}
    assert weights["gradreg"].gradient.weight == pytest.approx(1e-3 * 1e5 / 128**2, rel=1e-3)
    assert weights["cure"].cure.weight == pytest.approx(1e-3 * 1e3 / 128**2, rel=1e-3)
    assert weights["cure"].cure.h == 1


# --- their studies


@every_recipe
def test_the_command_line_begins_with_the_recipes_study(key):
    request = parse("train", [key, "--seed", "3"])
    assert request.recipe == get_recipe(key)
    assert request.study == replace(get_recipe(key).study(), seed=3).resolve()


@every_recipe
def test_a_recipe_trains(key, tmp_path):
    found = get_recipe(key)
    study, data = tiny(found.study("smoke")), stand_in(found.settings["data"])
    steps.check_study(study, data, ("train",))
    run = Run(tmp_path)
    steps.train(study, data, run)
    assert found.method in run.networks()
    assert all(p.isfinite().all() for p in run.load_network(found.method).parameters())


def test_cure_from_scratch_needs_no_other_network(tmp_path):
    study = tiny(replace(get_recipe(CURE).study("smoke"), network="small-convnet"))
    scratch = replace(study, cure=replace(study.cure, from_scratch=True))
    assert steps.required_methods(study) == ["standard", "CURE"]
    assert steps.required_methods(scratch) == ["CURE"]
    assert (method_of("CURE", scratch).fine_tunes, method_of("CURE", study).fine_tunes) == (False, True)
    assert method_of("DeepFool", scratch).fine_tunes
    assert not Cure().from_scratch
    scratch = replace(scratch, training=replace(scratch.training, learning_rate=0.0))
    run = Run(tmp_path)
    steps.train(scratch, stand_in("cifar10"), run)
    assert run.networks() == ("CURE",)
    fresh = steps.source_of(scratch, stand_in("cifar10")).build(scratch.seed)
    made = run.load_network("CURE")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), fresh.parameters(), strict=True))


def test_ours_beside_the_papers():
    found = get_recipe(OURS)
    heads = (Column("network"), Column("clean", form=".1%"), Column("PGD-10", form=".1%"), Column("audit"))
    row = ("gradient-norm", (0.984, 0.9, 1.0), (0.5, 0.4, 0.6), f"{UNRELIABLE}: SPSA")
    curve = Curves(
        "Accuracy against radius", "r", "share", (0.0, 0.1), {f"gradient-norm ({UNRELIABLE})": Line((0.98, 0.881))}
    )
    shown = found.make_table({"comparison": Table("C", heads, (row,)), "against radius": curve}, ["seed"])
    rows = {name: tuple(rest) for name, *rest in shown.rows}
    assert rows["natural"] == ("98.4", "98.4", "C, clean")
    assert rows["BIM at 0.1"] == ("88.1", "88.1", f"Accuracy against radius, at 0.1 ({UNRELIABLE})")
    assert rows["BIM at 0.2"] == ("64.9", None, "")
    assert rows["FGSM at 0.1"] == ("91.6", None, "")
    assert shown.caption == "These settings differ from the recipe: seed."
    robust = replace(found, values={"BIM": "1"}, counterparts={"BIM": "PGD-10"}).make_table(
        {"comparison": Table("C", heads, (row,))}
    )
    assert robust.rows == (("BIM", "1", "50.0", f"C, PGD-10 ({UNRELIABLE})"),)


# --- on the command line


def test_all_recipes_are_listed(capsys):
    assert done("recipes") == 0
    out = capsys.readouterr().out
    assert all(key in out for key in list_recipe_keys())
    assert "81.2" in out
    assert done("recipes", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: lowcurve recipes [KEY]")


@every_recipe
def test_a_recipe_is_shown(key, capsys):
    assert done("recipes", key) == 0
    out, found = capsys.readouterr().out, get_recipe(key)
    for part in (found.title, found.quotation, *found.differs, *found.values, *found.values.values(), "methods: ["):
        assert part in out


def test_what_is_no_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near = "the key of a recipe, got 'moosavi2019cure/table-2/cure-resnet'. Write moosavi2019cure/table-2/cure"
    assert near in refused(capsys, "recipes", "moosavi2019cure/table-2/cure-resnet")
    assert "See lowcurve recipes" in refused(capsys, "recipes", "?")
    assert "at most one key" in refused(capsys, "recipes", OURS, CURE)
    expected = f"an existing run directory, or the key of a recipe, got '{CURE}8'. Write {CURE}"
    assert expected in refused(capsys, "train", f"{CURE}8")
    assert "a scale paper or smoke of a recipe, got 'laptop'" in refused(capsys, "train", CURE, "--scale", "laptop")
    assert "a run directory" in refused(capsys, "attack", CURE)
    Path(CURE).mkdir(parents=True)
    assert "a run directory (with settings.yaml)" in refused(capsys, "train", CURE)


@pytest.fixture
def pets(tmp_path, monkeypatch) -> tuple[str, ...]:
    """Small data and settings in place of a recipe's own."""
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "pets")
    return ("--data", "pets", "--scale", "smoke", "--training.batch_size=12", "--width", "4")


def test_a_recipe_is_trained_and_attacked_by_its_key(pets, capsys):
    Path("mine.yaml").write_text("evaluation: {audited: 0}\nseed: 7\n")
    assert done("train", *pets, OURS, "--config", "mine.yaml", "--gradient.weight", "0.5", "--out", "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"recipe {OURS}" in said
    assert "BIM at 0.2 64.9" in said
    assert "differs: network: the widths are not stated" in said
    kept, content = settings(Path("run")), json.loads(Path("run/recipe.json").read_text())
    assert (kept["seed"], kept["gradient"]["weight"], kept["gradient"]["of"]) == (7, 0.5, "margin")
    assert (kept["network"], kept["training"]["epochs"], kept["evaluation"]["audited"]) == ("yu2018-mnist", 1, 0)
    assert content["key"] == OURS
    assert content["values"]["natural"] == "98.4"
    table = results(Path("run"))["beside the paper"]
    assert cells(results(Path("run")), "ours", "beside the paper") == dict.fromkeys(content["values"])
    assert "gradient.weight" in table["caption"]
    assert "gradient.of" not in table["caption"]
    assert done("attack", "run") == 0
    found = results(Path("run"))
    ours = cells(found, "ours", "beside the paper")
    assert ours["natural"] == f"{100 * cells(found, 'clean')['gradient-norm'][0]:.1f}"
    assert ours["BIM at 0.2"] is not None
    assert "Compared with the paper" in capsys.readouterr().out
    page = Path("run/report.html").read_text()
    assert all(part in page for part in (OURS, "Compared with the paper", "64.9", "the widths are not stated"))
    Path("run/recipe.json").write_text('{"key": 3}')
    assert "the recipe of the run in" in refused(capsys, "report", "run")


@pytest.mark.usefixtures("alone")
def test_settings_of_a_recipe_can_be_printed_and_read_back(capsys):
    assert done("train", OURS, "--print_config") == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert parse("train", ["--config", "printed.yaml"]).study == get_recipe(OURS).study().resolve()
    request = parse("train", ["--out", OURS, "--data", "digits"])
    assert (request.recipe, request.out) == (None, OURS)


@pytest.mark.parametrize("key", [OURS, CURE])
def test_recipes_on_their_own_data(key, data_dir, tmp_path):
    few = ("--limits.train", "32", "--width", "2", "--out", tmp_path / "run")
    assert done("train", key, "--scale", "smoke", "--data-dir", data_dir, *few) == 0
    assert get_recipe(key).method in Run(tmp_path / "run").networks()
