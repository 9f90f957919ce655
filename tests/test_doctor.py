"""The commands doctor and completion, and JSON from every command that prints a table."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command import FOUR, SMOKE, done, refused

from lowcurve.cli import doctor
from lowcurve.cli.commands import COMMANDS
from lowcurve.cli.completion import choices, command_line

pytestmark = pytest.mark.usefixtures("alone")


def printed(capsys, *words: object) -> object:
    """The JSON that a command prints; nothing else is on standard output."""
    capsys.readouterr()
    assert done(*words) == 0
    return json.loads(capsys.readouterr().out)


def found(part: str, **options) -> doctor.Finding:
    return next(one for one in doctor.examine(**options) if one.part == part)


# --- doctor


def test_the_doctor_finds_what_is_there(capsys):
    assert done("doctor") == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("Everything that every command needs is there.")
    parts = {one["part"]: one for one in printed(capsys, "doctor", "--json")}
    expected = {"lowcurve", "Python", "torch", "CPU", "threads", "compiled softplus", "browser", "data", "runs"}
    assert expected | {f"[{extra}]" for extra in doctor.NEEDS} <= set(parts)
    assert parts["Python"]["found"].startswith(".".join(map(str, sys.version_info[:2])))
    assert {one["status"] for one in parts.values()} <= {"ok", "optional"}
    assert all(one["advice"] for one in parts.values() if one["status"] == "optional")


def test_the_doctor_says_how_to_get_what_is_missing(monkeypatch, capsys, tmp_path):
    asked = ["numpy>=1.26", "jinja2>=99", 'a-missing-package>=2; extra == "figures"']
    monkeypatch.setattr(doctor, "requires", lambda _: asked)
    monkeypatch.setattr(doctor, "_torch", lambda: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert done("doctor") == 1
    assert "Missing: jinja2, torch." in capsys.readouterr().out
    assert found("jinja2").advice == "run pip install 'jinja2>=99'"
    assert found("numpy").status == "ok"
    assert found("[figures]").found == "without a-missing-package"
    assert "pip install 'lowcurve[figures]'" in found("[figures]").advice
    assert "no chromium" in found("browser").found
    monkeypatch.setattr("lowcurve.analysis.fused.COMPILED", False)
    monkeypatch.setattr(doctor, "_torch", lambda: __import__("torch"))
    assert found("compiled softplus").advice.startswith("install a C compiler")
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    assert found("Python").status == "needed"
    for name in ("mnist", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "mnist" / "train-0.parquet").touch()
    assert found("LOWCURVE_DATA", data_dir=str(tmp_path)).found == f"{tmp_path}: mnist"
    assert found("LOWCURVE_DATA", data_dir=str(tmp_path / "empty")).status == "optional"
    (tmp_path / "datasets--ylecun--mnist").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert found("downloaded data").found == f"{tmp_path}: mnist"
    assert "no folder" in found("LOWCURVE_DATA", data_dir=str(tmp_path / "none")).found


def test_the_doctor_lists_gpus():
    card = SimpleNamespace(name="H200", total_memory=141 * 2**30)
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: card)
    cpu = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"))
    torch = SimpleNamespace(cuda=cuda, backends=cpu, version=SimpleNamespace(cuda="13.0"), get_num_threads=lambda: 1)
    assert [(one.part, one.found) for one in doctor._devices(torch)][1:] == [("GPU 0", "H200, 141 GiB, CUDA 13.0")]


# --- JSON


def test_tables_as_json(capsys, smoke):
    recipes = printed(capsys, "recipes", "--json")
    assert {"key", "title", "values"} == set(recipes[0])
    assert printed(capsys, "recipes", recipes[0]["key"], "--json")["title"] == recipes[0]["title"]
    assert {"key", "title"} == set(printed(capsys, "reproduce", "--list", "--json")[0])
    content = printed(capsys, "report", smoke, "--json")
    rows = content["tables"]["comparison"]["rows"]
    assert [row["network"] for row in rows] == FOUR
    assert set(rows[0]["clean"]) == {"value", "low", "high"}
    assert content["runs"] == [str(smoke)]
    assert content["reports"] == [str(smoke / "report.html")]


def test_messages_of_a_command_with_json_are_on_standard_error(capsys, smoke, tmp_path):
    folder = shutil.copytree(smoke, tmp_path / "run")
    capsys.readouterr()
    assert done("measure", folder, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"] == [str(folder)]
    assert "curvature already done" in err
    assert done("measure", folder) == 0
    assert "curvature already done" in capsys.readouterr().out


def test_a_training_alone_prints_json_too(capsys):
    content = printed(capsys, "train", *SMOKE, "--methods", "standard", "--out", "run", "--json")
    assert content["runs"] == ["run"]


def test_json_takes_no_value(capsys):
    assert refused(capsys, "recipes", "--json=true").endswith("got --json=true. Write --json.")
    assert "--json without a value" in refused(capsys, "doctor", "--json=1")


def test_every_command_that_prints_a_table_has_json():
    assert {name for name, command in COMMANDS.items() if "json" not in command.shown} == {"draw", "completion"}


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_options_and_values(capsys, shell):
    assert done("completion", shell) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "gradient-norm", "srinivas2022lcnn/table-1", "tensorboard", "help-all"):
        assert word in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(capsys, tmp_path):
    assert done("completion", "bash") == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        listed = " ".join(f"'{word}'" for word in ("lowcurve", *words))
        code = (
            f"source {tmp_path}/script; COMP_WORDS=({listed}); COMP_CWORD={len(words)}; COMP_LINE='lowcurve {' '.join(words)}';"
            "COMP_POINT=${#COMP_LINE}; f=$(complete -p lowcurve | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f lowcurve;"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return {word.strip() for word in ran.stdout.split()}

    assert completed("st") == {"study"}
    assert "--methods" in completed("study", "--met")
    assert completed("study", "--suite", "str") == {"strong"}
    assert completed("draw", "surf") == {"surface"}


def test_completion_refuses_other_shells(capsys):
    assert "a shell among bash, zsh" in refused(capsys, "completion", "bsh")
    assert refused(capsys, "completion").endswith("got none. Write lowcurve completion bash.")


def test_completion_describes_every_option_of_the_help():
    subcommands = next(action for action in command_line()._actions if action.choices)
    for name, parser in subcommands.choices.items():
        known = {option for action in parser._actions for option in action.option_strings}
        assert {f"--{option}" for option in COMMANDS[name].shown if not option.isupper()} <= known
    assert all(choices().values())
