"""Small networks in many styles, for inspection, conversion and folding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve import randomness


class SharedBlock(nn.Module):
    """A residual block as in torchvision: one in-place ReLU that is called twice."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class SharedResNet(nn.Module):
    """A network with nine ReLU modules and 17 calls, like torchvision's ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(SharedBlock(4, 4, 1), SharedBlock(4, 4, 1))
        self.layer2 = nn.Sequential(SharedBlock(4, 6, 2), SharedBlock(6, 6, 1))
        self.layer3 = nn.Sequential(SharedBlock(6, 6, 2), SharedBlock(6, 6, 1))
        self.layer4 = nn.Sequential(SharedBlock(6, 8, 2), SharedBlock(8, 8, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and convolution, concatenated with the input."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(before), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(before, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.dropout(self.conv(self.relu(self.norm(x))), 0.2, self.training)], 1)


class DenseNet(nn.Module):
    """Dense layers and one F.relu in the network's forward method, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), DenseLayer(4), DenseLayer(7), nn.AvgPool2d(2), nn.BatchNorm2d(10)
        )
        self.classifier = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


class Mixed(nn.Module):
    """An inception block of functions."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(before, 3, 1), nn.Conv2d(before, 3, 3, padding=1)
        self.pool = nn.Conv2d(before, 2, 1)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        pooled = F.relu(self.pool(F.avg_pool2d(x, 3, stride=1, padding=1)))
        out = torch.cat([F.relu(self.one(x), inplace=True), self.three(x).relu(), pooled], 1)
        return out if scale is None else out * scale


class Inception(nn.Module):
    """A network of functions, with a dropout that depends on the mode and a ReLU written as clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed1, self.mixed2, self.fc = nn.Conv2d(3, 4, 3), Mixed(4), Mixed(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.stem(x)), 3, 2)
        x = self.mixed2(self.mixed1(x)).clamp(min=0)
        return self.fc(F.dropout(x.mean((2, 3)), training=self.training))


class Dynamic(nn.Module):
    """A network whose control flow depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(x.flatten(1)))
        if x.sum() > 0:
            x = F.relu(x - 0.1)
        return self.head(x)


class ViT(nn.Module):
    """Patches, one attention block with a GELU, and the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        seen = self.norm1(x)
        x = x + self.attention(seen, seen, seen, need_weights=False)[0]
        x = x + F.scaled_dot_product_attention(x, x, x)
        x = x + self.mlp(self.norm2(x)).softmax(2)
        return self.head(x.mean(1))


def convnet() -> nn.Module:
    """Convolutions without padding, so every constant can move into the next bias."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, stride=2), nn.GELU(), nn.AvgPool2d(2), nn.Dropout(0.3)),
        *(nn.Flatten(), nn.Linear(6, 8, bias=False), nn.SiLU(), nn.Linear(8, 5)),
    )


def vgg() -> nn.Module:
    """Convolution, BatchNorm, one ReLU module in several places, and pooling."""
    act = nn.ReLU()
    layers: list[nn.Module] = []
    for before, after in ((3, 4), (4, 6), (6, 6)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), act, nn.MaxPool2d(2)]
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(6, 8), act, nn.Linear(8, 5))


def mlp() -> nn.Module:
    """Linear layers, BatchNorm1d, softplus and Mish."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Softplus(beta=10), nn.Linear(8, 6), nn.Mish()),
        nn.Linear(6, 5),
    )


def depthwise() -> nn.Module:
    """A MobileNet-like stack: grouped, depthwise and dilated."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False), nn.BatchNorm2d(6), nn.ELU()),
        *(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


IMAGES, TINY = (3, 12, 12), (3, 2, 2)
NETWORKS = {  # network, input shape, number of calls of nonlinearities
    "convnet": (convnet, IMAGES, 4),
    "vgg": (vgg, IMAGES, 4),
    "mlp": (mlp, TINY, 2),
    "depthwise": (depthwise, IMAGES, 3),
    "resnet": (SharedResNet, IMAGES, 17),
    "densenet": (DenseNet, IMAGES, 3),
    "inception": (Inception, IMAGES, 8),
    "vit": (ViT, IMAGES, 1),
}
LIPSCHITZ = ("convnet", "vgg", "mlp", "depthwise", "resnet", "inception")
"""The networks that LCNN's conversion supports."""


def network(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode after a few batches, and an example."""
    make, shape, _ = NETWORKS[name]
    with randomness.temporary_seed(0, name):
        model = make()
        for _ in range(8):
            model(torch.rand(16, *shape))
        return model.eval().to(dtype), torch.rand(4, *shape, dtype=dtype)
