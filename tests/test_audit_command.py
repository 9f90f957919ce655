"""The command audit: its files in the documented form, its page, and its exit code."""

import html
import json
from pathlib import Path

import faulty_networks as faulty
import pytest
import torch
from command import PROJECT, done, refused

from lowcurve.cli.requests import parse
from lowcurve.evaluation.audit import SCHEMA, THOROUGH, Budget
from lowcurve.evaluation.audit.exchange import FIELDS, FINDING_FIELDS, REMEDY_FIELDS, SHARE_FIELDS
from lowcurve.study.audit_results import budget_of

pytestmark = pytest.mark.usefixtures("alone")
SMALL = ("--data", "digits", "--scale", "smoke", "--eps", "0.1", "--evaluation.audited", 12)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "standard.pt"
    torch.save(faulty.standard().state_dict(), path)
    return path


@pytest.fixture
def _nets(weights, monkeypatch, alone) -> None:  # noqa: ARG001
    """A module with an honest network, the same one without gradients, and one that guesses."""
    Path("some_nets.py").write_text(
        "import faulty_networks as faulty, torch\nfrom faulty_networks import untrained as bare\n"
        f"def honest():\n    model = bare(8)\n    model.load_state_dict(torch.load({str(weights)!r}))\n    return model\n"
        "def masked():\n    return faulty.Detached(honest())\n"
        "def guessing():\n    return bare(8)\n"
    )
    monkeypatch.syspath_prepend(str(PROJECT / "tests"))


@pytest.mark.usefixtures("_nets")
@pytest.mark.parametrize(("name", "code"), [("honest", 0), ("masked", 1), ("guessing", 3)])
def test_an_audit_ends_with_the_code_of_its_verdict_and_writes_the_documented_form(capsys, name, code):
    assert done("audit", "--model", f"some_nets:{name}", *SMALL, "--out", "audited") == code
    content = json.loads(Path("audited/audit.json").read_text())
    found = content["audits"]["given"]
    assert content["schema"] == found["schema"] == SCHEMA
    assert list(found) == list(FIELDS)
    assert all(list(one) == list(FINDING_FIELDS) for one in found["findings"])
    assert all(list(one) == list(REMEDY_FIELDS) for one in found["remedies"])
    shares = [found["clean accuracy"], found["robust accuracy"], *(one["share"] for one in found["findings"])]
    assert all(list(one) == list(SHARE_FIELDS) for one in shares if one is not None)
    assert found["level"] in {0: ("reliable as far as tested", "warnings"), 1: ("unreliable",)}.get(
        code, ("too weak to judge",)
    )
    assert content["settings"]["evaluation.audited"] == found["images"] == found["clean accuracy"]["of"] == 12
    page = html.unescape(Path("audited/audit.html").read_text())
    assert "Outcome of every test" in page
    assert all(one["name"] in page for one in found["findings"])
    said = capsys.readouterr().out
    assert {"honest": "no masking found", "masked": "upper bound, evaluation unreliable"}.get(name, "too weak") in said
    assert "written: audited/audit.json" in said


def test_a_thorough_audit_has_every_search_at_least_as_large_as_usual():
    words = ["--model", "some_nets:honest", "--evaluation.budget.queries", "100000"]
    assert budget_of(parse("audit", words).study) == Budget(queries=100_000)
    thorough = budget_of(parse("audit", [*words, "--audit", "thorough"]).study)
    assert thorough.everything
    assert thorough.queries == 100_000
    assert thorough.at_least(THOROUGH) == thorough == thorough.at_least(Budget())


@pytest.mark.usefixtures("_nets")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Expected a run or a model, got neither. Write lowcurve audit RUN"),
        (("--model", "some_nets:honest", "--devices", 2), "Expected one process, got 2. Leave out --devices"),
        (("--model", "some_nets:honest", "--evaluation.audited", 0), "Expected at least one image to audit, got none"),
        (
            ("--model", "some_nets:honest", "--audit", "all"),
            "--evaluation.audit to be one of usual, thorough, got 'all'",
        ),
    ],
)
def test_what_cannot_be_audited(capsys, words, sentence):
    assert sentence in refused(capsys, "audit", *words)
