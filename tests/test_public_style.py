"""A ResNet for small images, written as most public repositories write it, is certified, measured and attacked."""

import sys
from pathlib import Path

import pytest
import torch
from command import SMOKE, cells, done, results

from lowcurve import randomness
from lowcurve.analysis.calculus import jacobian
from lowcurve.data import load
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import stream
from lowcurve.training import Objective, Optimization, fit

PUBLIC = """
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.init as init

def _weights_init(m):
    if isinstance(m, (nn.Linear, nn.Conv2d)):
        init.kaiming_normal_(m.weight)

class LambdaLayer(nn.Module):
    def __init__(self, lambd):
        super().__init__()
        self.lambd = lambd

    def forward(self, x):
        return self.lambd(x)

class BasicBlock(nn.Module):
    def __init__(self, in_planes, planes, stride=1, option="A"):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            if option == "A":
                self.shortcut = LambdaLayer(
                    lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
                )
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes)
                )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)

class ResNet(nn.Module):
    def __init__(self, num_blocks=(1, 1), option="A", num_classes=10):
        super().__init__()
        self.in_planes = 4
        self.conv1 = nn.Conv2d(1, 4, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = self._make_layer(4, num_blocks[0], 1, option)
        self.layer2 = self._make_layer(8, num_blocks[1], 2, option)
        self.linear = nn.Linear(8, num_classes)
        self.apply(_weights_init)

    def _make_layer(self, planes, blocks, stride, option):
        layers = []
        for s in [stride] + [1] * (blocks - 1):
            layers.append(BasicBlock(self.in_planes, planes, s, option))
            self.in_planes = planes
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer2(self.layer1(out))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        if x.shape[0] != len(out):
            raise ValueError
        return self.linear(out)

def make():
    return ResNet()

def other():
    return ResNet(option="B")
"""


@pytest.fixture
def public(tmp_path, monkeypatch) -> Path:
    """A folder with the network and random weights, whose BatchNorm has seen data."""
    (tmp_path / "public.py").write_text(PUBLIC)
    monkeypatch.delitem(sys.modules, "public", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("option", ["make", "other"])
def test_its_bounds_hold(public, option):
    with randomness.temporary_seed(0, "weights"):
        model = getattr(__import__("public"), option)().double().eval()
    found = smoothness(model, torch.zeros(1, 1, 8, 8))
    x = torch.rand(20, 1, 8, 8, dtype=torch.double, generator=stream(0))
    gradients = jacobian(model, x)
    steepest = float((gradients[:, 0] - gradients[:, 1]).flatten(1).norm(dim=1).max())
    assert steepest <= float(found.lipschitz[0, 1]) < 500 * steepest
    assert public.is_dir()


@pytest.mark.slow
def test_it_is_measured_and_attacked_from_the_command_line(public):
    with randomness.temporary_seed(0, "weights"):
        model = __import__("public").make()
    fit(model, Objective(), load("digits").train, Optimization(epochs=8, learning_rate=1e-2))
    torch.save(model.state_dict(), public / "public.pt")
    words = (
        *SMOKE,
        "--model",
        "public:make",
        "--weights",
        "public.pt",
        "--evaluation.boundary_examples",
        "12",
        "--out",
        "run",
    )
    assert done("measure", *words) == 0
    assert done("attack", "run") == 0
    found = results(public / "run")
    (certified,) = cells(found, "certified, at least", "boundary").values()
    assert certified[0] > 0
    assert "Lipschitz bounds (it has kinks) that hold everywhere" in found["boundary"]["conditions"]["certificate"]
    assert cells(found, "strong")["given"] is not None
