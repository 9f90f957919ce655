"""Evaluate a network on the same images in every form in which people have them: the numbers are the same."""

import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lowcurve as lc

# Sixty grey images of 8 x 8 pixels in uint8, and the network that chooses the nearest of the ten mean images.
digits = lc.load("digits").test.take(slice(60))
images, labels = (digits.pixels(slice(None)) * 255).byte().numpy(), digits.y.numpy()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
means = torch.stack([digits.pixels(np.flatnonzero(labels == k)).mean(0).flatten() for k in range(10)])
model.load_state_dict({"1.weight": means, "1.bias": -means.square().sum(1) / 2})
method = lc.PGD("linf", 0.05, steps=2)


class Digits(Dataset):
    """A data set as one writes it for training: float pixels in [0, 1], and a label."""

    def __len__(self) -> int:
        return len(images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Return one image and its label."""
        return torch.from_numpy(images[row]).float() / 255, int(labels[row])


pictures = [{"image": Image.fromarray(x[0]), "label": int(y)} for x, y in zip(images, labels, strict=True)]
table = datasets.Dataset.from_list(pictures).cast_column("image", datasets.Image())
forms = {
    "NumPy arrays": (images, labels),
    "Dataset": Digits(),
    "DataLoader": DataLoader(Digits(), batch_size=7),
    "iterable": (pair for pair in Digits()),
    "Hugging Face": table,
    "Hugging Face, streaming": table.to_iterable_dataset(),
}
first, *others = [lc.attack(model, data, method) for data in forms.values()]
for other in others:
    assert (other.fooled_by == first.fooled_by).all()
    assert torch.equal(other.inputs, first.inputs)
print(first)

# A folder of color images of several sizes, with a transform.
with tempfile.TemporaryDirectory() as folder:
    for row in range(20):
        place = Path(folder) / "val" / f"digit {labels[row]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[row, 0]).resize((20 + row, 30)).convert("RGB").save(place / f"{row}.jpg")

    def transform(picture: Image.Image) -> np.ndarray:
        """Return 8 x 8 grey pixels."""
        return np.asarray(picture.resize((8, 8)).convert("L"))[None]

    examples = lc.image_folder(folder, split="val", transform=transform)
    print(examples, lc.measure(model, examples, lc.Curvature()), sep="\n")

    # Three shards, which three jobs can compute side by side. Finished parts go to the folder.
    finished = Path(folder) / "finished"
    shards = [lc.attack(model, Digits(), method, ledger=finished, shard=(k, 3)) for k in range(3)]
    whole = lc.attack(model, Digits(), method, ledger=finished, keep_inputs=False)  # computes nothing anew

assert (lc.evaluation.join(shards).fooled_by == whole.fooled_by).all()
assert (whole.fooled_by == first.fooled_by).all()
