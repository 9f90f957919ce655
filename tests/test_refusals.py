"""What cannot be done is said in one sentence, with exit code 2, and nothing written before is lost."""

import math
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from command import SMOKE, done, files, image_folder, parquet, process, refused, results
from torch import nn

from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.store import DiskCheckpoint, Run

pytestmark = pytest.mark.usefixtures("alone")


# --- what cannot be done: nothing is written, one sentence is said


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "mnits"], "Write 'mnist'"),
        (["--data", "mnist", "--data_dir", "/nowhere"], "train-*.parquet below"),
        (["--radius", "8"], "Write pixels(8) or 8/255"),
        (["--radius", "eight"], "a radius such as 8/255"),
        (["--radius", "-0.1"], "a finite radius of at least 0"),
        (["--radius", "nan"], "a finite radius of at least 0"),
        (["--radius", "0.6", "--evaluation.radii", "[0.0,2.0]"], "a radius within the pixel range"),
        (["--scale", "tiny"], "a scale among smoke, laptop, paper"),
        (["--methods", "[standard,magic]"], "methods among standard, CURE, gradient-norm, CURE+gradient-norm, FGSM"),
        (["--methods", "[]"], "at least one method"),
        (["--network", "vgg"], "a network among mlp, small-convnet"),
        (["--nonlinearity", "tanh"], "a nonlinearity among relu, softplus"),
        (["--width", "wide"], "--width to be a whole number, got 'wide'"),
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
        (["--validation-steps", "-1"], "validation_steps of 0 or more"),
        (["--evaluation.effort.steps", "0"], "at least one step"),
        (
            ["--suite", "weak"],
            "a suite among strong, moosavi2019cure, srinivas2022lcnn, yu2018-mnist, yu2018-cifar10, autoattack",
        ),
        (["--evaluation.examples", "0"], "at least one example"),
        (["--evaluation.curvature_examples", "0"], "at least one example"),
        (["--evaluation.lanczos_steps", "0"], "at least one step"),
        (["--evaluation.radii", "[1.0,0.5]"], "radii of 0 or more in rising order"),
        (["--evaluation.radii", "[]"], "at least one radius"),
        (["--limits.train", "0"], "a limit of at least 1 for train"),
        (["--accelerator", "abacus"], "abacus"),
        (["--precision", "12-maybe"], "12-maybe"),
        (["--radus", "0.1"], "Unknown option --radus. Did you mean --radius?"),
        (["--norn", "l_2"], "Did you mean --norm?"),
        (["--norm", "l_ind"], "--norm to be one of l_inf, l_2, l_1, got 'l_ind'. Did you mean l_inf?"),
        (["--method", "standard"], "Unknown option --method. Did you mean --methods?"),
        (["--methods", "standard,CUER"], "Did you mean CURE?"),
        (["--rad", "0.1"], "rad"),
        (["--radius"], "radius"),
        (["--data"], "a value for --data, got none. Write --data VALUE"),
        (["stray"], "only options after lowcurve study, got 'stray'"),
        (["--weights", "own.pt"], "a model for the weights"),
        (["--model", "own"], "a model written package.module:factory"),
        (["--model", "own:missing"], "a factory missing in own"),
        (["--model", "nowhere:make"], "a factory make in nowhere"),
        (["--model", "own:nothing"], "a torch.nn.Module from own:nothing, got NoneType"),
        (["--model", "own:broken"], "no such layer"),
        (["--model", "own:make", "--weights", "missing.pt"], "a file of weights"),
        (["--model", "own:two", "--weights", "own.pt"], "size mismatch for 1.weight"),
        (["--config", "missing.yaml"], "missing.yaml, which does not exist. Check its path"),
        (["--mean", "0.5", "--std", "0.2"], "--mean and --std together with a network of your own, got no --model"),
        (["--model", "own:make", "--mean", "0.5"], "as many positive standard deviations as means"),
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


LONG, NUL = "9" * 400, "a\0b"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--others.llr", LONG], "numbers and words that a computer can hold, got int too large"),
        (["--others.llr", "1e400"], "--others.llr to be a finite number, got inf"),
        (["--training.learning_rate", "nan"], "--training.learning_rate to be a number, got 'nan'"),
        (["--seed", LONG], "--seed to be a whole number below 2^63, got one of 400 digits. Write a smaller one."),
        (["--seed", "9" * 5000], "4300 digits"),
        (["--evaluation.radii", "0,1e400"], "--evaluation.radii to be a finite number"),
        (["--radius", "1e400"], "a finite radius"),
        (["--radius", f"{LONG}/255"], "radius"),
        (["--width", str(10**12)], "enough memory for one batch, got "),
        (["--data", NUL], "text in UTF-8 without the character NUL for 'a"),
        (["--out", NUL], "text in UTF-8 without the character NUL"),
        (["--data", "\ud800"], "text in UTF-8 without the character NUL"),
        (["--methods", "[" * 5000], "--methods"),
        (["--cure", "{" * 5000], "a YAML file of settings"),
        (["--evaluation.radii", "[" * 3000 + "]" * 3000], "settings and files of few nested levels, got too many"),
        (["--config", "own.pt/x"], "own.pt/x"),
        (["--config", "."], "a YAML file of settings"),
        (["--resume", "own.pt/x"], "a run directory"),
        (["--resume", "r" * 5000], "to be able to read r"),
        (["--data", "own.pt/x"], "own.pt/x"),
        (["--out", "own.pt/x"], "to be able to write own.pt/x"),
        (["--out", "r" * 5000], "to be able to write r"),
        (["--model", "own:make", "--weights", "own.pt/x"], "a file of weights"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_no_computer_holds_or_reads(capsys, words, sentence):
    place = [] if {"--resume", "--out"} & {*words} else ["--out", "run"]
    given = SMOKE if "--data" not in words else SMOKE[2:]
    said = refused(capsys, "study", *given, *words, *place)
    assert sentence in said
    assert len(said) < 1200
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "content",
    [b"seed: " + b"[" * 20000, b"seed: 1" + b"0" * 400, b"others: {llr: .inf}", b'data: "a\\0b"', bytes(range(256)),
     b"training: &x\n  epochs: *x\n", b"seed: 2001-01-01", b'seed: !!python/object/apply:os.system ["echo hi"]'],
)  # fmt: skip
def test_a_file_of_settings_that_no_computer_holds(capsys, content):
    Path("bad.yaml").write_bytes(content)
    assert len(refused(capsys, "study", *SMOKE, "--config", "bad.yaml", "--out", "run")) < 1200
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "words", [("report", "file/x"), ("attack", NUL), ("draw", "surface", NUL), ("recipes", "x" * 9000),
              ("reproduce", "srinivas2022lcnn/table-1", "--minutes", "1e400"), ("train", "x" * 5000),
              ("reproduce", "srinivas2022lcnn/table-1", "--out", "file/x")]
)  # fmt: skip
def test_other_commands_say_it_too(capsys, words):
    Path("file").write_text("mine")
    refused(capsys, *words)


def test_files_that_may_not_be_read(capsys, smoke, tmp_path, monkeypatch):
    folder, real = shutil.copytree(smoke, tmp_path / "run"), Path.open

    def refuse(path, *rest, **words):
        if path.name == "attack-PGD.json":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **words)

    monkeypatch.setattr(Path, "open", refuse)
    assert "attack-PGD.json, got permission denied. Check the permissions of the file" in refused(
        capsys, "report", folder
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is CUDA")
def test_hardware_that_is_not_here(capsys):
    assert "cuda" in refused(capsys, "study", *SMOKE, "--accelerator", "cuda", "--out", "run")
    assert not Path("run").exists()


@pytest.mark.parametrize("content", ["a: [", "- 3\n", "sede: 3\n", "training: {epochz: 3}\n", "\0"])
def test_a_file_that_holds_no_settings(capsys, content):
    Path("bad.yaml").write_text(content)
    sentence = refused(capsys, "study", *SMOKE, "--config", "bad.yaml", "--out", "run")
    known = ("a YAML file of settings", "Unknown option sede. Did you mean seed?", "Unknown option training.epochz.")
    assert any(part in sentence for part in known)
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["measure", "attack"])
def test_neither_a_run_nor_a_model(capsys, command):
    assert "a run or a model, got neither" in refused(capsys, command)


def test_a_report_on_nothing(capsys):
    assert "the run to report on" in refused(capsys, "report")
    Path("empty").mkdir()
    assert "a run directory (with settings.yaml), got empty" in refused(capsys, "report", "empty")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seed", "3"], "--seed"),
        (["--training.epochs=3"], "--training"),
        (["--out", "other"], "a run to go on with, or a new one, got both"),
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
    assert "finite weights, got NaN or infinity in '1.bias'" in refused(capsys, command, *words)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("factory", ["a_map", "a_number"])
def test_logits_of_the_wrong_shape(capsys, factory):
    sentence = refused(capsys, "measure", *SMOKE, "--model", f"own:{factory}", "--out", "run")
    assert "logits of shape (2, classes)" in sentence


@pytest.mark.usefixtures("own")
def test_a_network_of_too_few_classes(capsys):
    sentence = refused(capsys, "measure", *SMOKE, "--model", "own:two", "--out", "run")
    assert "as the network has logits" in sentence or "a network for 10 classes, got 2" in sentence


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
    assert "an object of torch.nn.modules.linear.Linear" in refused(capsys, "measure", *SMOKE, *words, "module.pt")
    Path("code.pt").write_bytes(pickle.dumps(print))
    assert "one with code in it" in refused(capsys, "measure", *SMOKE, *words, "code.pt")
    Path("bad.safetensors").write_bytes(b"no weights at all")
    assert "safetensors in bad.safetensors" in refused(capsys, "measure", *SMOKE, *words, "bad.safetensors")
    assert not Path("run").exists()


# --- data that is not what it should be


def test_labels_out_of_range(capsys, tmp_path):
    parquet(tmp_path / "bad.parquet", [-1] + [k % 2 for k in range(29)])
    words = ("--scale", "smoke", "--data", tmp_path / "bad.parquet", "--out", "run")
    assert "label of bad.parquet of at least 0, got -1. Leave out examples without a label" in refused(
        capsys, "study", *words
    )
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
    assert f"Delete {path}" in refused(capsys, "study", "--resume", begun)
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
    shutil.rmtree(folder / ".digests")
    for content in ("seed: [", whole.replace("seed: 0", "seed: soon"), whole + "sede: 3\n"):
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


@pytest.mark.slow
def test_a_full_disk(smoke, tmp_path):
    folder = tmp_path / "run"
    limit = 40_000  # the first network is larger
    child = process(
        "study", *SMOKE, "--out", folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2, err
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("lowcurve: Expected to be able to write")
    assert "got file too large. Free some disk space" in line
    assert not [name for name in files(folder) if name.endswith(".part")]
    assert done("study", "--resume", folder) == 0
    assert results(folder) == results(smoke)
