"""README.md is true: its tables are those of the committed results, its Python runs, its commands are understood."""

import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from lowcurve.cli.commands import COMMANDS
from lowcurve.cli.reproduce import asked
from lowcurve.cli.words import parse
from lowcurve.papers.items import ITEMS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLAIMED = ("digits", "mnist", "digits-released")
RESULTS = (*CLAIMED, "cifar10")


def tables():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "docs" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(name: str) -> dict[str, dict[str, float]]:
    table = tables().named(f"docs/results/study-{name}.json")
    values = [[v[0] if isinstance(v, tuple) else v for v in row] for row in table.rows]
    return {row[0]: dict(zip((c.heading for c in table.columns), row, strict=True)) for row in values}


def test_the_tables_are_those_of_the_committed_results():
    assert tables().written(README) == README
    # Beside the studies: the audited network, training steps, equal costs.
    assert README.count("<!-- end of table -->") == len(RESULTS) + 3


def test_an_empty_place_is_filled_without_touching_what_follows():
    full = "<!-- table: docs/results/study-mnist.json -->\n| old |\n<!-- end of table -->\n"
    text = tables().written(f"a\n<!-- table: docs/results/study-digits.json -->\nb\n{full}c\n")
    assert text.count("<!-- end of table -->") == 2
    assert "\nb\n<!-- table: docs/results/study-mnist.json -->" in text
    assert text.endswith("<!-- end of table -->\nc\n")
    assert "| old |" not in text


@pytest.mark.parametrize("name", CLAIMED)
def test_the_committed_results_show_what_the_project_claims(name):
    rows = cells(name)
    standard = rows["standard"]
    for robust in {"CURE", "PGD"} & set(rows):
        assert rows[robust]["PGD-20"] >= standard["PGD-20"] + 0.2
        assert rows[robust]["clean"] >= standard["clean"] - 0.04
    for curvature in ("‖H‖", "C", "‖Hₕz‖"):
        assert rows["CURE"][curvature] < standard[curvature]
    assert standard["clean"] >= 0.97 or name == "mnist"


@pytest.mark.parametrize("name", RESULTS)
def test_the_committed_results_carry_their_settings(name):
    content = json.loads((ROOT / "docs" / "results" / f"study-{name}.json").read_text())
    assert content["settings"]["data"] == name.removesuffix("-released")
    assert content["settings"]["cure"]["form"] == ("released" if name.endswith("-released") else "published")
    assert {"seed", "torch", "machine"} <= set(content["facts"])


def test_the_python_runs_in_under_ten_lines(capsys):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) < 10
    before, names = torch.get_rng_state(), {}
    exec(compile(first, "README.md", "exec"), names)
    assert "Summary(count=360" in capsys.readouterr().out
    exec(compile(second, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("replayed tangents tensor(")
    assert torch.equal(before, torch.get_rng_state())


def test_the_measured_page_is_that_of_the_committed_results():
    """Run `python docs/measured.py` when this fails."""
    spec = importlib.util.spec_from_file_location("measured", ROOT / "docs" / "measured.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "measured.md").read_text() == module.page()


def test_the_commands_are_understood():
    lines = [line.split("#")[0].split(">")[0].strip() for line in README.splitlines() if line.startswith("lowcurve ")]
    assert len(lines) >= 10
    for line in lines:
        command, *words = shlex.split(line)[1:]
        assert command in COMMANDS
        if command == "reproduce":
            found = asked(words)
            assert found.list or found.key in ITEMS
            continue
        if "runs/mine" in words or "mine.yaml" in words or "--print_config" in words:
            continue  # these need what an earlier line leaves
        request = parse(command, COMMANDS[command], words)
        assert request.run is None


def test_every_link_and_picture_is_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(docs/[^`]+\.md)`", README):
        assert (ROOT / path).is_file(), path
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(r"\]\(([^)#:]+)\)", gallery)
    assert shown
    assert not [path for path in shown if not (ROOT / "docs" / path).is_file()]


def test_the_page_of_what_was_made_again_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    module = importlib.import_module("reproduction")
    assert module.page() == (ROOT / "docs" / "reproduction.md").read_text()
    assert module.web_page() == (ROOT / "docs" / "reproduction.html").read_text()
    shown = re.findall(r"\]\((reproduction/[^)]+)\)", module.page())
    assert len(shown) > 30
    assert sorted(shown) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("reproduction/*")
    )
    assert "does not hold" in module.page()
    reasons = yaml.safe_load((ROOT / "docs" / "why.yaml").read_text())
    assert set(reasons) <= set(module.ITEMS)
    unexplained = {row[0] for row in module.summary().rows if row[5]} - set(reasons)  # of what differs from its paper
    assert not unexplained
    named = r"(Figures?|Eq\.|Table) \S+( and \d+)?|CIFAR-10"  # no numbers but in names
    assert not [key for key, reason in reasons.items() if re.search(r"\d", re.sub(named, "", reason))]
