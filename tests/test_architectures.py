"""Small networks of timm and transformers: every cell of `benchmarks/architectures.py` is right, or one sentence."""

import importlib.util

import pytest
import torch
from architectures import CRASH, examine
from foreign_networks import NETWORKS

import lowcurve as lc
import lowcurve.store as lc_store

SMALL = ("densenet121", "vit_tiny (two narrow blocks)", "HF ViT", "HF Swin", "HF ConvNext", "HF ResNet")
WITH_BATCHNORM = ("densenet121", "HF ResNet")


def library_of(name: str) -> None:
    """Skip the test where the library is not installed."""
    library = NETWORKS[name].library
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


@pytest.mark.filterwarnings("ignore")  # of the libraries' imports
@pytest.mark.parametrize("name", SMALL)
def test_every_cell_is_a_right_number_or_a_sentence(name):
    library_of(name)
    cells = examine(NETWORKS[name])
    assert not [cell for cell in cells.values() if str(cell).startswith(CRASH)]
    assert cells["way"] == "replayed"
    assert cells["product, error"] < 1e-8
    assert cells["CURE"] < 1e-6
    assert cells["gradient norm"] < 1e-6
    assert cells["measure"] > 0
    assert cells["convert"] >= 2
    assert cells["convert to LCNN"] > cells["convert"]
    assert (cells["fold"] > 0) == (name in WITH_BATCHNORM)
    assert isinstance(cells["certificate"], float) == (name in WITH_BATCHNORM)


@pytest.mark.filterwarnings("ignore")
def test_lcnn_of_a_transformer_says_what_is_outside_the_bound():
    library_of("HF ViT")
    network = NETWORKS["HF ViT"]
    report = lc.convert(network.build(), lc.models.LCNNConversion(), example=network.images(2)).conversion_report
    replaced = {name: new for name, new in report.replaced.items() if "Softplus" in new}
    assert len(replaced) == 2
    assert all("mlp" in name or "intermediate" in name for name in replaced)
    assert len(report.left) == 7  # five LayerNorms and two attentions
    assert all(reason.startswith("outside the bound: no Lipschitz form of") for reason in report.left.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", ["50KB", "10KB"])  # one file, or shards
def test_a_network_that_transformers_saved_is_read(tmp_path, size):
    library_of("HF ViT")
    saved, model = NETWORKS["HF ViT"].build(), NETWORKS["HF ViT"].build()
    with torch.no_grad():
        saved.network.classifier.weight.add_(1.0)
    saved.network.save_pretrained(tmp_path, max_shard_size=size)
    lc_store.load_weights(model, tmp_path)
    images = NETWORKS["HF ViT"].images(2)
    assert torch.equal(model(images), saved(images))
    small = dict(lc_store.weight_files.read_weights(tmp_path))
    small.pop("classifier.bias")
    torch.save(small, tmp_path / "other.pt")
    with pytest.raises(lc.InputError, match=r"weights of WrappedNetwork in .*other.pt, got Missing key"):
        lc_store.load_weights(model, tmp_path / "other.pt")


@pytest.mark.filterwarnings("ignore")
def test_the_commands_know_networks_of_transformers(tmp_path, monkeypatch):
    library_of("HF ViT")
    (tmp_path / "my_vit.py").write_text(
        "from foreign_networks import NETWORKS\ndef make():\n    return NETWORKS['HF ViT'].build().network\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(lc.InputError, match=r"the normalization of a network of transformers, .*give mean and std"):
        lc.models.Factory("my_vit:make").build(seed=0)
    model = lc.models.Factory("my_vit:make", (0.5,) * 3, (0.25,) * 3).build(seed=0).eval()
    images = NETWORKS["HF ViT"].images(2)
    assert torch.equal(model(images), NETWORKS["HF ViT"].build()(images))
    assert [name.removeprefix("1.") for name in model.state_dict() if name.startswith("1.")] == list(
        NETWORKS["HF ViT"].build().state_dict()
    )
