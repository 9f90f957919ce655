"""A YAML file of settings takes what the command line takes, in the same spellings."""

import pytest
from command import done, refused

from lowcurve.attacks import SUITES
from lowcurve.cli.requests import parse
from lowcurve.study.settings import Study


def read(tmp_path, text: str) -> Study:
    (tmp_path / "settings.yaml").write_text(text)
    return parse("study", ["--config", str(tmp_path / "settings.yaml")]).study


@pytest.mark.parametrize("written", ["0.1", "8/255", "1e-1", "5e-2", ".1", "pixels:8", "pixels:2.5"])
def test_a_radius_is_the_same_in_a_file_and_on_the_command_line(tmp_path, written):
    said = parse("study", ["--radius", written, "--training-attack.radius", written]).study
    for text in (f"radius: {written}\ntraining_attack:\n  radius: {written}\n", f'eps: "{written}"'):
        study = read(tmp_path, text)
        assert study.ball() == said.ball()
        assert study.training_attack.radius == study.radius
        assert isinstance(study.radius, str)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("norm: linf", ["--norm", "linf"]),
        ("norm: l2\nradius: 0.5", ["--norm", "l2", "--radius", "0.5"]),
        ("methods: standard,CURE", ["--methods", "standard,CURE"]),
        ("methods: PGD", ["--methods", "PGD"]),
        ("methods: [standard, CURE]", ["--methods", "[standard,CURE]"]),
        ("data-dir: /nowhere", ["--data-dir", "/nowhere"]),
        (
            "evaluation: {curvature-examples: 3, first: true}",
            ["--evaluation.curvature-examples=3", "--evaluation.first=true"],
        ),
        ("evaluation:\n  radii: 0,0.5,1", ["--evaluation.radii", "0,0.5,1"]),
        ("model: a:b\nmean: 0.5\nstd: 0.25", ["--model", "a:b", "--mean", "0.5", "--std", "0.25"]),
        ("precision: 64", ["--precision", "64"]),
        ("training:\n  learning-rate: 1e-3", ["--training.learning-rate", "1e-3"]),
        ("seed: '3'", ["--seed", "3"]),
        ("width: null", ["--width", "null"]),
    ],
)
def test_a_file_takes_the_spellings_of_the_command_line(tmp_path, text, words):
    assert read(tmp_path, text) == parse("study", words).study


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("radius: true", "--radius to be text or a number, got 'True'"),
        ("radius: null", "a radius such as 8/255, 0.1 or pixels:8, got 'None'"),
        ("radius: eight", "a radius such as 8/255"),
        ("radius: 8", "a radius within the pixel range"),
        ("methods: standard,CUER", "Did you mean CURE?"),
        ("norm: l7", "--norm to be one of l_inf, l_2, l_1, got 'l7'"),
        ("eps: 0.1\nnet-work: mlp", "Unknown option net_work. Did you mean network?"),
    ],
)
def test_a_file_is_refused_in_the_words_of_the_command_line(capsys, tmp_path, text, sentence):
    (tmp_path / "settings.yaml").write_text(text)
    assert sentence in refused(capsys, "study", "--config", tmp_path / "settings.yaml", "--out", tmp_path / "run")


@pytest.mark.parametrize("command", ["study", "attack"])
def test_help_names_every_suite(capsys, command):
    for page in ("--help", "--help-all"):
        done(command, page)
        shown = capsys.readouterr().out
        assert all(name in shown for name in SUITES)
