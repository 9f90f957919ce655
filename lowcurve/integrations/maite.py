"""Models, data sets, metrics and attacks in the protocols of MAITE, and MAITE's models and data sets here.

MAITE (Modular AI Trustworthy Engineering) is the common interface of programs that test image classifiers. Its protocols are
structural, so nothing here imports the package: `maite.tasks.evaluate` takes the objects as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lowcurve import evaluation
from lowcurve.data import Examples, as_examples
from lowcurve.data.coercion import Data
from lowcurve.data.examples import as_pixels
from lowcurve.errors import InputError
from lowcurve.network_calls import call, input_like
from lowcurve.results import proportion
from lowcurve.types import Measure

Metadata = Mapping[str, Any]
Batch = tuple[Sequence[Any], Sequence[Any], Sequence[Metadata]]
SMALLEST = float(np.finfo(np.float32).tiny)


class MaiteModel:
    """A network as a model of MAITE: images to probabilities of the classes.

    Args:
        model: Network in eval mode, pixels in [0, 1] -> logits.
        name: Its name in results.
        classes: Names of the classes.

    Attributes:
        metadata: The name as "id", and "index2label" if the classes have names.

    Example:
        >>> model = MaiteModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), "linear", ("a", "b", "c"))
        >>> [probabilities.shape for probabilities in model([np.zeros((1, 2, 2)), np.ones((1, 2, 2))])]
        [(3,), (3,)]
    """

    def __init__(self, model: nn.Module, name: str, classes: Sequence[str] = ()) -> None:
        self.model = model
        self.metadata = _metadata(name, classes)

    def __call__(self, batch: Sequence[Any], /) -> list[np.ndarray]:
        """Return the probabilities of the classes for each image.

        Args:
            batch: Images of shape (channels, height, width), uint8 or in [0, 1].
        """
        with torch.no_grad():
            logits = call(self.model, _pixels(batch).to(input_like(self.model)))
        return list(logits.softmax(1).cpu().numpy())


class MaiteDataset:
    """Labeled images as a data set of MAITE, item by item and field by field.

    Args:
        images: Images with labels; see `as_examples`.
        name: The name in results.

    Attributes:
        metadata: The name as "id", and "index2label", the names of the classes.

    Example:
        >>> data = MaiteDataset(Examples(torch.zeros(2, 1, 2, 2), torch.tensor([1, 0]), ("a", "b")), "zeros")
        >>> image, target, about = data[0]
        >>> image.shape, target.tolist(), about, data.metadata["index2label"]
        ((1, 2, 2), [0.0, 1.0], {'id': 0}, {0: 'a', 1: 'b'})
    """

    def __init__(self, images: Data, name: str) -> None:
        self.examples = as_examples(images)
        self.metadata = _metadata(name, self.examples.classes)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        return self.get_input(index), self.get_target(index), self.get_metadata(index)

    def get_input(self, index: int, /) -> np.ndarray:
        """Return the image of this number, shape (channels, height, width), float32 in [0, 1]."""
        return self.examples.pixels([self._row(index)])[0].numpy()

    def get_target(self, index: int, /) -> np.ndarray:
        """Return its label as a one-hot vector."""
        target = np.zeros(len(self.examples.classes), dtype=np.float32)
        target[int(self.examples.y[self._row(index)])] = 1
        return target

    def get_metadata(self, index: int, /) -> dict[str, int]:
        """Return its number as "id"."""
        return {"id": self._row(index)}

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")  # ends Python's iteration
        return index % len(self)


class MaiteAccuracy:
    """The share of correct predictions, with its 95 % interval, as a metric of MAITE.

    On images that an attack has changed (`MaiteAttack`) it is the accuracy after that attack.

    Example:
        >>> metric = MaiteAccuracy()
        >>> metric.update([[0.2, 0.8], [0.9, 0.1]], [[0, 1], [0, 1]], [{"id": 0}, {"id": 1}])
        >>> metric.compute()["accuracy"], metric.compute()["count"]
        (0.5, 2)
    """

    def __init__(self) -> None:
        self.metadata = _metadata("accuracy")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self.right, self.count = 0, 0

    def update(self, predictions: Sequence[Any], targets: Sequence[Any], metadata: Sequence[Metadata], /) -> None:  # noqa: ARG002
        """Count the correct ones of a batch.

        Args:
            predictions: Probabilities or logits of each image.
            targets: One-hot labels.
            metadata: Not used.
        """
        found, labels = (np.stack([_array(one) for one in many]) for many in (predictions, targets))
        self.right += int((found.argmax(1) == labels.argmax(1)).sum())
        self.count += len(labels)

    def compute(self) -> dict[str, Any]:
        """Return accuracy, the ends of its interval as low and high, and count.

        Raises:
            InputError: If there were no predictions.
        """
        if not self.count:
            _refuse_empty()
        share = proportion(self.right, self.count)
        return {"accuracy": share.value, "low": share.low, "high": share.high, "count": self.count}


class MaiteMeasure:
    """Mean and median of a network's measures, such as curvature, as a metric of MAITE.

    MAITE gives a metric predictions, not images. The images are looked up by the "id" in their metadata, and measured at the
    original pixels, whatever an augmentation made of them.

    Args:
        model: Network in eval mode.
        images: The same images as in the data set of the evaluation.
        measures: See `lowcurve.measure`.

    Example:
        >>> from lowcurve.geometry import gradient_norm
        >>> data = MaiteDataset(Examples(torch.rand(2, 1, 2, 2), torch.tensor([1, 0]), ("a", "b")), "random")
        >>> metric = MaiteMeasure(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), data, {"slope": gradient_norm})
        >>> metric.update([], [], [{"id": 0}, {"id": 1}])
        >>> sorted(metric.compute())
        ['slope, mean', 'slope, median']
    """

    def __init__(self, model: nn.Module, images: MaiteDataset, measures: Measure | Mapping[str, Measure]) -> None:
        self.model, self.images, self.measures = model, images, measures
        self.metadata = _metadata("measures")
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.seen: list[int] = []

    def update(self, predictions: Sequence[Any], targets: Sequence[Any], metadata: Sequence[Metadata], /) -> None:  # noqa: ARG002
        """Note the images of a batch.

        Args:
            predictions: Not used.
            targets: Not used.
            metadata: Mappings with the number of each image as "id".

        Raises:
            InputError: If an id is not the number of an image.
        """
        for about in metadata:
            number = about.get("id")
            if not isinstance(number, int) or not 0 <= number < len(self.images):
                hint = "evaluate on the MaiteDataset that the metric was made with"
                raise InputError(f"metadata with an id from 0 to {len(self.images) - 1}", repr(number), hint)
            self.seen.append(number)

    def compute(self) -> dict[str, float]:
        """Return mean and median of each column over the images.

        Raises:
            InputError: If there were no images.
        """
        if not self.seen:
            _refuse_empty()
        columns = evaluation.measure(self.model, self.images.examples.take(self.seen), self.measures, progress=False)
        found = {}
        for name, values in columns.items():
            found[f"{name}, mean"], found[f"{name}, median"] = float(np.mean(values)), float(np.median(values))
        return found


class MaiteAttack:
    """An attack as an augmentation of MAITE: it replaces the images of a batch by adversarial ones.

    Args:
        attack: An attack such as `lowcurve.PGD("linf", 8 / 255)`, or any function of (model, images, labels).
        model: Network in eval mode that it attacks.
        name: Its name in results.

    Example:
        >>> from lowcurve.attacks import FGSM
        >>> attack = MaiteAttack(FGSM("linf", 0.1), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval())
        >>> images, _, _ = attack(([np.full((1, 2, 2), 0.5)], [np.array([1.0, 0.0])], [{"id": 0}]))
        >>> np.abs(images[0] - 0.5).max().round(4)
        np.float32(0.1)
    """

    def __init__(self, attack: Callable[..., Tensor], model: nn.Module, name: str = "attack") -> None:
        self.attack, self.model = attack, model
        self.metadata = _metadata(name)

    def __call__(self, batch: Batch, /) -> Batch:
        """Return the batch with adversarial images, float32 in [0, 1].

        Args:
            batch: Images, one-hot labels and metadata.
        """
        images, targets, metadata = batch
        like = input_like(self.model)
        labels = torch.from_numpy(np.stack([_array(target) for target in targets]).argmax(1)).to(like.device)
        found = self.attack(self.model, _pixels(images).to(like), labels)
        return list(found.detach().cpu().float().numpy()), targets, metadata


class FromMaiteModel(nn.Module):
    """A model of MAITE as a network: pixels in [0, 1] -> logits.

    Its gradients exist if the model computes with torch from the tensors that it gets. Otherwise attacks that only ask for
    outputs, such as `Square`, work, and those that need gradients say that there are none.

    Args:
        model: The model.
        outputs: Whether it returns "logits" or "probabilities", whose logarithms are logits.

    Raises:
        InputError: If outputs is neither.

    Example:
        >>> inner = MaiteModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), "linear")
        >>> FromMaiteModel(inner, outputs="probabilities")(torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: Any, outputs: Literal["logits", "probabilities"] = "logits") -> None:
        super().__init__()
        if outputs not in ("logits", "probabilities"):
            raise InputError('outputs of "logits" or "probabilities"', repr(outputs), 'write outputs="logits"')
        self.inner, self.outputs = model, outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch, shape (batch, classes)."""
        found = [one if isinstance(one, Tensor) else torch.from_numpy(_array(one)) for one in self.inner(list(x))]
        values = torch.stack(found).to(x)
        return values.clamp_min(SMALLEST).log() if self.outputs == "probabilities" else values


def from_maite_dataset(dataset: Any) -> Examples:
    """Return a data set of MAITE as `Examples`.

    Args:
        dataset: The data set: images of one shape, uint8 or in [0, 1], with one-hot labels. Names of classes are taken from
            "index2label" in its metadata.

    Raises:
        InputError: If images or labels are not of this form.

    Example:
        >>> data = MaiteDataset(Examples(torch.zeros(2, 1, 2, 2), torch.tensor([1, 0]), ("a", "b")), "zeros")
        >>> from_maite_dataset(data).y.tolist(), from_maite_dataset(data).classes
        ([1, 0], ('a', 'b'))
    """
    names = getattr(dataset, "metadata", {}).get("index2label") or {}
    classes = tuple(str(names.get(k, k)) for k in range(max(names) + 1)) if names else None
    return as_examples(_Pairs(dataset), classes=classes)


class _Pairs(Dataset[tuple[Tensor, int]]):
    """Images and class numbers of a data set of MAITE."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target, _ = self.dataset[index]
        return torch.from_numpy(np.array(_array(image))), int(_array(target).argmax())


def _metadata(name: str, classes: Sequence[str] = ()) -> dict[str, Any]:
    return {"id": name, **({"index2label": dict(enumerate(classes))} if classes else {})}


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _pixels(images: Sequence[Any]) -> Tensor:
    """Return images as one tensor of pixels in [0, 1]."""
    return as_pixels(torch.from_numpy(np.stack([_array(image) for image in images])), torch.float32)


def _refuse_empty() -> NoReturn:
    raise InputError("at least one batch before compute", "none", "call update first")
