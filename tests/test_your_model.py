"""The programs of docs/your-model.md run, with small networks of random weights in the place of those that are downloaded."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision_stub
from foreign_networks import NETWORKS
from PIL import Image
from test_architectures import library_of
from torch import nn

import lowcurve as lc

PAGE = (Path(__file__).parents[1] / "docs" / "your-model.md").read_text()
PROGRAMS = {
    re.search(r"^(?:import|from) (\w+)", code, re.MULTILINE)[1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "--8<--" not in code
}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))


def run(library: str) -> dict:
    found = {"lc": lc}
    exec(compile(PROGRAMS[library], "your-model.md", "exec"), found)
    return found


def is_usable(found: dict, *, classes: int = 10, shape=(3, 32, 32)) -> None:
    """Check that the program's network takes pixels, and that its transform makes them."""
    pixels = found["transform"](PICTURE) if "transform" in found else torch.rand(shape)
    assert pixels.shape == shape
    assert 0 <= pixels.min() < pixels.max() <= 1
    with torch.no_grad():
        assert found["model"](pixels[None]).shape == (1, classes)
    result = lc.measure(found["model"], pixels[None], torch.tensor([1]), lc.Curvature())
    assert float(result["normalized curvature"][0]) >= 0


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    )


def test_the_page_has_a_program_for_every_library():
    assert set(PROGRAMS) == {"timm", "transformers", "torchvision", "robustbench"}


class Preset:
    """As torchvision.transforms._presets.ImageClassification."""

    def __init__(self) -> None:
        self.mean, self.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def __call__(self, image):
        pixels = torch.tensor(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255
        return (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def test_torchvision(monkeypatch):
    fake = ModuleType("torchvision")
    weights = SimpleNamespace(transforms=Preset)
    fake.models = SimpleNamespace(
        ResNet18_Weights=SimpleNamespace(DEFAULT=weights),
        resnet18=lambda weights: small_resnet(),  # noqa: ARG005
    )
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    found = run("torchvision")
    is_usable(found)
    expected = found["net"](Preset()(PICTURE)[None])
    torch.testing.assert_close(found["model"](found["transform"](PICTURE)[None]), expected, rtol=1e-4, atol=1e-4)


def test_robustbench(monkeypatch):
    fake = ModuleType("robustbench.utils")
    fake.load_model = lambda name, dataset, threat_model: small_resnet()  # noqa: ARG005
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", fake)
    is_usable(run("robustbench"))


@pytest.mark.filterwarnings("ignore")
def test_timm(monkeypatch):
    library_of("resnet18")
    timm = torchvision_stub.import_timm()
    create = timm.create_model

    def small(name, pretrained):
        assert pretrained
        net = create(name.split(".")[0], num_classes=10, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
        net.pretrained_cfg["input_size"] = (3, 32, 32)
        return net

    def transform(input_size, is_training, normalize, **settings):  # torchvision's, which is missing
        assert settings["mean"]
        assert not is_training
        assert not normalize
        return lambda image: torch.tensor(np.array(image.resize(input_size[1:]))).permute(2, 0, 1)

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.setattr(timm.data, "create_transform", transform)
    found = run("timm")
    is_usable(found)
    assert found["model"].normalization.mean.tolist() == pytest.approx(found["net"].pretrained_cfg["mean"])


@pytest.mark.filterwarnings("ignore")
def test_transformers(monkeypatch):
    library_of("HF ResNet")
    import transformers

    networks = SimpleNamespace(from_pretrained=lambda _: NETWORKS["HF ResNet"].build().network)
    processors = SimpleNamespace(
        from_pretrained=lambda _: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})
    )
    monkeypatch.setitem(vars(transformers), "AutoModelForImageClassification", networks)
    monkeypatch.setitem(vars(transformers), "AutoImageProcessor", processors)
    is_usable(run("transformers"))
