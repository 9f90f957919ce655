"""Vision transformers for small images, with one module for each nonlinearity. The parameters have timm's names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.models.convolutional import Shape
from lowcurve.models.layers import nonlinearity

INITIAL = 0.02
"""Standard deviation of the initial weights, as in the published networks."""


def padding(sizes: tuple[int, int], patch: int) -> nn.Module:
    """Build the layer that pads an image on the right and below to whole patches.

    Args:
        sizes: Height and width of the image.
        patch: Side of a patch.

    Returns:
        The padding with zeros, or an identity where none is needed.

    Example:
        >>> padding((8, 8), 4), padding((7, 9), 4)
        (Identity(), ZeroPad2d((0, 3, 0, 1)))
    """
    below, right = (-size % patch for size in sizes)
    return nn.ZeroPad2d((0, right, 0, below)) if below or right else nn.Identity()


class PatchEmbedding(nn.Module):
    """A linear map of each patch: shape (batch, channels, height, width) to (batch, patches, width of the network).

    Args:
        shape: Shape of one image: channels, height, width.
        patch: Side of a patch. Images that it does not divide are padded.
        width: Width of the network.

    Attributes:
        patches: Number of patches.
    """

    def __init__(self, shape: Shape, patch: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.patches = -(-height // patch) * -(-breadth // patch)
        self.pad = padding((height, breadth), patch)
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the patches of x as tokens."""
        result: Tensor = self.proj(self.pad(x)).flatten(2).transpose(1, 2)
        return result


class Attention(nn.Module):
    """Self-attention with several heads.

    Args:
        width: Width of the network.
        heads: Number of heads. It divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output for tokens of shape (batch, tokens, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """Two linear maps of each token with a nonlinearity between them.

    Args:
        width: Width of the network.
        hidden: Width between the two maps.
        act: Name of the nonlinearity.
    """

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nonlinearity(act), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for x, shape (..., width)."""
        result: Tensor = self.fc2(self.act(self.fc1(x)))
        return result


class Block(nn.Module):
    """The pre-normalized block x + attention(norm(x)), followed by x + mlp(norm(x)).

    Args:
        width: Width of the network.
        heads: Number of heads.
        act: Name of the nonlinearity.
    """

    def __init__(self, width: int, heads: int, act: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), MLP(width, 4 * width, act)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for tokens of shape (batch, tokens, width)."""
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class VisionTransformer(nn.Module):
    """A vision transformer with a class token and learned positions.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity of the MLPs.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Largest number of heads. The number is the largest one up to it that divides the width.
        patch: Side of a patch. By default there are about eight patches along a side, of at most 16 pixels: 4 for 32
            pixels, 8 for 64 and 16 for 224.

    Reference: Dosovitskiy et al. 2021, section 3.1.
    """

    def __init__(
        self,
        shape: Shape,
        classes: int,
        act: str,
        width: int,
        depth: int,
        heads: int,
        patch: int | None,
    ) -> None:
        super().__init__()
        heads = max(number for number in range(1, heads + 1) if width % number == 0)
        self.patch_embed = PatchEmbedding(shape, patch or min(16, max(1, round(min(shape[1:]) / 8))), width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.patches + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, act) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=INITIAL)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits for images x, shape (batch, channels, height, width)."""
        patches = self.patch_embed(x)
        tokens = torch.cat((self.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1) + self.pos_embed
        result: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return result


def initialize(model: nn.Module) -> None:
    """Draw the weights of all linear layers from a truncated normal distribution, and set their biases to 0.

    Args:
        model: The network. It is changed in place.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=INITIAL)
            nn.init.zeros_(module.bias)


def vit_tiny(shape: Shape, classes: int, act: str, width: int = 192, patch: int | None = None) -> VisionTransformer:
    """Build ViT-Tiny: 12 blocks of width 192 with three heads.

    It has 5.4 M parameters for 32 pixels at width 192.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity of the MLPs.
        width: Width of the tokens.
        patch: Side of a patch. The default is that of `VisionTransformer`: 4 for 32 pixels and 8 for 64.

    Returns:
        The network, without a normalization layer.

    Reference: Touvron et al. 2021, Table 1 (DeiT-Ti).
    """
    return VisionTransformer(shape, classes, act, width, depth=12, heads=3, patch=patch)


def vit_tiny_patch8(shape: Shape, classes: int, act: str, width: int = 192) -> VisionTransformer:
    """Build ViT-Tiny with patches of 8 pixels. At 32 pixels it has a quarter of `vit_tiny`'s tokens and of its cost.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity of the MLPs.
        width: Width of the tokens.

    Returns:
        The network, without a normalization layer.
    """
    return vit_tiny(shape, classes, act, width, patch=8)
