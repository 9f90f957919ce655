"""Measures of a network over a data set: one number per image, never reduced."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowcurve.analysis.chunks import in_chunks
from lowcurve.attacks.state import require_logits
from lowcurve.data.coercion import Data, as_source
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.data.streams import Own, Stream, first_of, parts_of
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import name_measures, require_batch_size, split_arguments
from lowcurve.evaluation.columns import Columns, share_of_true
from lowcurve.evaluation.independence import FEW, require_independent, warn_of_dependence
from lowcurve.evaluation.parts import Ledger, Piece, Shard, Share, evaluate_parts, open_ledger, part_size
from lowcurve.evaluation.sharing import Ticker
from lowcurve.losses import cross_entropy, loss_field, require_eval
from lowcurve.models.failing_layers import name_failing_layer
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call, gradients_enabled, input_like, require_module
from lowcurve.progress import choose_progress
from lowcurve.types import Loss, Measure, Progress

if TYPE_CHECKING:
    from lowcurve.results.statistics import Proportion

Measures = Measure | Sequence[Measure] | Mapping[str, Measure]


@gradients_enabled()
def measure(
    model: nn.Module,
    images: Data,
    labels: Labels | Measures | None = None,
    measures: Measures | None = None,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    fabric: Any = None,
    shard: Shard | None = None,
    ledger: Ledger | str | Path | None = None,
    progress: Progress[int] | bool | None = None,
    heading: str = "measuring",
) -> Columns:
    """Measure a network's loss at every image.

    Called as measure(model, images, labels, measures) or measure(model, data, measures).

    Args:
        model: Network in eval mode. It maps pixels in [0, 1] to logits.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        measures: A measure such as `Curvature()`, or several. Several are a list, or a mapping of names to measures. A
            measure with several columns names them itself.
        loss: Loss whose geometry is measured.
        batch_size: Images in a batch. Halved where memory does not suffice.
        fabric: Lightning Fabric whose processes share the images; each process returns all columns.
        shard: (number, shards) measures every so many-th image, from that number on; `join` puts the results together.
        ledger: Folder or mapping that stores finished parts for an interrupted call, another number of processes, or the
            shards of one whole.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        heading: Text of the progress bar.

    Returns:
        `Columns`: arrays with one entry per image, by name. A number that does not exist is NaN. The
        printed means and quantiles leave it out and say how many there are.

    Raises:
        InputError: If the model is in training mode, if its weights or logits are not finite, or if the labels do not fit
            the network. Also if the logits of an image are random or depend on the other images of its batch: the first 4
            images are tried.

    `analysis.hessians.record_backends()` around the call tells how Hessians were computed.

    Example:
        >>> from lowcurve.geometry import gradient_norm
        >>> model = nn.Linear(2, 2).eval()
        >>> measure(model, torch.rand(5, 2), [0, 0, 1, 1, 0], gradient_norm)["gradient norm"].shape
        (5,)
    """
    require_batch_size(batch_size)
    data, chosen = split_arguments(model, images, labels, measures)
    named = name_measures(chosen)
    require_eval(model)
    few = require_examples(model, data)
    require_independent(model, few)
    store = open_ledger(ledger, model, data, "measure", named, loss)
    bars, sizes = choose_progress(progress, fabric), dict.fromkeys(named, batch_size)

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        count = len(piece.rows)
        ticker = Ticker(bars, heading + piece.title, count * len(named))

        def ticking(numbers: Iterable[int], _: str) -> Iterator[int]:
            for number in numbers:
                yield number
                ticker.advance(1)

        columns: dict[str, Tensor] = {}
        for name, one in named.items():
            # A measure that needs a matrix per image limits the batch itself.
            size = min(sizes[name], getattr(one, "at_once", batch_size))
            part = _Part(model, piece.examples, name, one, loss)
            found = in_chunks(part, count, size, progress=ticking)
            lengths = [len(next(iter(values.values()))) for values in found]
            sizes[name] = min(sizes[name], *lengths[:-1], max(lengths))  # a halved size stays for the parts that follow
            columns |= {column: torch.cat([values[column] for values in found]) for column in found[0]}
        return columns

    in_memory = isinstance(data, Examples) and isinstance(data.x, Tensor) and store is None
    size = len(data) if in_memory else part_size(data, batch_size)  # type: ignore[arg-type]
    with frozen(model), name_failing_layer(model, few[:2]):
        columns = evaluate_parts(data, size, columns_of, Share(fabric, shard), store)
    found = Columns({column: values.numpy() for column, values in columns.items()})
    found.shard = shard
    return found


@dataclass(frozen=True)
class _Part:
    """One measure at some of the examples."""

    model: nn.Module
    examples: Examples
    name: str
    measure: Measure
    loss: Loss

    def __call__(self, part: slice) -> dict[str, Tensor]:
        x, y = on_device(self.model, self.examples, part)
        logits_of(self.model, x, y)
        result = self.measure(loss_field(self.model, y, self.loss), x)
        columns = dict(result) if isinstance(result, Mapping) else {self.name: result}
        return {column: values.detach().cpu() for column, values in columns.items()}


@gradients_enabled()
def correct(model: nn.Module, images: Data, labels: Labels | None = None, *, batch_size: int = 512) -> np.ndarray:
    """Return for each image whether the network classifies it as labeled.

    Args:
        model: Network from pixels in [0, 1] to logits. It is evaluated in eval mode and returned in its own mode.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        batch_size: Images in a batch.

    Raises:
        InputError: If weights or logits are not finite, or if the labels do not fit the network.

    Example:
        >>> correct(nn.Identity(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), [1, 1])
        array([ True, False])
    """
    require_batch_size(batch_size)
    require_module(model)
    data = as_source(images, labels)
    warn_of_dependence(model, require_examples(model, data))
    batches = (on_device(model, examples, slice(None)) for _, examples in parts_of(data, Own(), batch_size))
    with frozen(model):
        return torch.cat([logits_of(model, x, y).argmax(1) == y for x, y in batches]).cpu().numpy()


def accuracy(model: nn.Module, images: Data, labels: Labels | None = None, *, batch_size: int = 512) -> "Proportion":
    """Return the share of images that the network classifies as labeled, with its 95 % interval.

    The arguments and errors are those of `correct`.

    Args:
        model: Network from pixels in [0, 1] to logits. It is evaluated in eval mode and returned in its own mode.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        batch_size: Images in a batch.

    Example:
        >>> accuracy(nn.Identity(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), [1, 1])
        50.0% (95% CI 9.5-90.5%, 1 of 2)
    """
    return share_of_true(correct(model, images, labels, batch_size=batch_size))


def logits_of(model: nn.Module, x: Tensor, y: Tensor, *, finite: bool = True) -> Tensor:
    """Return the logits at x, or refuse them unless they have the shape (batch, classes), fit the labels and are finite."""
    with torch.no_grad():
        logits = call(model, x)
    require_logits(logits, y, finite=finite)
    return logits


def are_probabilities(logits: Tensor) -> bool:
    """Return whether what should be logits lies in [0, 1] and sums to 1 in every row.

    The logits 0 and z, which `wrap` makes of one output z, count too if z lies in [0, 1]: that is the sigmoid of a logit.

    Example:
        >>> are_probabilities(torch.tensor([[0.2, 0.8]])), are_probabilities(torch.tensor([[0.2, 0.9]]))
        (True, False)

    Reference: Croce and Hein 2020, AutoAttack's check of the output's range.
    """
    if logits.shape[1] == 2 and not bool(logits[:, 0].any()):
        logits = torch.stack([1 - logits[:, 1], logits[:, 1]], 1)
    near, sums = 1e-5, logits.sum(1)
    inside = float(logits.min()) > -near and float(logits.max()) < 1 + near
    return inside and float((sums - 1).abs().max()) < near


def require_finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinity among its weights, or with layers whose weights have no shape yet."""
    for name, weight in model.state_dict().items():
        if not isinstance(weight, Tensor):  # a quantized layer stores its precision there, too
            continue
        if is_lazy(weight):
            hint = "run the network once on a batch of the data before it is given"
            raise InputError("a network with all its weights", f"the lazy layer of {name!r}, which has none yet", hint)
        if weight.is_meta:
            raise InputError(
                "weights with values", f"{name!r} on the meta device", "load the weights: model.to_empty(...)"
            )
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            received, hint = f"NaN or infinity in {name!r}", "load weights of a training that converged"
            raise InputError("finite weights", received, hint)


def on_device(model: nn.Module, examples: Examples, rows: Any) -> tuple[Tensor, Tensor]:
    """Return pixels and labels of some examples on the model's device, the pixels in float32, or float64 for its networks."""
    like = input_like(model)
    return examples.pixels(rows).to(like), examples.y[rows].to(like.device)


def require_examples(model: nn.Module, data: Examples | Stream) -> Tensor:
    """Return the first images on the model's device. Refuse weights that are not finite, and data without examples."""
    require_finite(model)
    few = first_of(data, FEW)
    if not len(few):
        raise InputError("at least one example", "none", "give a data set that is not empty")
    return on_device(model, few, slice(None))[0]
