"""Labels of every kind become class numbers where that is exact; others are refused in a sentence."""

import datasets
import numpy as np
import pytest
import torch
from test_pictures import reopened
from torch import nn

from lowcurve.attacks import FGSM
from lowcurve.data import as_examples, load
from lowcurve.data.labels import LARGEST, as_labels, require_classes
from lowcurve.errors import InputError

X, Y = torch.rand(5, 3), torch.tensor([2, 0, 1, 2, 2])
ALIKE = {
    "uint8": Y.to(torch.uint8),
    "int8": Y.to(torch.int8),
    "int16": Y.to(torch.int16),
    "int32": Y.to(torch.int32),
    "uint64": Y.numpy().astype(np.uint64),
    "uint16 of the other byte order": Y.numpy().astype(">u2"),
    "float32": Y.float(),
    "half": Y.half(),
    "bfloat16": Y.bfloat16(),
    "float64 array": Y.double().numpy(),
    "list of floats": [float(k) for k in Y],
    "column": Y[:, None],
    "column of floats": Y.double().numpy()[:, None],
    "one-hot": torch.eye(3)[Y],
    "one-hot of whole numbers": np.eye(3, dtype=np.int64)[Y.numpy()],
    "one-hot of truth values": torch.eye(3)[Y].bool(),
    "list of one-hot tensors": list(torch.eye(3)[Y]),
    "list of tensors": list(Y),
    "list of tensors (1,)": list(Y[:, None]),
    "range": np.asarray([2, 0, 1, 2, 2]),
}


@pytest.mark.parametrize("labels", ALIKE.values(), ids=ALIKE)
def test_labels_that_are_exactly_class_numbers(labels):
    examples = as_examples(X, labels)
    assert examples.y.dtype == torch.int64
    assert torch.equal(examples.y, Y)
    assert examples.classes == ("0", "1", "2")
    method, model = FGSM("linf", 0.1), nn.Linear(3, 3)
    assert torch.equal(method(model, X, labels), method(model, X, Y))


def test_truth_values_are_two_classes():
    assert as_examples(X, Y == 2).y.tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (Y + 0.5, r"whole numbers as labels, got torch.float32 with the value 2.5\. Number the classes from 0"),
        ([0.0, 1.0, float("nan"), 0.0, 0.0], "whole numbers as labels, got torch.float64 with the value nan"),
        ([0.0, 1.0, float("inf"), 0.0, 0.0], "whole numbers as labels, got torch.float64 with the value inf"),
        ([0.0, 1.0, 1e20, 0.0, 0.0], r"whole numbers as labels, got torch.float64 with the value 1e\+20"),
        (Y + 0j, "whole numbers as labels, got torch.complex64"),
        (torch.eye(3)[Y] * 0.9 + 0.03, "one label for each image, got labels of shape .* Write labels.argmax"),
        (torch.ones(5, 3), "one label for each image"),
        (torch.zeros(5, 2), "one label for each image"),
        (torch.zeros(5, 2, 2), "one label for each image"),
        (["cat"] * 5, "whole numbers as labels"),
        ([None] * 5, "whole numbers as labels"),
        (Y - 1, "labels of at least 0, got -1. Leave out examples without a label"),
        (Y * 10**9, r"labels of at most 1,000,000, got 2,000,000,000\. Number the classes from 0"),
        (Y.numpy().astype(np.uint64) * 2**63, "labels of at least 0|labels of at most"),
        ([2**40, 0, 0, 0, 0], "labels of at most 1,000,000, got 1,099,511,627,776"),
    ],
)
def test_other_labels_are_refused(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        as_examples(X, labels)


def test_the_largest_label():
    require_classes(torch.tensor([0, LARGEST]))
    assert as_labels([]).tolist() == []


@pytest.mark.parametrize("kind", ["float32", "float64", "bool", "uint8", "int16"])
def test_labels_in_parquet_files(tmp_path, kind):
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    labels = [bool(k % 2) if kind == "bool" else k % 2 for k in range(20)]
    cells = [reopened(Image.new("L", (2, 2), k)) for k in range(20)]
    datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.classes == ("0", "1")
    assert torch.equal(data.train.y, data.train.x[:, 0, 0, 0].long() % 2)


def test_huge_labels_in_parquet_files(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [b"x"] * 3, "label": [1, 2, 10**12]})
    rows.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"label of a.parquet of at most 1,000,000, got 1,000,000,000,000"):
        load(tmp_path / "a.parquet")
