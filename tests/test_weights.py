"""Checkpoints and weights: every layout can be loaded; damaged and foreign files and code are refused."""

import argparse
import io
import json
import os
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from lowcurve.errors import InputError
from lowcurve.models import Factory, Network
from lowcurve.randomness import stream
from lowcurve.results import Column, Curves, Line, Table
from lowcurve.store import Run, load_weights, write_bytes

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


# --- checkpoints


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_comes_back_until_it_is_removed(run):
    checkpoint = run.checkpoint("CURE", "key")
    assert checkpoint.load() is None
    model = NETWORK.build(0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    state = {"step": 3, "history": [{"loss": 0.5}], "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.save(state)
    again = checkpoint.load()
    assert again["history"] == [{"loss": 0.5}]
    assert equal(again["model"], model.state_dict())
    assert torch.equal(again["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_a_checkpoint_of_other_settings(run):
    run.checkpoint("CURE", "so").save({"step": 3})
    with pytest.raises(InputError, match=r"a checkpoint of this training, .*Delete .*CURE.pt to start"):
        run.checkpoint("CURE", "otherwise").load()


def damaged() -> list[bytes]:
    """Random bytes, beginnings of real files, and real files with a byte changed here and there."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer)
    whole, plain = buffer.getvalue(), pickle.dumps({"a": [1, 2, 3], "b": (1, 2)}, 2)
    chance = stream(0, "damage")
    found = [b"", whole[: len(whole) // 2], plain[:-3]]
    for count in range(1, 40):
        found.append(bytes(torch.randint(0, 256, (count * 5,), generator=chance).tolist()))
        changed = bytearray(plain)
        changed[int(torch.randint(0, len(plain), (), generator=chance))] = count
        found.append(bytes(changed))
    return found


def test_damaged_checkpoints(run):
    checkpoint = run.checkpoint("CURE", "key")
    for content in damaged():
        write_bytes(checkpoint.path, content)
        with pytest.raises(InputError, match=r"tensors saved by torch|a checkpoint of lowcurve"):
            checkpoint.load()


def test_a_checkpoint_of_somebody_else(run):
    checkpoint = run.checkpoint("CURE", "key")
    (run.folder / "checkpoints").mkdir()
    for content in ({"epoch": 3}, [1, 2], torch.zeros(2)):
        torch.save(content, checkpoint.path)
        with pytest.raises(InputError, match="a checkpoint of lowcurve, got another file"):
            checkpoint.load()


def test_code_in_a_checkpoint_never_runs(run, here):
    checkpoint = run.checkpoint("CURE", "key")
    (run.folder / "checkpoints").mkdir()
    for content in (Code(), {"lowcurve checkpoint": 1, "key": "key", "state": Code()}):
        torch.save(content, checkpoint.path)
        with pytest.raises(InputError, match="one with code in it"):
            checkpoint.load()
        checkpoint.path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match="one with code in it"):
            checkpoint.load()
    assert not (here / "ran").exists()


# --- weights


class Settings:
    """Of the kind that training scripts save beside their weights."""

    def __init__(self) -> None:
        self.rate = 0.1


class SettingsDict(dict):
    """As Lightning's AttributeDict."""


def beside(weights):
    return {
        "state_dict": weights, "epoch": 3, "args": argparse.Namespace(lr=0.1, out=Path("runs")), "config": Settings(),
        "hyper_parameters": SettingsDict(lr=0.1), "best": np.float64(0.5), "curve": np.ones(3),
        "seen": defaultdict(list, {"loss": [1.0]}),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_the_weights_are_not_read(tmp_path, weights, zipped):
    """As timm, Lightning and most training scripts save them; their classes are not even imported."""
    torch.save(beside(weights), tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    model = small()
    load_weights(model, tmp_path / "a.ckpt")
    assert equal(model.state_dict(), weights)


def test_code_beside_the_weights_never_runs(here, weights):
    for place in ("args", "state_dict"):
        torch.save({"model": weights, place: Code()}, here / "a.pt")
        with pytest.raises(InputError, match="one with code in it"):
            load_weights(small(), here / "a.pt")
    torch.save({"model": small()}, here / "a.pt")
    with pytest.raises(InputError, match=r"entry 'model' is an object of torch.nn.modules.container.Sequential"):
        load_weights(small(), here / "a.pt")
    assert not (here / "ran").exists()


def shard(weights, folder: Path, ending: str = "safetensors") -> Path:
    """Save the weights in two files with an index, as transformers does."""
    folder.mkdir(exist_ok=True)
    names = {name: f"part-{number % 2}.{ending}" for number, name in enumerate(weights)}
    for part in set(names.values()):
        content = {name: weights[name].clone() for name in weights if names[name] == part}
        save_file(content, folder / part) if ending == "safetensors" else torch.save(content, folder / part)
    index = folder / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_in_several_files_and_in_a_folder(tmp_path, weights, ending):
    index = shard(prefixed(weights), tmp_path / "net", ending)
    for path in (index, index.parent):
        model = small()
        load_weights(model, path)
        assert equal(model.state_dict(), weights)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    save_file(dict(weights), tmp_path / "one" / "model.safetensors")
    model = small()
    load_weights(model, tmp_path / "one")
    assert equal(model.state_dict(), weights)


def test_a_folder_or_an_index_that_does_not_say_which_weights(tmp_path, weights):
    folder = tmp_path / "net"
    index = shard(weights, folder)
    save_file(dict(weights), folder / "other.safetensors")
    with pytest.raises(
        InputError, match=r"one file of .*, got model.safetensors.index.json, other.safetensors. Give the"
    ):
        load_weights(small(), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"one file of weights in .*empty, got none. Give a folder"):
        load_weights(small(), tmp_path / "empty")
    names = json.loads(index.read_text())["weight_map"]
    for changed, message in (
        ({"weight_map": names | {"9.bias": "part-0.safetensors"}}, "the weights that .*, got no 9.bias. Download"),
        (
            {"weight_map": names | {"9.bias": "part-9.safetensors"}},
            "the shards that .*, got no part-9.safetensors. Put",
        ),
        ({"weight_map": {"a": "../a.safetensors"}}, "an index of shards in .*, got a file without weight_map"),
        ([], "an index of shards in"),
    ):
        index.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            load_weights(small(), index)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    model = small()
    for number, value in enumerate(model.state_dict().values()):
        value.copy_(torch.rand(value.shape, generator=stream(number, "weights")))
    return dict(model.state_dict())


def prefixed(weights):
    return {f"module.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.pt", dict),
        ("a.pth", lambda w: {"state_dict": w, "epoch": 3, "note": "best"}),
        ("a.th", lambda w: {"state_dict": prefixed(w)}),
        ("a.pt", prefixed),
        ("a.pt", lambda w: {k: v.double() for k, v in w.items()}),
    ],
)
def test_weights_saved_by_torch(tmp_path, weights, name, wrap):
    torch.save(wrap(weights), tmp_path / name)
    model = small()
    load_weights(model, tmp_path / name)
    assert equal(model.state_dict(), weights)


@pytest.mark.parametrize("wrap", [dict, prefixed])
def test_weights_in_safetensors(tmp_path, weights, wrap):
    save_file(wrap(weights), tmp_path / "a.safetensors")
    model = small()
    load_weights(model, str(tmp_path / "a.safetensors"))
    assert equal(model.state_dict(), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w | {"0.weight": torch.zeros(5, 3)},
            r"weights of Sequential in .*a.pt, got size mismatch for 0.weight.*Give the factory",
        ),
        (lambda w: {k: v for k, v in w.items() if k != "2.bias"}, r'Missing key\(s\) in state_dict: "2.bias"'),
        (lambda w: w | {"9.bias": torch.zeros(2)}, r'Unexpected key\(s\) in state_dict: "9.bias"'),
        (lambda _: {}, r"Missing key\(s\)"),
        (
            lambda w: {f"other.{k}": v for k, v in w.items() if k != "2.bias"},
            r'Missing key\(s\) in state_dict: "2.bias"\. Give',
        ),
        (
            lambda _: {"a": torch.zeros(2)},
            r'Missing key.*"2.weight" and 1 more\. Unexpected key\(s\) in state_dict: "a"',
        ),
        (lambda w: {**w, "x": None}, r"got a dictionary with the entries 'x' \(NoneType\)"),
        (lambda _: [torch.zeros(2)], "a state dict in .*, got a list. Save model.state_dict"),
        (lambda _: (1, 2), "got a tuple"),
        (lambda _: 3.5, "got 3.5"),
        (lambda _: torch.zeros(2), r"got a tensor of shape \(2,\)"),
        (lambda _: {0: torch.zeros(2)}, r"got a dictionary with the entries 0 \(Tensor\)"),
        (lambda _: {"a": 3}, r"got a dictionary with the entries 'a' \(int\)"),
        (
            lambda _: {"state_dict": {"a": "b"}},
            r"entry 'state_dict' is a dictionary with the entries 'a' \(str\)",
        ),
        (lambda _: {"state_dict": [torch.zeros(2)]}, "got a dictionary whose entry 'state_dict' is a list"),
        (lambda _: {"model": None}, "got a dictionary whose entry 'model' is None"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, weights, change, message):
    torch.save(change(weights), tmp_path / "a.pt")
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        load_weights(model, tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    if "size" not in message:
        assert before.keys() == model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_pickled_module_is_refused(tmp_path):
    torch.save(small(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"an object of torch.nn.*Sequential, or one with code in it\. Save model"):
        load_weights(small(), tmp_path / "a.pt")
    torch.jit.trace(small(), torch.zeros(1, 3)).save(tmp_path / "a.pt")
    with pytest.raises(InputError, match="a TorchScript program, or one with code in it"):
        load_weights(small(), tmp_path / "a.pt")


def compiled(weights):
    return {f"_orig_mod.{name}": value for name, value in weights.items()}


WRAPS = {
    "DataParallel": prefixed,
    "compiled": compiled,
    "DataParallel of compiled": lambda w: prefixed(compiled(w)),
    "compiled within": lambda w: {name.replace("0.", "0._orig_mod.", 1): value for name, value in w.items()},
    "Lightning": lambda w: {
        "state_dict": {f"model.{k}": v for k, v in w.items()},
        "epoch": 3,
        "optimizer_states": [{}],
    },
    "Lightning, another name": lambda w: {"state_dict": {f"net.body.{k}": v for k, v in w.items()}},
    "Lightning with a loss": lambda w: {
        "state_dict": {f"net.{k}": v for k, v in w.items()} | {"loss.w": torch.ones(3)}
    },
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "ema": lambda w: {"ema": prefixed(w)},
    "an entry of an entry": lambda w: {"checkpoint": {"model": w, "epoch": 3}},
    "averaged": lambda w: {"n_averaged": torch.tensor(3), **prefixed(w)},
    "any name": lambda w: {"best_network": w},
    "the same twice": lambda w: {"state_dict": w, "ema": dict(w)},
    "one of another network": lambda w: {"student": w, "teacher": {"fc.weight": torch.zeros(2, 2)}},
}


@pytest.mark.parametrize("model", [small, lambda: nn.DataParallel(small()), lambda: nn.Sequential(small())])
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_prefixes_of_wrappers_come_and_go(tmp_path, weights, wrap, model):
    torch.save(wrap(weights), tmp_path / "a.pt")
    network = model()
    if isinstance(network, nn.Sequential) and len(network) == 1:  # its own names begin with "0."
        torch.save(wrap({f"0.{name}": value for name, value in weights.items()}), tmp_path / "a.pt")
    load_weights(network, tmp_path / "a.pt")
    assert [*map(torch.Tensor.tolist, network.state_dict().values())] == [*map(torch.Tensor.tolist, weights.values())]


class Named(nn.Module):
    """A network with a part that is really called module."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.other = nn.Linear(2, 2), nn.Linear(2, 2)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path):
    saved, model = Named(), Named()
    for wrapped in (saved, nn.DataParallel(saved)):
        torch.save(wrapped.state_dict(), tmp_path / "a.pt")
        load_weights(model, tmp_path / "a.pt")
        assert equal(model.state_dict(), saved.state_dict())


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda w: {"model": w, "ema": {k: v + 1 for k, v in w.items()}}, "model, ema"),
        (lambda w: {**w, **{f"ema.{k}": v + 1 for k, v in w.items()}}, "the file itself, ema"),
        (
            lambda w: {"state_dict": {f"{p}.{k}": v + len(p) for k, v in w.items() for p in ("net", "ema_net")}},
            "state_dict.ema_net, state_dict.net",
        ),
    ],
)
def test_nothing_is_guessed_where_two_fit(tmp_path, weights, wrap, names):
    torch.save(wrap(weights), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=f"one state dict for Sequential in .*, got several: {names}. Save the one that you"
    ):
        load_weights(small(), tmp_path / "a.pt")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    "lost", [(), ("first.weight",), ("second.weight",), ("second.weight", "norm.num_batches_tracked")]
)
def test_tied_weights_may_be_saved_once(tmp_path, lost):
    saved, model = Tied(), Tied()
    state = {k: v.clone() for k, v in saved.state_dict().items() if k not in lost}
    save_file(prefixed(state), tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        load_weights(model, tmp_path / name)
        assert equal(model.state_dict(), saved.state_dict())
    save_model(saved, tmp_path / "b.safetensors")
    load_weights(model, tmp_path / "b.safetensors")
    torch.save(
        {k: v.clone() + (k == "second.weight") for k, v in saved.state_dict().items()} | {"x": torch.ones(1)},
        tmp_path / "c.pt",
    )
    with pytest.raises(InputError, match="weights of Tied"):
        load_weights(model, tmp_path / "c.pt")


def test_tied_weights_come_back_from_a_run(run, tmp_path, monkeypatch):
    (tmp_path / "tied_networks.py").write_text("from test_weights import Tied\ndef make():\n    return Tied()\n")
    monkeypatch.syspath_prepend(tmp_path)
    factory = Factory("tied_networks:make")
    model = factory.build(seed=1)
    run.save_network("standard", factory, model)
    assert equal(run.load_network("standard").state_dict(), model.state_dict())


def test_code_in_weights_never_runs(here):
    for name in ("a.pt", "a.safetensors"):
        (here / name).write_bytes(pickle.dumps({"0.weight": Code()}))
        with pytest.raises(InputError):
            load_weights(small(), here / name)
    assert not (here / "ran").exists()


def test_damaged_weights(tmp_path):
    for content in damaged():
        for name in ("a.pt", "a.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=r"tensors saved by torch|safetensors in|a state dict in"):
                load_weights(small(), tmp_path / name)


def test_weights_that_are_not_there(tmp_path):
    for path in (tmp_path / "a.pt", tmp_path / "a"):
        with pytest.raises(InputError, match=f"a file of weights, got {path}"):
            load_weights(small(), path)


def test_settings_and_numbers_are_text_that_others_can_read(run):
    run.write_json("numbers.json", {"name": "‖g‖", "list": [1, 2.5, None]})
    assert json.loads((run.folder / "numbers.json").read_text()) == {"name": "‖g‖", "list": [1, 2.5, None]}
