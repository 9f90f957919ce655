"""MAITE's protocols, with its own package and its own `evaluate`."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import FGSM, PGD
from lowcurve.data import Examples, digits
from lowcurve.errors import InputError
from lowcurve.geometry import gradient_norm
from lowcurve.integrations.maite import (
    FromMaiteModel,
    MaiteAccuracy,
    MaiteAttack,
    MaiteDataset,
    MaiteMeasure,
    MaiteModel,
    from_maite_dataset,
)
from lowcurve.randomness import temporary_seed

maite = pytest.importorskip("maite", reason="maite is not installed")
CLASSES = tuple("0123456789")


def network() -> nn.Module:
    with temporary_seed(0, "maite"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Softplus(), nn.Linear(16, 10)).eval()


@pytest.fixture(scope="module")
def few() -> Examples:
    return digits().test.take(slice(12))


def test_all_parts_satisfy_the_protocols(few):
    from maite._internals.protocols import generic  # its public names cannot be checked at run time

    model, data = MaiteModel(network(), "mlp", CLASSES), MaiteDataset(few, "digits")
    attack = MaiteAttack(FGSM("linf", 0.1), network())
    for part, protocol in (
        (model, generic.Model),
        (data, generic.Dataset),
        (data, generic.FieldwiseDataset),
        (MaiteAccuracy(), generic.Metric),
        (MaiteMeasure(network(), data, gradient_norm), generic.Metric),
        (attack, generic.Augmentation),
    ):
        assert isinstance(part, protocol)
        assert isinstance(part.metadata["id"], str)
    assert data.metadata["index2label"] == model.metadata["index2label"] == dict(enumerate(CLASSES))


def test_maite_evaluates_models_here_clean_and_under_attack(few):
    from maite.tasks import evaluate

    model, attack = network(), PGD("linf", 0.1, steps=3)
    data, wrapped = MaiteDataset(few, "digits"), MaiteModel(model, "mlp", CLASSES)
    clean, predictions, _ = evaluate(
        model=wrapped, metric=MaiteAccuracy(), dataset=data, batch_size=5, return_preds=True
    )
    ours = evaluation.accuracy(model, few)
    assert (clean["accuracy"], clean["low"], clean["high"], clean["count"]) == (ours.value, ours.low, ours.high, 12)
    rows = np.stack([row for batch in predictions for row in batch])
    np.testing.assert_allclose(rows, model(few.pixels(range(12))).softmax(1).detach().numpy(), atol=1e-6)
    attacked, _, batches = evaluate(
        model=wrapped, metric=MaiteAccuracy(), dataset=data, batch_size=12,
        augmentation=MaiteAttack(attack, model), return_augmented_data=True,
    )  # fmt: skip
    adversarial = attack(model, few.pixels(range(12)), few.y)
    assert attacked["accuracy"] == evaluation.accuracy(model, adversarial, few.y).value
    np.testing.assert_allclose(np.stack(batches[0][0]), adversarial.numpy(), atol=1e-6)
    measured, _, _ = evaluate(
        model=wrapped, metric=MaiteMeasure(model, data, {"slope": gradient_norm}), dataset=data, batch_size=5
    )
    columns = evaluation.measure(model, few, {"slope": gradient_norm}, progress=False)
    assert measured["slope, mean"] == pytest.approx(float(columns["slope"].mean()))


def test_models_and_data_sets_of_maite_work_here(few):
    class Theirs:
        """A data set as its documentation writes one: uint8 arrays, one-hot lists."""

        metadata: ClassVar = {"id": "theirs", "index2label": {1: "b", 0: "a"}}

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index >= 3:
                raise IndexError(index)
            return np.full((1, 8, 8), 51 * index, np.uint8), [0.0, 1.0] if index else [1.0, 0.0], {"id": f"x{index}"}

    found = from_maite_dataset(Theirs())
    assert found.y.tolist() == [0, 1, 1]
    assert found.classes == ("a", "b")
    torch.testing.assert_close(found.pixels([2]), torch.full((1, 1, 8, 8), 0.4))
    model = network()
    probabilities = FromMaiteModel(MaiteModel(model, "mlp"), outputs="probabilities")
    x = few.pixels(range(4))
    torch.testing.assert_close(probabilities(x), model(x).log_softmax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(FromMaiteModel(lambda batch: [model(one[None])[0] for one in batch])(x), model(x))
    differentiable = FromMaiteModel(lambda batch: list(model(torch.stack(batch)))).eval()
    torch.testing.assert_close(
        evaluation.measure(differentiable, few, gradient_norm, progress=False)["gradient norm"],
        evaluation.measure(model, few, gradient_norm, progress=False)["gradient norm"],
    )
    with pytest.raises(InputError):
        FGSM("linf", 0.1)(FromMaiteModel(MaiteModel(model, "mlp")), x, few.y[:4])


def test_what_maite_parts_refuse(few):
    data = MaiteDataset(few, "digits")
    assert len(list(data)) == 12  # Python's old protocol of iteration ends
    np.testing.assert_array_equal(data[-1][0], data[11][0])
    with pytest.raises(InputError, match=r"at least one batch before compute, got none\. Call update first"):
        MaiteAccuracy().compute()
    metric = MaiteMeasure(network(), data, gradient_norm)
    with pytest.raises(InputError, match=r"metadata with an id from 0 to 11, got 'x1'. Evaluate on the MaiteDataset"):
        metric.update([], [], [{"id": "x1"}])
    with pytest.raises(
        InputError, match=r'outputs of "logits" or "probabilities", got .scores.\. Write outputs="logits"'
    ):
        FromMaiteModel(None, outputs="scores")
