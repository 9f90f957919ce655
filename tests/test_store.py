"""Run directories: whole files or none, networks that come back, and files that are not what they seem."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowcurve import store
from lowcurve.errors import InputError
from lowcurve.models import ConvertedNetwork, Factory, LCNNConversion, LipschitzConversion, Network, SmoothConversion
from lowcurve.randomness import stream
from lowcurve.results import Column, Curves, Line, Table
from lowcurve.store import Run, new_place, write_bytes

NETWORK = Network("small-convnet", (1, 8, 8), 3, (0.5,), (0.25,), "softplus", width=2)
X = torch.rand(4, 1, 8, 8, generator=stream(0, "images"))
TABLE = Table("t", (Column("network", "How."), Column("clean", form=".1%")), (("CURE", (0.5, 0.4, 0.6)), ("b", None)))
CURVES = Curves("c", "x", "y", (1.0, 2.0), {"CURE": Line((0.1, 0.2), (0.0, 0.1), (0.2, 0.3))}, x_logarithmic=True)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- whole or not at all


@pytest.mark.parametrize("error", [OSError("pulled out"), KeyboardInterrupt(), RuntimeError("in the middle")])
def test_an_error_in_the_middle_leaves_the_old_file(tmp_path, error):
    path = write_bytes(tmp_path / "file", b"old")

    def write_half() -> None:
        with store.replacing(path) as beside:
            beside.write_bytes(b"half of the n")
            raise error

    with pytest.raises((type(error), InputError)):
        write_half()
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == {"file"}


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = write_bytes(tmp_path / "deep" / "file", b"old")
    with store.replacing(path) as beside:
        beside.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert files(tmp_path) == {"deep/file"}


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from lowcurve.store import replacing\n"
        "with replacing(Path(sys.argv[1])) as beside: beside.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = write_bytes(tmp_path / "file", b"old")
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_numbers_that_are_not_finite_are_no_json(run):
    run.write_json("numbers.json", {"a": 1.5})
    with pytest.raises(ValueError, match="Out of range float"):
        run.write_json("numbers.json", {"a": float("nan")})
    assert run.read_json("numbers.json") == {"a": 1.5}
    assert run.read_json("nothing.json") is None
    write_bytes(run.folder / "odd.json", b"[" * 10**5)
    with pytest.raises(InputError, match=r"JSON in .*odd.json, got RecursionError"):
        run.read_json("odd.json")


# --- runs


def test_create_and_open(tmp_path):
    run = Run.create(tmp_path / "a" / "b")
    with pytest.raises(InputError, match=r"a run directory \(with settings.yaml\)"):
        Run.open(run.folder)
    run.write(store.SETTINGS, "seed: 3\n")
    assert Run.open(str(run.folder)) == run
    assert run.read_settings() == {"seed": 3}
    assert Run.create(tmp_path / "a" / "c").folder.is_dir()


def test_the_usual_place_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = new_place(None, "study-digits")
    assert place.parent == Path("runs")
    assert place.name.startswith("study-digits-20")
    assert not place.exists()


def test_what_exists_is_not_written_into(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("file", "full"):
        with pytest.raises(InputError, match=f"a new or empty directory for the run, got .*{name}. Choose another"):
            Run.create(tmp_path / name)
    assert Run.create(tmp_path / "empty").folder.is_dir()
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "run", Path("/proc/lowcurve/run")):
        with pytest.raises(InputError, match=f"to be able to write {place}"):
            Run.create(place)
        with pytest.raises(InputError, match=f"to be able to write {place}"):
            write_bytes(place, b"content")


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", b""])
def test_settings_that_are_none(run, content):
    (run.folder / store.SETTINGS).write_bytes(content)
    with pytest.raises(InputError, match=r"settings in .*settings.yaml"):
        run.read_settings()


# --- a full disk

FILL = """
import resource, sys
from pathlib import Path
import torch
from lowcurve.errors import InputError
from lowcurve.models import Network
from lowcurve.store import Run

run, limit = Run(Path(sys.argv[1])), int(sys.argv[2])
network = Network("small-convnet", (1, 8, 8), 3, (0.5,), (0.25,), "relu", width=2)
big = Network("small-convnet", (1, 8, 8), 3, (0.5,), (0.25,), "relu", width=64)
checkpoint = run.checkpoint("standard", "key")
run.write("study.json", "old")
run.save_network("standard", network, network.build(0), "key")
checkpoint.save({"step": 1})
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for write in (
    lambda: run.write("study.json", "x" * 1_000_000),
    lambda: run.save_network("standard", big, big.build(0), "other"),
    lambda: checkpoint.save({"step": 2, "weights": torch.zeros(1_000_000)}),
):
    try:
        write()
    except InputError as error:
        print(error)
assert (run.folder / "study.json").read_text() == "old"
assert run.made_by("standard") == "key"
assert checkpoint.load() == {"step": 1}
print(len(list(run.folder.rglob("*.part"))), "parts")
"""


def fill(folder: Path, limit: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(folder), str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_filled(lines: list[str], reason: str) -> None:
    assert lines[3] == "0 parts"
    for line, name in zip(lines, ("study.json", "standard.safetensors", "standard.pt"), strict=False):
        assert line.startswith("Expected to be able to write")
        assert f"{name}, got {reason}. Free some disk space" in line


def test_files_larger_than_allowed(tmp_path):
    check_filled(fill(tmp_path, 100_000), "file too large")


def test_a_disk_that_is_full(tmp_path):
    options = ["-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command, so no small disk to fill")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        check_filled(fill(tmp_path, 0), "no space left on device")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- networks


def test_a_network_comes_back(run):
    model = NETWORK.build(seed=7).eval()
    run.save_network("CURE", NETWORK, model, "made so")
    again = run.load_network("CURE")
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(again(X), model(X))
    assert not again.training
    assert run.made_by("CURE") == "made so"
    assert run.made_by("PGD") is None


def test_a_network_of_the_users_own_comes_back(run, tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    factory = Factory("own_networks:make")
    model = factory.build(seed=1)
    model(X)
    run.save_network("standard", factory, model)
    again = run.load_network("standard")
    assert equal(again.state_dict(), model.state_dict())
    assert int(again[2].num_batches_tracked) == 1
    assert run.made_by("standard") == ""


@pytest.mark.parametrize(
    "conversion", [LCNNConversion(beta=3.0, gamma=2.0), SmoothConversion(beta=4.0, learn=False), LipschitzConversion()]
)
def test_a_converted_network_comes_back_with_its_betas_and_norms(run, conversion):
    source = ConvertedNetwork(NETWORK, conversion, NETWORK.shape)
    model = source.build(seed=3).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith(("log_beta", "log_gamma")):
                values.add_(0.25)
    run.save_network("LCNN", source, model)
    again = run.load_network("LCNN")
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(again(X), model(X))
    assert again.conversion_report.conversion == conversion


def test_networks_are_listed_by_name_whenever_they_were_made(run):
    assert run.networks() == ()
    for name in ("standard", "PGD", "CURE"):
        run.save_network(name, NETWORK, NETWORK.build(0))
    assert run.networks() == ("CURE", "PGD", "standard")


@pytest.mark.parametrize("content", [b"", b"random bytes that are long enough", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_network(run, content):
    write_bytes(run.folder / "networks" / "CURE.safetensors", content)
    for act in (run.load_network, run.made_by):
        with pytest.raises(InputError, match=r"a network of lowcurve in .*CURE.safetensors"):
            act("CURE")


def test_safetensors_of_somebody_else(run):
    (run.folder / "networks").mkdir()
    save_file({"a": torch.zeros(2)}, run.folder / "networks" / "CURE.safetensors")
    with pytest.raises(InputError, match=r"a network of lowcurve in .*, got safetensors of another kind"):
        run.load_network("CURE")


# --- parts


def test_parts_come_back(run):
    run.save_part("attack-CURE", "so", {"row": TABLE, "line": CURVES})
    assert run.load_part("attack-CURE", "so") == {"row": TABLE, "line": CURVES}
    assert run.load_part("attack-CURE", "otherwise") is None
    assert run.load_part("attack-PGD", "so") is None
    run.save_part("curvature-CURE", "so", {"row": TABLE})
    assert run.parts() == {"attack-CURE": {"row": TABLE, "line": CURVES}, "curvature-CURE": {"row": TABLE}}


@pytest.mark.parametrize(
    "content",
    [b'{"key": "so", "resu', b"\xff\xfe", b"[1, 2]", b'{"key": "so"}', b"[" * 100_000, b"9" * 5000, b"[1e400, NaN]"],
)
def test_a_damaged_part(run, content):
    write_bytes(run.folder / "parts" / "attack-CURE.json", content)
    for act in (lambda: run.load_part("attack-CURE", "so"), run.parts):
        with pytest.raises(
            InputError, match=r"(JSON in|results of a step in) .*attack-CURE.json.*Delete it and run the step"
        ):
            act()


def test_a_ledger_keeps_what_is_finished_and_forgets_what_belongs_to_other_settings(tmp_path):
    run = Run(tmp_path)
    ledger = run.ledger("standard", "these settings")
    assert ledger.get("PGD, rows 0 to 4") is None
    ledger["PGD, rows 0 to 4"] = {"forward_passes": torch.arange(5)}
    ledger["Square, rows 0 to 4"] = {"forward_passes": torch.ones(5)}
    again = Run(tmp_path).ledger("standard", "these settings")
    assert torch.equal(again.get("PGD, rows 0 to 4")["forward_passes"], torch.arange(5))
    assert again.get("Square, rows 0 to 4") is not None
    other = run.ledger("standard", "others")
    assert other.get("PGD, rows 0 to 4") is None
    other["PGD, rows 0 to 4"] = {"forward_passes": torch.zeros(5)}
    assert again.get("Square, rows 0 to 4") is None
    other.remove()
    assert not list((tmp_path / "ledgers").iterdir())
    other.remove()


def test_the_inputs_that_attacks_found_are_kept_with_their_labels(tmp_path):
    columns = {
        "inputs": torch.rand(3, 1, 2, 2),
        "labels": torch.arange(3),
        "robust": torch.tensor([True, False, True]),
    }
    Run(tmp_path).save_inputs("standard", columns)
    found = load_file(tmp_path / "adversarial" / "standard.safetensors")
    assert all(torch.equal(found[key], columns[key]) for key in columns)


def test_a_read_only_run_reads_everything_and_writes_nothing(run):
    model = NETWORK.build(0)
    run.save_network("CURE", NETWORK, model, "so")
    run.save_part("attack-CURE", "so", {"row": TABLE})
    run.checkpoint("CURE", "so").save({"step": 1})
    run.ledger("CURE", "so")["rows"] = {"tried": 1}
    before = {name: (run.folder / name).read_bytes() for name in files(run.folder)}
    other = run.read_only()
    assert other.networks() == ("CURE",)
    assert equal(other.load_network("CURE").state_dict(), model.state_dict())
    assert other.load_part("attack-CURE", "so") == {"row": TABLE}
    assert other.checkpoint("CURE", "so").load() == {"step": 1}
    assert other.ledger("CURE", "so").get("rows") == {"tried": 1}
    other.save_network("PGD", NETWORK, model)
    other.save_part("attack-CURE", "otherwise", {})
    other.save_inputs("CURE", {"inputs": X})
    other.write("study.json", "{}")
    other.within("inner", NETWORK)
    for state in (other.checkpoint("CURE", "so"), other.checkpoint("PGD", "so")):
        state.save({"step": 2})
        state.remove()
    other.ledger("CURE", "so")["rows"] = {"tried": 2}
    other.ledger("CURE", "so").remove()
    assert other.loggers("CURE") == []
    assert {name: (run.folder / name).read_bytes() for name in files(run.folder)} == before
