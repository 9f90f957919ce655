"""Callbacks of Lightning, which measure and attack the network in the user's own `fit`, `validate` and `test`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.integrations.loops import STATISTICS, Batches
from lowcurve.integrations.torchmetrics import Measures, RobustAccuracy
from lowcurve.libraries import base_class
from lowcurve.losses import cross_entropy
from lowcurve.types import AttackFunction, Labels, Loss, Measure

Callback: Any = base_class("Callback", "lightning.pytorch", "pytorch_lightning", install="lightning")
TRIED = 2
"""Images that the sanity check before a training tries."""


class _EvaluationCallback(Callback):
    """Updates a metric with the first images of the first loader, and logs it at the end of the epoch.

    Args:
        metric: Its `update` takes (model, images, labels).
        images: Number of images, over all processes.
        every_n_epochs: Epochs of `fit` between two evaluations.
        network: Name of the submodule that returns logits. Default: the LightningModule itself.
        mean: Means of the data's normalization. See `Batches`.
        std: Its standard deviations.
        read: Function from a batch to images and labels. See `Batches`.
    """

    def __init__(
        self,
        metric: Any,
        images: int,
        every_n_epochs: int,
        network: str,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        read: Callable[[Any], tuple[Tensor, Labels]] | None,
    ) -> None:
        if min(images, every_n_epochs) < 1:
            hint = "write images=256, every_n_epochs=1"
            raise InputError("at least one image and one epoch", min(images, every_n_epochs), hint)
        self._metric, self._images, self._every, self._network = metric, images, every_n_epochs, network
        self._batches = Batches(mean, std, read)
        self._left = 0
        self._classifier: nn.Module | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002 (Lightning names them)
        """Find the network."""
        try:
            network = pl_module.get_submodule(self._network)
        except AttributeError:
            hint = 'write network="model", as the LightningModule names it'
            raise InputError("the name of a submodule as network", repr(self._network), hint) from None
        self._classifier = self._batches.wrap_network(network)

    def _start(self, trainer: Any, pl_module: Any) -> None:
        """Start an epoch."""
        self._metric.reset()
        self._metric.to(pl_module.device)
        share = TRIED if trainer.sanity_checking else -(-self._images // trainer.world_size)
        self._left = share if self._is_due(trainer) else 0

    def _see(self, batch: Any, loader: int) -> None:
        """Use what is needed of a batch."""
        if self._left and loader == 0:
            x, y = self._batches(batch)
            x, y = x[: self._left], y[: self._left]
            self._left -= len(x)
            self._metric.update(self._classifier, x, y)

    def _finish(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Log the numbers of an epoch. All processes take part."""
        if self._is_due(trainer) and not trainer.sanity_checking:
            values = {f"{stage}/{name}": value for name, value in self._metric.compute().items()}
            pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=trainer.world_size > 1)

    def _is_due(self, trainer: Any) -> bool:
        return bool(trainer.state.fn != "fit" or trainer.current_epoch % self._every == 0)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start an epoch."""
        self._start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Any,  # noqa: ARG002 (Lightning names them)
        pl_module: Any,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluate the network on a batch."""
        self._see(batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the numbers as val/..."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start an epoch."""
        self._start(trainer, pl_module)

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the numbers as test/..."""
        self._finish(trainer, pl_module, "test")


class CurvatureCallback(_EvaluationCallback):
    """Measure the first validation or test images in each epoch, and log statistics over all processes.

    They are logged as val/normalized_curvature/median and so on; `ModelCheckpoint(monitor=...)` may use the names. Lightning's
    inference mode and autocast are left meanwhile. The sanity check tries two images.

    Args:
        measures: As in `Measures`. Default: `Curvature()`.
        statistics: As in `Measures`.
        loss: Loss whose geometry is measured.
        images: Number of images, over all processes.
        every_n_epochs: Epochs of `fit` between two evaluations.
        network: Name of the submodule that returns logits. Default: the LightningModule itself.
        mean: Means that the data's normalization subtracts, one per channel. Default: the data are pixels in [0, 1].
        std: Standard deviations that belong to `mean`.
        read: Function from a batch to images and labels. By default a batch is a pair, or a mapping with "image" or
            "pixel_values", and "label" or "labels".

    Raises:
        InputError: If Lightning is missing, or an option is out of range.

    Cost: that of the measures at `images` images, once an evaluation.
    """

    def __init__(
        self,
        measures: Measure | Sequence[Measure] | Mapping[str, Measure] | None = None,
        *,
        statistics: Sequence[str] = STATISTICS,
        loss: Loss = cross_entropy,
        images: int = 256,
        every_n_epochs: int = 1,
        network: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        read: Callable[[Any], tuple[Tensor, Labels]] | None = None,
    ) -> None:
        metric = Measures(measures, statistics=statistics, loss=loss)
        super().__init__(metric, images, every_n_epochs, network, mean, std, read)


class RobustAccuracyCallback(_EvaluationCallback):
    """Attack the first validation or test images in each epoch, and log the robust accuracy over all processes.

    The names are val/robust_accuracy, with the 95 % interval as /low and /high, and val/clean_accuracy on the same images.
    A robust accuracy is an upper bound: judge the final network by `lowcurve.audit`.

    Args:
        method: An attack or a suite, in pixel units, such as `lowcurve.PGD("linf", 8 / 255)`.
        seed: Seed of the attack's random numbers.
        images: Number of images, over all processes.
        every_n_epochs: Epochs of `fit` between two evaluations.
        network: As in `CurvatureCallback`.
        mean: As in `CurvatureCallback`.
        std: As in `CurvatureCallback`.
        read: As in `CurvatureCallback`.

    Raises:
        InputError: If Lightning is missing, or an option is out of range.

    Cost: that of the attack at `images` images, once an evaluation.
    """

    def __init__(
        self,
        method: AttackFunction,
        *,
        seed: int = 0,
        images: int = 256,
        every_n_epochs: int = 1,
        network: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        read: Callable[[Any], tuple[Tensor, Labels]] | None = None,
    ) -> None:
        super().__init__(RobustAccuracy(method, seed=seed), images, every_n_epochs, network, mean, std, read)
