"""Run directories after kills, flipped bits, edits and second commands: they go on, or a sentence says why not."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from command import SMOKE, done, process, refused, results

from lowcurve.cli.report import write_report
from lowcurve.cli.requests import open_run
from lowcurve.errors import InputError
from lowcurve.models import Network
from lowcurve.results import Column, Curves, Gallery, Line, Panel, Points, Scatter, Surface, Table, dump, load, read_as
from lowcurve.store import Run, files
from lowcurve.store.files import DIGESTS, require_unchanged, write_checked
from lowcurve.study.settings import Study

NETWORK = Network("small-convnet", (1, 8, 8), 3, (0.5,), (0.25,), "softplus", width=2)
TABLE = Table("t", (Column("network", "How."), Column("clean", form=".1%")), (("CURE", (0.5, 0.4, None)), ("b", None)))


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path / "run")
    run.begin(Study())
    return run


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))


# --- digests


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_is_noticed_wherever_it_is(run, place):
    run.save_network("CURE", NETWORK, NETWORK.build(0), "so")
    run.save_part("attack-CURE", "so", {"row": TABLE})
    run.checkpoint("PGD", "so").save({"step": 1, "weights": torch.rand(100)})
    run.ledger("PGD", "so")["PGD"] = {"tried": 1}
    piece = next((run.folder / "ledgers").rglob("PGD.pt")).relative_to(run.folder).as_posix()
    acts = {
        "networks/CURE.safetensors": lambda: run.load_network("CURE"),
        "parts/attack-CURE.json": run.parts,
        "checkpoints/PGD.pt": run.checkpoint("PGD", "so").load,
        piece: lambda: run.ledger("PGD", "so").get("PGD"),
        "settings.yaml": run.read_settings,
    }
    for name, act in acts.items():
        act()
        flip(run.folder / name, place)
        with pytest.raises(
            InputError, match=rf"{name}.*as it was written, got other bytes .the file is damaged|{name} --out"
        ):
            act()
    with pytest.raises(InputError, match="other bytes"):
        run.made_by("CURE")


def test_a_damaged_file_is_made_again_once_it_is_deleted(run):
    run.save_part("attack-CURE", "so", {"row": TABLE})
    path = run.folder / "parts" / "attack-CURE.json"
    flip(path)
    with pytest.raises(InputError, match=r"Delete it and run the step again: lowcurve study --resume RUN"):
        run.load_part("attack-CURE", "so")
    path.unlink()
    assert run.load_part("attack-CURE", "so") is None
    run.save_part("attack-CURE", "so", {"row": TABLE})
    assert run.load_part("attack-CURE", "so") == {"row": TABLE}


def test_a_kill_between_a_digest_and_its_file_does_no_harm(tmp_path, monkeypatch):
    path = write_checked(tmp_path, "parts/file", b"first")

    real = files.write_bytes

    def killed(path, content):
        if DIGESTS not in path.parts:
            raise KeyboardInterrupt
        return real(path, content)

    monkeypatch.setattr(files, "write_bytes", killed)
    for content in (b"second", b"third"):  # again and again: the digest is there, the file is not
        with pytest.raises(KeyboardInterrupt):
            write_checked(tmp_path, "parts/file", content)
        assert path.read_bytes() == b"first"
        require_unchanged(tmp_path, "parts/file", "")
    monkeypatch.undo()
    write_checked(tmp_path, "parts/file", b"fourth")
    require_unchanged(tmp_path, "parts/file", "")
    path.write_bytes(b"fifth")
    with pytest.raises(InputError, match="other bytes"):
        require_unchanged(tmp_path, "parts/file", "delete it")


def test_a_run_of_an_older_version_has_no_digests(run):
    run.save_part("attack-CURE", "so", {"row": TABLE})
    shutil.rmtree(run.folder / DIGESTS)
    assert run.load_part("attack-CURE", "so") == {"row": TABLE}


# --- the schema


def kinds():
    pixels = torch.rand(1, 2, 1, 2, 2).numpy()
    line = Points((0.0, None), (1.0, 2.0))
    return {
        "table": TABLE,
        "curves": Curves("c", "x", "y", (1.0, 2.0), {"CURE": Line((0.1, None), (0.0, 0.1), (0.2, 0.3))}, y_logarithmic=True),
        "scatter": Scatter("s", "x", "y", {"CURE": Points((1.0, None), (2.0, 3.0))}, conditions={"n": "2"}),
        "gallery": Gallery("g", ("a",), ("b", "c"), pixels, (("one", "two"),)),
        "surface": Surface(
            "f", "x", "y", (0.0, 1.0), (0.0, 1.0, 2.0),
            {"CURE": Panel(torch.rand(3, 2).numpy(), {"way": line}, {"image": (0.5, 0.5)}, "note")}, "margin", level=0.5,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", kinds())
def test_each_kind_of_result_comes_back(kind):
    result = kinds()[kind]
    assert load(json.loads(json.dumps(dump(result)))) == result


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"kind": "tabel"}, "a result of kind table, curves, scatter, gallery, surface, got 'tabel'"),
        ([], "a result of kind table, .*, got list"),
        ({"kind": "table", "title": "t", "columns": []}, "rows to be a list, got nothing"),
        ({**dump(TABLE), "title": 3}, "title to be text, got 3"),
        ({**dump(TABLE), "extra": 3}, "an object with the fields title, columns, rows.*, got 'extra' among them"),
        ({**dump(TABLE), "columns": [{"heading": "a", "form": "z"}]}, "a format of numbers such as .3g or .1%, got 'z'"),
        ({**dump(TABLE), "columns": [{"heading": None}]}, "columns.0.heading to be text, got None"),
        ({**dump(TABLE), "rows": [["a", 10**400]] * 2}, "rows.0.1 to be text or .*, got a number too large"),
        ({**dump(TABLE), "rows": [["a", math.inf]] * 2}, "rows.0.1 to be text or .*, got inf"),
        ({**dump(TABLE), "rows": [["a", True]] * 2}, "rows.0.1 to be text or .*, got True"),
        ({**dump(TABLE), "rows": [["a", [1.0, 2.0]]] * 2}, "rows.0.1 to be text or a finite number"),
        ({**dump(kinds()["curves"]), "x": [1.0, None]}, "x.1 to be a finite number, got None"),
        ({**dump(kinds()["gallery"]), "pixels": [[1.0], 2.0]}, "pixels to be an array of numbers, got list"),
    ],
)  # fmt: skip
def test_what_is_no_result_says_where(content, sentence):
    with pytest.raises(InputError, match=sentence):
        load(content)


def test_only_an_object_becomes_a_dataclass():
    with pytest.raises(InputError, match="an object with the fields of Line, got 3"):
        read_as(Line, 3)


JUNK = (None, True, 0, -1, 3, 1e308, 10**400, "", "text", "NaN", [], {}, [[]], [None], {"a": 1}, [1, "a"], "\0", "<b>")


def edited(content: object, chance: random.Random) -> bytes:
    """One random edit: a key or an entry that is gone, doubled or replaced, or bytes that are."""
    content = json.loads(json.dumps(content))
    places: list[tuple[dict | list, object]] = []

    def visit(value):
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in inside:
            places.append((value, key))
            visit(inner)

    visit(content)
    way = chance.randrange(10)
    owner, key = places[chance.randrange(len(places))]
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner, list):
        owner.append(owner[key])
    elif way == 2:
        owner[key] = [owner[key]]
    elif way == 3 and isinstance(owner, dict):
        owner[chance.choice(("kind", "title", "unknown"))] = owner[key]
    else:
        owner[key] = chance.choice(JUNK)
    text = json.dumps(content)
    if way == 4:
        text = text[: chance.randrange(len(text))]
    if way == 5:
        text = text.replace(": ", chance.choice((": NaN, ", ": 1e999 ", ": ", ": [")), 1)
    if way == 6:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(('"', "}", "]", "[" * 5000, "9" * 5000, "\x00")) + text[at:]
    return text.encode()


@pytest.mark.usefixtures("alone")
def test_edited_results_give_a_report_or_a_sentence(smoke, tmp_path):
    """Of random edits, without the digests that would notice all of them. The page is drawn from what is left."""
    _, settings = open_run(str(smoke))
    run = Run.create(tmp_path / "run")
    run.begin(settings)
    run.write("networks/CURE.safetensors", "")
    small = {"key": "so", "results": {kind: dump(result) for kind, result in kinds().items()}}
    real = json.loads((smoke / "parts" / "curvature-CURE.json").read_text())
    real["results"] = {kind: real["results"][kind] for kind in ("geometry", "stability", "boundary")}
    attacked = json.loads((smoke / "parts" / "attack-CURE.json").read_text())
    attacked["results"] = {kind: attacked["results"][kind] for kind in ("robustness", "against radius", "audit")}
    chance, sentences = random.Random(0), 0
    for number in range(400):
        name, content = (("drawn", small), ("curvature-CURE", real), ("attack-CURE", attacked))[number % 3]
        path = run.folder / "parts" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(edited(content, chance))
        said = str(path)
        try:
            write_report(settings, run)
        except InputError as error:
            said, sentences = str(error), sentences + 1
        except OverflowError:  # as of 1e308 on an axis; the command makes a sentence of it
            sentences += 1
        assert str(path) in said
        path.unlink()
    assert 100 < sentences < 390


# --- kills


def test_a_directory_without_settings_is_used_again(tmp_path):
    """As a kill leaves it that comes while the settings are written."""
    folder = tmp_path / "run"
    script = (
        "import os, signal, sys; from pathlib import Path; from lowcurve.store import Run; from lowcurve.study.settings import "
        "Study; import lowcurve.store.files as f; f.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run = Run.create(Path(sys.argv[1]))\nwith run.lock('study'): run.begin(Study())"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == -signal.SIGKILL
    assert list(folder.rglob("*.part"))
    with pytest.raises(InputError, match=r"killed before it wrote them. Begin again with --out .*run"):
        Run.open(folder)
    run = Run.create(folder)
    with run.lock("study"):
        run.begin(Study(seed=3))
    assert not list(folder.rglob("*.part"))
    assert Run.open(folder).read_settings()["seed"] == 3
    with pytest.raises(InputError, match="a new or empty directory for the run"):
        run.begin(Study())


def test_only_abandoned_parts_are_deleted(run):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (run.folder / "parts").mkdir()
    names = {
        f".a.json.{ended.pid}.part": False,
        f".b.json.{os.getppid()}.part": True,
        f".c.json.{os.getpid()}.part": False,
    }
    others = {"mine.part": True, ".mine.part": True, ".x.1e9.part": True}
    for name in (*names, *others):
        (run.folder / "parts" / name).write_text("half")
    old = run.folder / f".d.json.{os.getppid()}.part"
    old.write_text("half")
    os.utime(old, (0, 0))
    run.read_only().clean()
    assert old.exists()
    run.clean()
    assert {name: (run.folder / "parts" / name).exists() for name in (*names, *others)} == names | others
    assert not old.exists()


# --- two commands


@pytest.mark.usefixtures("alone")
def test_two_runs_of_one_second_get_two_directories(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(Run.create(tmp_path / "runs" / "study", numbered=True).folder))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in made} == {"study", *(f"study-{number}" for number in range(2, 9))}


def test_a_second_command_says_who_works_on_the_run(run):
    with run.lock("study"), pytest.raises(
        InputError,
        match=rf"a run that nothing else works on in .*, got lowcurve study, process {os.getpid()} on .*, since .*Wait",
    ), run.lock("attack"):  # fmt: skip
        pass
    with run.lock("attack"):
        pass


def test_a_killed_holder_frees_the_lock(run):
    script = (
        "import os, sys; from pathlib import Path; from lowcurve.store import Run\n"
        "with Run(Path(sys.argv[1])).lock('study'): print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(run.folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {child.pid}"), run.lock("attack"):
        pass
    child.kill()
    child.communicate()
    with run.lock("attack"):
        pass


def test_a_file_system_without_locks_is_said(run, monkeypatch, caplog):
    import errno

    from lowcurve.store import locks

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with run.lock("study"):
        pass
    assert "the run has no lock (No locks available)" in caplog.text


@pytest.mark.usefixtures("alone")
def test_a_command_on_a_run_that_is_held_changes_nothing(smoke, tmp_path, capsys):
    folder = shutil.copytree(smoke, tmp_path / "run")
    before = (folder / "settings.yaml").read_bytes()
    with Run(folder).lock("study"):
        assert "lowcurve study, process" in refused(capsys, "attack", folder, "--radius", "0.05")
        assert (folder / "settings.yaml").read_bytes() == before
        assert done("report", folder) == 0  # a look at a run that is at work
    assert results(folder) == results(smoke)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_of_two_studies_in_one_directory_one_works():
    children = [process("study", *SMOKE, "--methods", "standard", "--out", "run") for _ in range(2)]
    ended = [(child.communicate(timeout=120)[1], child.returncode) for child in children]
    assert sorted(code for _, code in ended) == [0, 2]
    (sentence,) = [err for err, code in ended if code == 2]
    assert "nothing else works on" in sentence or "a new or empty directory" in sentence
    assert results(Path("run"))
