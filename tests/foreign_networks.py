"""Networks of timm and transformers with random weights, small enough for a test or a benchmark on a CPU."""

import warnings
from dataclasses import dataclass

import torch
import torchvision_stub
from torch import nn

import lowcurve as lc

CLASSES = 10
SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8}
TINY_VIT = {"depth": 4, "img_size": 32, "patch_size": 4}
"""Of the width of ViT-Tiny, with 64 patches."""
SMALL_HF = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
PATCHES = {"image_size": 32, "patch_size": 8}
STAGES = {"image_size": 32, "patch_size": 2, "depths": [1, 1], "num_heads": [2, 4], "embed_dim": 16, "window_size": 4}


@dataclass(frozen=True)
class Foreign:
    """A network of another library: a name of timm with options, or a class of transformers with a configuration."""

    library: str
    name: str
    options: dict
    pixels: int = 32

    def build(self) -> nn.Module:
        """Return the wrapped network in eval mode, with random weights and the running statistics of random images.

        Vectors such as layer scales, and matrices of zeros, are moved away from their first values.
        """
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            net = self._timm() if self.library == "timm" else self._transformers()
            for parameter in net.parameters():
                if parameter.ndim == 1 or not parameter.any():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            model = lc.wrap(net, mean=[0.5] * 3, std=[0.25] * 3)
            norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
            for norm in norms:
                norm.momentum = 1.0
            if norms:
                model.train()(self.images(8))
            for norm in norms:
                norm.momentum = 0.1
                norm.running_var.add_(norm.running_var.mean())  # a channel that hardly varies would enlarge rounding
        return model.eval()

    def images(self, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return images that the network takes."""
        shape = (count, 3, self.pixels, self.pixels)
        return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)

    def _timm(self) -> nn.Module:
        timm = torchvision_stub.import_timm()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(self.name, num_classes=CLASSES, **self.options)

    def _transformers(self) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{self.name}Config")(num_labels=CLASSES, **self.options)
        return getattr(transformers, f"{self.name}ForImageClassification")(config)


def timm(name: str, pixels: int = 32, **options: object) -> Foreign:
    """A network of timm."""
    return Foreign("timm", name, options, pixels)


def hf(name: str, pixels: int = 32, **options: object) -> Foreign:
    """A network of transformers."""
    return Foreign("transformers", name, options, pixels)


NETWORKS: dict[str, Foreign] = {
    "resnet18": timm("resnet18"),
    "resnetv2_18": timm("resnetv2_18"),
    "seresnet18": timm("seresnet18"),
    "resnet14 (GroupNorm)": timm("resnet18", norm_layer="groupnorm"),
    "ese_vovnet19b_dw": timm("ese_vovnet19b_dw"),
    "densenet121": timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)),
    "dla34": timm("dla34"),
    "regnety_002": timm("regnety_002"),
    "repvgg_a0": timm("repvgg_a0"),
    "hrnet_w18_small": timm("hrnet_w18_small"),
    "inception_v3 (75 pixels)": timm("inception_v3", 75, aux_logits=False),
    "mobilenetv2_050": timm("mobilenetv2_050"),
    "mobilenetv3_small_050": timm("mobilenetv3_small_050"),
    "efficientnet_b0": timm("efficientnet_b0"),
    "ghostnet_050": timm("ghostnet_050"),
    "vit_tiny": timm("vit_tiny_patch16_224", **TINY_VIT),
    "vit_tiny (two narrow blocks)": timm("vit_tiny_patch16_224", **SMALL_VIT),
    "deit_tiny": timm("deit_tiny_distilled_patch16_224", **TINY_VIT),
    "dinov2": timm("vit_small_patch14_dinov2", **SMALL_VIT),
    "beit": timm("beit_base_patch16_224", **SMALL_VIT),
    "eva02": timm("eva02_tiny_patch14_224", **SMALL_VIT),
    "cait": timm("cait_xxs24_224", **SMALL_VIT),
    "swin_tiny": timm(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, depths=(2, 2), num_heads=(3, 6)
    ),
    "swinv2_tiny": timm(
        "swinv2_tiny_window8_256", img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4)
    ),
    "maxvit_pico (64 pixels)": timm("maxvit_rmlp_pico_rw_256", 64, img_size=64),
    "convnext_atto": timm("convnext_atto"),
    "convnextv2_atto": timm("convnextv2_atto"),
    "mixer (64 pixels)": timm("mixer_s32_224", 64, img_size=64),
    "gmlp (64 pixels)": timm("gmlp_ti16_224", 64, img_size=64),
    "resmlp (64 pixels)": timm("resmlp_12_224", 64, img_size=64),
    "poolformer_s12": timm("poolformer_s12"),
    "pvt_v2_b0 (64 pixels)": timm("pvt_v2_b0", 64),
    "levit_128s (64 pixels)": timm("levit_128s", 64, img_size=64),
    "HF ViT": hf("ViT", **SMALL_HF, **PATCHES),
    "HF DeiT": hf("DeiT", **SMALL_HF, **PATCHES),
    "HF Dinov2": hf(
        "Dinov2", hidden_size=48, num_hidden_layers=2, num_attention_heads=3, **PATCHES
    ),
    "HF BEiT": hf("Beit", **SMALL_HF, **PATCHES, use_relative_position_bias=True),
    "HF Swin": hf("Swin", **STAGES),
    "HF ConvNext": hf("ConvNext", hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
    "HF ResNet": hf("ResNet", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]),
    "HF CLIP": hf("CLIP", vision_config={**SMALL_HF, **PATCHES, "projection_dim": 32}),
}  # fmt: skip
"""Forty-one networks of all families; `benchmarks/architectures.py` examines each."""
