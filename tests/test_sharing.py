"""Networks that leave the package: the Hugging Face Hub, torch.export, ONNX, VNN-LIB and RobustBench."""

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_study import results
from torch import nn
from torch.testing import assert_close
from torchvision_stub import import_library

import lowcurve as lc
from lowcurve.attacks import AutoAttack
from lowcurve.errors import InputError
from lowcurve.integrations import exporting
from lowcurve.integrations.cards import card_of_audit, card_of_run
from lowcurve.integrations.exporting import export_onnx, export_program
from lowcurve.integrations.hub import HubNetwork
from lowcurve.integrations.leaderboard import model_info, robustbench, write_model_info
from lowcurve.integrations.vnnlib import property_text, write_instances
from lowcurve.models import ConvertedNetwork, Factory, LCNNConversion, Network, SmoothConversion
from lowcurve.models.conversion import source_to_dict
from lowcurve.randomness import stream, temporary_seed
from lowcurve.results import dump
from lowcurve.store import NUMBERS, SETTINGS, Run

huggingface_hub = pytest.importorskip("huggingface_hub")
NETWORK = Network("small-convnet", (1, 8, 8), 4, (0.5,), (0.25,), width=2)
CONVERTED = ConvertedNetwork(NETWORK, LCNNConversion(), (1, 8, 8))
X = torch.rand(6, 1, 8, 8, generator=stream(0, "shared images"))


def trained(source=NETWORK) -> nn.Module:
    """The network with running statistics and weights of its own, in eval mode."""
    model = source.build(seed=1)
    with torch.no_grad(), temporary_seed(0, "shared"):
        model.train()(torch.rand(64, 1, 8, 8))
    return model.eval()


def logits(model: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return model(x)


# --- the Hub


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a saved network and the results of a study."""
    run = Run.create(tmp_path_factory.mktemp("run") / "study")
    run.write(SETTINGS, "seed: 0\n")
    run.save_network("CURE", CONVERTED, trained(CONVERTED))
    numbers = {"facts": {"data": "digits", "seed": "0", "machine": "m"}, "settings": {}, "findings": []}
    run.write_json(NUMBERS, numbers | {"results": {kind: dump(value) for kind, value in results().items()}})
    return run.folder


@pytest.mark.parametrize("source", [NETWORK, CONVERTED], ids=["network", "converted"])
def test_a_network_saved_for_the_hub_is_loaded_again(source, tmp_path, capsys):
    model = trained(source)
    saved = HubNetwork.of(source, model, card="# A card\n\ntext")
    saved.save_pretrained(tmp_path / "net")
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = HubNetwork.from_pretrained(tmp_path / "net")
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert loaded.card == "# A card\n\ntext"
    assert capsys.readouterr().out == ""
    assert huggingface_hub.ModelCard.load(tmp_path / "net" / "README.md").data.library_name == "lowcurve"
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "net" / "config.json").read_text()


def test_a_network_of_a_run_is_pushed_with_its_card(run, tmp_path, monkeypatch):
    pushed = {}

    class Api:
        """Stands for the Hub."""

        def __init__(self, token=None):
            pushed["token"] = token

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **_):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    network = HubNetwork.of_run(run, "CURE")
    assert network.push_to_hub("somebody/flat", token="t") == "hub/somebody/flat"
    assert pushed == {"token": "t"}
    loaded = HubNetwork.from_pretrained(tmp_path / "somebody/flat")
    assert torch.equal(logits(loaded), logits(trained(CONVERTED)))
    card = (tmp_path / "somebody/flat/README.md").read_text()
    assert card.endswith(card_of_run(run, "CURE") + "\n")
    assert "| strong | 67.5% [62.5%, 72.1%] | The suite. |" in card
    assert "verdict on these accuracies: **no masking found by these tests; warnings: " in card
    assert "| 6. " in card
    assert "- examples (robustness): all 360 of the test set, seed 0" in card
    assert "- data: digits" in card


def test_a_card_from_an_attack_and_an_audit():
    model = trained()
    y = logits(model).argmax(1)
    attacked = lc.attack(model, X, y, lc.PGD("linf", 0.05), progress=False)
    budget = lc.evaluation.audit.Budget(queries=3, noise_draws=2, spsa_draws=1, spsa_steps=1)
    found = lc.audit(model, X, y, "linf", 0.05, budget=budget, progress=False)
    card = card_of_audit("A network", attacked, found, mean_gradient="0.3")
    assert f"| robust accuracy | {attacked.robust_accuracy} | At most: accuracy after PGD. |" in card
    assert found.summary in card
    assert "| mean gradient | 0.3 |" in card


def own() -> nn.Module:
    """A network that a user's function builds."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def test_code_that_a_description_names_runs_only_if_it_is_trusted(tmp_path):
    source = Factory(f"{__name__}:own")
    HubNetwork.of(source, source.build(seed=1)).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"own architectures, got one that a function of other code builds. Write from_pret"
    ):
        HubNetwork.from_pretrained(tmp_path)
    assert torch.equal(logits(HubNetwork.from_pretrained(tmp_path, trust_code=True)), logits(source.build(seed=1)))
    nested = source_to_dict(ConvertedNetwork(Factory("os:getcwd"), SmoothConversion(), (1,)))
    config = json.loads((tmp_path / "config.json").read_text()) | {"source": nested, "trust_code": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="got one that a function of other code builds"):
        HubNetwork.from_pretrained(tmp_path)


def test_what_the_hub_refuses(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a network of lowcurve in .*empty"):
        HubNetwork.from_pretrained(tmp_path / "empty")
    HubNetwork.of(NETWORK, trained()).save_pretrained(tmp_path / "net")
    config = tmp_path / "net" / "config.json"
    config.write_text(config.read_text().replace('"width": 2', '"width": 3'))
    with pytest.raises(InputError, match=r"a network of lowcurve in .*net"):
        HubNetwork.from_pretrained(tmp_path / "net")
    with pytest.raises(InputError, match="weights of Network, got Error"):
        HubNetwork.of(NETWORK, own())
    with pytest.raises(InputError, match=r"the description of a network of lowcurve, got .'kind'"):
        HubNetwork({"kind": "resnet"})
    with pytest.raises(InputError, match="a network among CURE, got 'PGD'"):
        HubNetwork.of_run(run, "PGD")
    with pytest.raises(InputError, match=r"results of 'nobody' in .*, got none"):
        card_of_run(run, "nobody")
    other = Run.create(tmp_path / "other")
    other.write(SETTINGS, "seed: 0\n")
    with pytest.raises(InputError, match="a run with results"):
        card_of_run(other.folder, "CURE")


# --- torch.export and ONNX

VARIANTS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)),
    "smooth": lambda: lc.convert(VARIANTS["plain"]().eval(), SmoothConversion(), example=X),
    "LCNN": lambda: lc.convert(VARIANTS["plain"]().eval(), LCNNConversion(), example=X),
    "folded": lambda: lc.fold(VARIANTS["LCNN"]().eval(), example=X),
}


@pytest.fixture(scope="module")
def variants() -> dict[str, nn.Module]:
    with temporary_seed(0, "variants"):
        return {name: make().eval() for name, make in VARIANTS.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_program_has_the_networks_logits_at_any_batch_size(name, variants):
    model = variants[name].train() if name == "plain" else variants[name]
    program = export_program(model, X[:1])
    assert model.training == (name == "plain")
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    for size in (1, 6):
        assert_close(program.module()(X[:size]), logits(model, X[:size]), rtol=1e-4, atol=1e-5)


def runtime(path: Path, x: torch.Tensor) -> np.ndarray:
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixels": x.numpy()})[0]


@pytest.mark.parametrize("name", ["LCNN", "folded"])
def test_an_onnx_file_has_the_networks_logits(name, variants, tmp_path):
    pytest.importorskip("onnxscript")
    file = export_onnx(variants[name], tmp_path / "made" / "net.onnx", X)
    assert [path.name for path in file.path.parent.iterdir()] == ["net.onnx"]
    assert file.difference < 1e-5
    assert_close(runtime(file.path, X[:3]), logits(variants[name], X[:3]).numpy(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_refused(monkeypatch, tmp_path):
    class Chosen(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] if float(x.sum()) > 0 else x.flatten(1)[:, 4:8]

    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] + torch.rand(4)

    with pytest.raises(InputError, match=r"a network that torch.export can follow"):
        export_program(Chosen(), X)
    with (
        temporary_seed(0),
        pytest.raises(InputError, match="a program with the network's logits, got logits that differ"),
    ):
        export_program(Noisy(), X)
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "_difference_at_runtime", lambda *_: 0.1)
    with pytest.raises(InputError, match=r"an ONNX file with the network's logits, got logits that differ by 0.1"):
        export_onnx(own(), tmp_path / "net.onnx", X)


# --- VNN-LIB


def read_property(path: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Bounds of the inputs, and the pairs (k, y) of `or Y_k >= Y_y`, as a verifier reads them."""
    text = path.read_text()
    bounds = [re.findall(rf"\(assert \({sign} X_(\d+) ([-\d.]+)\)\)", text) for sign in (">=", "<=")]
    count = len(re.findall(r"declare-const X_", text))
    assert [[int(place) for place, _ in found] for found in bounds] == [list(range(count))] * 2
    low, high = (np.array([float(value) for _, value in found]) for found in bounds)
    return low, high, [(int(k), int(y)) for k, y in re.findall(r"\(and \(>= Y_(\d+) Y_(\d+)\)\)", text)]


def test_instances_say_what_an_attack_looks_for(variants, tmp_path, caplog):
    """An attacked image satisfies its property in the ONNX file, and the image itself does not."""
    pytest.importorskip("onnxscript")
    model, radius = variants["LCNN"], 0.3
    y = logits(model).argmax(1)
    y[2] = (y[2] + 1) % 4
    with caplog.at_level(logging.INFO, logger="lowcurve"):
        found = write_instances(model, X, y, "linf", radius, folder=tmp_path / "problem", timeout=60)
    assert found.images == (0, 1, 3, 4, 5)
    assert "5 of 6 images have a property" in caplog.text
    lines = list(csv.reader((tmp_path / "problem" / "instances.csv").read_text().splitlines()))
    assert lines[2] == ["onnx/network.onnx", "vnnlib/image-3.vnnlib", "60"]
    attacked = lc.attack(model, X, y, lc.PGD("linf", radius), progress=False)
    fooled = [image for image in found.images if not attacked.robust[image]]
    assert fooled
    for image in found.images:
        low, high, others = read_property(found.property_of(image))
        assert_close(high - low, (X[image] + radius).clamp(0, 1).double().flatten().numpy() - low, rtol=0, atol=1e-6)
        assert others == [(k, int(y[image])) for k in range(4) if k != y[image]]
        for x, expected in ((X[image], False), (attacked.inputs[image], image in fooled)):
            flat = x.flatten().double().numpy()
            assert ((low - 1e-6 <= flat) & (flat <= high + 1e-6)).all()
            values = runtime(found.folder / "onnx/network.onnx", x[None])[0]
            assert any(values[k] >= values[label] for k, label in others) == expected


def test_properties_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(InputError, match="a ball in l_inf, whose bounds VNN-LIB can write, got l_2"):
        write_instances(own(), X, [0] * 6, "l2", 0.5, folder=tmp_path)
    model = own()
    wrong = (logits(model).argmax(1) + 1) % 4
    with pytest.raises(InputError, match="an image that the network classifies correctly, got none of 6"):
        write_instances(model, X, wrong, "linf", 0.1, folder=tmp_path)
    assert "(assert (>= X_0 0.000000099))" in property_text(np.array([1e-7]), 0, 2, lc.Ball("linf", 1e-9))


# --- RobustBench


@pytest.mark.slow
def test_an_entry_of_the_leaderboard(tmp_path):
    model, ball = trained(), lc.Ball("linf", 8 / 255)
    y = logits(model).argmax(1)
    y[0] = (y[0] + 1) % 4
    attacked = lc.attack(model, X, y, lc.PGD(ball), progress=False)
    reference = lc.attack(model, X, y, AutoAttack(ball), progress=False) if _has("pyautoattack") else attacked
    budget = lc.evaluation.audit.Budget(queries=3, noise_draws=2, spsa_draws=1, spsa_steps=1)
    found = lc.audit(model, X, y, ball, budget=budget, progress=False)
    info = model_info(ball, attacked, autoattack=reference, audit=found, dataset="cifar10", reported=41.4, name="Paper")
    assert (info["eps"], info["clean_acc"], info["reported"], info["name"]) == ("8/255", "83.33", "41.40", "Paper")
    worst = attacked.robust & reference.robust & found.robust["worst case"]
    assert (info["external"], info["autoattack_acc"]) == (
        f"{100 * worst.mean():.2f}",
        f"{100 * reference.robust.mean():.2f}",
    )
    assert info["unreliable"] == (not found.reliable)
    assert found.summary in info["footnote"]
    path = write_model_info(info, ball, "Nobody2026Flat", tmp_path)
    assert path == tmp_path / "cifar10" / "Linf" / "Nobody2026Flat.json"
    assert json.loads(path.read_text()) == info
    assert model_info(lc.Ball("l2", 0.5), attacked, dataset="cifar10")["eps"] == "0.5"
    with pytest.raises(InputError, match="both attacks on the same images, got 6 and 3"):
        model_info(ball, attacked, autoattack=attacked.take(slice(3)), dataset="cifar10")


def _has(library: str) -> bool:
    try:
        return import_library(library, "pkg_resources") is not None
    except ImportError:
        return False


@pytest.mark.filterwarnings("ignore")
def test_networks_of_robustbench_and_for_it(monkeypatch, tmp_path):
    if not _has("robustbench"):
        pytest.skip("robustbench is not installed")
    from robustbench import utils
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    zoo = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.L2]
    monkeypatch.setitem(zoo, "Tiny2026", {"model": own, "gdrive_id": "none"})
    place = tmp_path / "cifar10" / "L2"
    place.mkdir(parents=True)
    model = own()
    torch.save(model.state_dict(), place / "Tiny2026.pt")
    loaded = lc.robustbench("Tiny2026", "l2", model_dir=tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    y = logits(trained()).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    assert utils.clean_accuracy(trained(), X, y) == 0.5  # theirs takes ours
    with pytest.raises(
        InputError, match=r"a network of RobustBench for cifar10 and Linf, got 'Carmon2019Unlabelled'. Did you"
    ):
        robustbench("Carmon2019Unlabelled", "Linf")
    with pytest.raises(InputError, match="a threat model among Linf, L2, corruptions, got 'lp'"):
        robustbench("Carmon2019Unlabeled", "lp")
    with pytest.raises(InputError, match=r"a data set among cifar10, .*, got 'mnist'"):
        robustbench("Carmon2019Unlabeled", dataset="mnist")


def test_without_robustbench_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.import_module", _missing)
    with pytest.raises(InputError, match=r"the library robustbench, got .* Run pip install robustbench"):
        robustbench("Carmon2019Unlabeled")


def _missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
