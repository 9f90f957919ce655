"""Networks that come with the package: their files, their cards, and a study of them."""

import json
import os
import re
import shutil
from hashlib import sha256

import pytest
import torch
from command import main
from torch.testing import assert_close

import lowcurve as lc
from lowcurve.cli.requests import open_run
from lowcurve.data.sources import TOYS
from lowcurve.store import list_pretrained, pretrained
from lowcurve.study.pipeline import load_data

NAMES = list_pretrained()
LARGEST = 1.2e6
"""Bytes of a file."""


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_of_these_weights(name):
    """The logits of a gray image are computed again and, where the data are, clean accuracy and curvature."""
    network, model = NAMES[name], lc.load_pretrained(name)
    content = network.path.read_bytes()
    assert (sha256(content).hexdigest(), len(content)) == (network.card["sha256"], network.card["bytes"])
    assert len(content) <= LARGEST
    assert name.startswith(network.method.lower().replace("+", "-"))
    assert not model.training
    run, study = open_run(str(network.path.parents[1]))
    assert study.data_dir is None
    assert network.method in run.networks()
    assert network.shared["data"] == study.data
    assert network.card["measured"].keys() == network.shared["columns"].keys()
    gray = network.card["gray image"]
    assert_close(model(torch.full((1, *gray["shape"]), 0.5))[0], torch.tensor(gray["logits"]), rtol=1e-3, atol=1e-3)
    if study.data not in TOYS and "LOWCURVE_DATA" not in os.environ:
        pytest.skip(f"{study.data} is not there: set LOWCURVE_DATA")
    few, first = load_data(study).test.take(slice(network.card["first images"]["images"])), network.card["first images"]
    found = lc.measure(model, few, lc.Curvature(), progress=False)
    assert abs(lc.accuracy(model, few).value - first["clean"]) <= 1.01 / len(few)
    for column in ("gradient norm", "Hessian norm"):
        assert_close(torch.tensor(float(found[column].mean())), torch.tensor(first[column]), rtol=1e-2, atol=0)


def test_every_packaged_network_has_a_card_and_every_card_a_network():
    files = {path.relative_to(pretrained.FOLDER) for path in pretrained.FOLDER.rglob("*.safetensors")}
    assert files == {network.path.relative_to(pretrained.FOLDER) for network in NAMES.values()}
    assert len(files) >= 4


def test_wrong_names_and_damaged_files_are_refused(tmp_path, monkeypatch):
    name = next(iter(NAMES))
    with pytest.raises(lc.InputError, match="the name of a network that comes with the package, got 'cure-digits'"):
        lc.load_pretrained("cure-digits")
    with pytest.raises(lc.InputError, match=r"a group of networks that come with the package: .*, got 'digit'"):
        pretrained.pretrained_run("digit")
    shutil.copytree(pretrained.FOLDER, tmp_path / "there")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "there")
    path = NAMES[name].path
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(lc.InputError, match=f"the weights of {name} as they were published, got other bytes"):
        lc.load_pretrained(name)


def test_the_command_lists_them_and_shows_a_card(capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES)
    name = next(iter(NAMES))
    assert main(["models", name]) == 0
    card = capsys.readouterr().out
    assert NAMES[name].card["sha256"] in card
    assert "Mean l_2 norm of the input gradient" in card
    assert main(["models", "--json"]) == 0
    assert {one["name"] for one in json.loads(capsys.readouterr().out)} == {*NAMES}
    assert main(["models", name, name]) == 2
    assert "Expected at most one name" in capsys.readouterr().err
    assert main(["study", "--pretrained", "digits", "--methods", "CURE"]) == 2
    assert "Expected networks that are trained already, got --methods too" in capsys.readouterr().err
    assert main(["attack", "--pretrained", "digits"]) == 2
    assert "Expected --pretrained with lowcurve study, got lowcurve attack" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_of_them_trains_nothing(tmp_path, capsys):
    small = ["--evaluation.examples", "8", "--evaluation.curvature-examples", "8", "--evaluation.audited", "0"]
    small += ["--evaluation.drawn", "0", "--evaluation.boundary-examples", "2", "--evaluation.profile-examples", "0"]
    assert main(["study", "--pretrained", "digits", *small, "--jobs", "1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert not re.search(r"train \w+ took", said)
    run, study = open_run(str(tmp_path / "run"))
    assert study.methods == ()
    ours = {network.method: network for network in NAMES.values() if network.group == "digits"}
    assert {*run.networks()} == {*ours}
    for name, network in ours.items():
        assert (run.folder / "networks" / f"{name}.safetensors").read_bytes() == network.path.read_bytes()
        assert f"attack-{name}" in run.parts()
        assert f"curvature-{name}" in run.parts()
    assert main(["study", "--resume", str(tmp_path / "run")]) == 0  # and neither does going on
    assert not re.search(r"train \w+ took", capsys.readouterr().out)
