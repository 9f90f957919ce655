"""A Trainer of transformers with penalties, and callbacks that measure and attack the network at each evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.errors import InputError
from lowcurve.evaluation import attack, measure
from lowcurve.evaluation.arguments import require_attack
from lowcurve.geometry import Curvature
from lowcurve.integrations.loops import (
    STATISTICS,
    Batches,
    require_statistics,
    summarize_columns,
    summarize_robustness,
    without_autocast,
)
from lowcurve.libraries import base_class, require_library
from lowcurve.losses import cross_entropy
from lowcurve.models.modes import set_training
from lowcurve.penalties import Penalty
from lowcurve.training import Objective, Term, regularized
from lowcurve.types import AttackFunction, Inputs, Labels, Logits, Loss, Measure, PerExample

INSTALL = "transformers accelerate"
Trainer: Any = base_class("Trainer", "transformers", install=INSTALL)
TrainerCallback: Any = base_class("TrainerCallback", "transformers", install=INSTALL)


class RegularizedTrainer(Trainer):
    """`transformers.Trainer` for image classifiers, whose training loss has penalties; see `training.regularized`.

    The loss is that of the network itself: cross-entropy, with `label_smoothing_factor` if it is set, for several labels the
    mean binary cross-entropy, for a single output the squared error. Its logs have "loss" with the penalties, and the mean
    of each part by name. The loss of evaluations has no penalties.

    bf16 and fp16 (penalties leave autocast), gradient accumulation, clipping, gradient checkpointing without reentrance,
    DistributedDataParallel and `torch_compile` (penalties run the network as it was before) work. FSDP and ZeRO stage 3 are
    refused. For a Trainer of your own write `class Mine(RegularizedTrainer, YourTrainer)`.

    Args:
        *args: Those of `Trainer`.
        penalties: Penalties by name, each with its weight as a `Term`, or all with `weight`.
        weight: Weight of the penalties, except for those that come as a `Term`.
        loss: Loss of logits and labels, one number per example, instead of the network's own.
        objective: All of this as an `Objective`, with attacks, schedules over `max_steps` and adaptive weights.
        mean: Means that the data's normalization subtracts, one per channel. Penalties and attacks then see pixels in
            [0, 1]. Default: lengths count in the units of the network's inputs.
        std: Standard deviations that belong to `mean`.
        **options: Those of `Trainer`.

    Raises:
        InputError: If transformers is missing, or an option is wrong.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        penalties: Mapping[str, Penalty | Term] | None = None,
        weight: float | None = None,
        loss: Loss | None = None,
        objective: Objective | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        if options.get("compute_loss_func") is not None:
            raise InputError("a loss with one number per example", "compute_loss_func", "write loss= instead")
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = False  # the Trainer divides the mean loss by the number of accumulated batches
        self._penalties, self._weight, self._loss, self._objective = dict(penalties or {}), weight, loss, objective
        self._batches = Batches(mean, std)
        self._network: _Network | None = None
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._calls = self._logged = 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss with its penalties in training, and the network's own loss otherwise."""
        if not model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self._network is None or self._network.model is not model:
            self._network = _Network(model, self._batches)
        x, y = self._network.split(dict(inputs))
        settings: dict[str, Any] = {"objective": self._objective}
        if self._objective is None:
            settings = {"loss": self._loss or self._own_loss(y), "weight": self._weight, **self._penalties}
        step, accumulated = self.state.global_step, self.args.gradient_accumulation_steps
        progress = min(1.0, step / max(1, self.state.max_steps))
        number = step * accumulated + self._calls % accumulated  # a resumed training goes on from here
        with float32_forward(model), self.accelerator.autocast():
            loss, logs = regularized(self._network, x, y, step=number, progress=progress, **settings)
        self._calls += 1
        for name, value in logs.items():
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = total + value, count + 1
        if self._objective is not None:
            means = {name: self.accelerator.reduce(value, "mean") for name, value in logs.items()}
            self._objective = self._objective.update(means, step=number)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the means of all parts over the steps since the last time."""
        if "loss" in logs and self._calls > self._logged:
            self._logged = self._calls
            for name, (total, count) in self._sums.items():
                key = "plain_loss" if name == "loss" else name
                logs[key] = float(self.accelerator.reduce(total, "mean")) / count
            self._sums.clear()
        super().log(logs, *args, **options)

    def _own_loss(self, y: Tensor) -> Loss:
        """Return the loss that the network computes itself, one number per example."""
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        kind = getattr(config, "problem_type", None)
        if kind == "regression" or (kind is None and getattr(config, "num_labels", 2) == 1):
            return squared_error
        if kind == "multi_label_classification" or (kind is None and y.is_floating_point()):
            return binary_cross_entropy
        smoothing = float(self.args.label_smoothing_factor)
        return nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing) if smoothing else cross_entropy


class _Network(nn.Module):
    """A network of transformers as a function of pixels: normalizes them, adds the other inputs, returns the logits."""

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        super().__init__()
        self.model, self.normalization, self.batches = model, batches.normalization, batches
        self.normalization.to(next(model.parameters()).device)
        self.name, self.others = "pixel_values", dict[str, Any]()

    def split(self, inputs: dict[str, Any]) -> tuple[Inputs, Labels]:
        """Return pixels and labels of a batch, and keep its other inputs."""
        if "labels" not in inputs or self.name not in inputs:
            received = ", ".join(inputs) or "an empty batch"
            raise InputError("batches with pixel_values and labels", received, "rename them in data_collator")
        x, y = inputs.pop(self.name), inputs.pop("labels")
        self.others = inputs
        return self.batches.pixels(x) if self.batches.mean is not None else x, y

    def forward(self, x: Inputs) -> Logits:
        """Return the logits."""
        output = self.model(**{self.name: self.normalization(x)}, **self.others)
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            raise InputError("logits in the network's output", type(output).__name__, "return an object with .logits")
        return logits


def squared_error(logits: Logits, y: Labels) -> PerExample:
    """Return the squared error of each example, averaged over its outputs, as networks of transformers have it.

    Args:
        logits: Shape (batch, outputs).
        y: Targets, shape (batch,) or (batch, outputs).
    """
    return (logits - y.to(logits).reshape(logits.shape)).square().mean(1)


def binary_cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """Return the mean binary cross-entropy of each example's labels, as networks of transformers have it.

    Args:
        logits: Shape (batch, classes).
        y: Labels in [0, 1], shape (batch, classes).
    """
    return F.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="none").mean(1)


@contextmanager
def float32_forward(model: nn.Module) -> Iterator[None]:
    """Take the autocast out of the forward methods into which accelerate has put it, inside the block.

    Args:
        model: A network that accelerate has prepared, or any other.
    """
    before: list[tuple[dict[str, Any], Any]] = []
    for module in model.modules():
        own = vars(module)
        if "_original_forward" in own and "forward" in own:
            before.append((own, own["forward"]))
            own["forward"] = own["_original_forward"]
    try:
        yield
    finally:
        for own, forward in before:
            own["forward"] = forward


class _EvaluationCallback(TrainerCallback):
    """Evaluates the network on the first images at each evaluation, and logs the numbers.

    Args:
        trainer: The Trainer.
        images: Number of images, over all processes.
        batches: Reads the batches.
        evaluate: Function from network, images and labels to columns with one number per image.
        summarize: Function from the columns of all images to the numbers to log.
    """

    def __init__(
        self,
        trainer: Any,
        images: int,
        batches: Batches,
        evaluate: Callable[[nn.Module, Inputs, Labels], dict[str, np.ndarray]],
        summarize: Callable[[Mapping[str, np.ndarray]], dict[str, float]],
    ) -> None:
        if images < 1:
            raise InputError("at least one image", images, "write images=256")
        self._trainer, self._images, self._batches = trainer, images, batches
        self._evaluate, self._summarize = evaluate, summarize

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **options: Any) -> None:  # noqa: ARG002
        """Add the numbers to those of the evaluation, and log them."""
        model, loader = options["model"], options["eval_dataloader"]
        accelerator = self._trainer.accelerator
        parts: list[dict[str, np.ndarray]] = []
        left = -(-self._images // accelerator.num_processes)
        classifier = self._batches.wrap_network(accelerator.unwrap_model(model))
        with ExitStack() as contexts:
            contexts.enter_context(set_training(classifier, training=False))
            contexts.enter_context(float32_forward(classifier))
            contexts.enter_context(without_autocast(accelerator.device))
            for batch in loader:
                x, y = self._batches(batch)
                parts.append(self._evaluate(classifier, x[:left], y[:left]))
                left -= min(left, len(x))
                if not left:
                    break
        gathered = require_library("accelerate.utils", install="accelerate").gather_object(parts)
        names = gathered[0] if gathered else {}
        found = self._summarize({name: np.concatenate([part[name] for part in gathered]) for name in names})
        values = {f"eval_{name}": value for name, value in found.items()}
        if metrics is not None:
            metrics.update(values)
        self._trainer.log(dict(values))


class CurvatureCallback(_EvaluationCallback):
    """Measure the first images of the evaluation data at each evaluation, over all processes.

    The numbers are logged as eval_normalized_curvature/median and so on. `metric_for_best_model` may use the names.

    Args:
        trainer: The Trainer: `trainer.add_callback(CurvatureCallback(trainer))`.
        measures: A measure of `lowcurve.measure`, or several. Default: `Curvature()`.
        statistics: Statistics of each column: "mean", "median", "low" (10 %) and "high" (90 %).
        loss: Loss whose geometry is measured.
        images: Number of images, over all processes.
        mean: Means that the data's normalization subtracts, one per channel. Default: the data are pixels in [0, 1].
        std: Standard deviations that belong to `mean`.
        read: Function from a batch to images and labels. Default: "pixel_values" and "labels".

    Raises:
        InputError: If transformers is missing, or an option is out of range.

    Cost: that of the measures at `images` images, once an evaluation.
    """

    def __init__(
        self,
        trainer: Any,
        measures: Measure | Sequence[Measure] | Mapping[str, Measure] | None = None,
        *,
        statistics: Sequence[str] = STATISTICS,
        loss: Loss = cross_entropy,
        images: int = 256,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        read: Callable[[Any], tuple[Tensor, Labels]] | None = None,
    ) -> None:
        require_statistics(statistics)

        def evaluate(model: nn.Module, x: Inputs, y: Labels) -> dict[str, np.ndarray]:
            return dict(measure(model, x, y, measures or Curvature(), loss=loss, progress=False))

        def summarize(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
            return summarize_columns(columns, statistics)

        super().__init__(trainer, images, Batches(mean, std, read), evaluate, summarize)


class RobustAccuracyCallback(_EvaluationCallback):
    """Attack the first images of the evaluation data at each evaluation, over all processes.

    The numbers are logged as eval_robust_accuracy, with its 95 % interval as /low and /high, and eval_clean_accuracy.

    Args:
        trainer: The Trainer.
        method: An attack or a suite, in pixel units, such as `lowcurve.PGD("linf", 8 / 255)`.
        seed: Seed of the attack's random numbers.
        images: Number of images, over all processes.
        mean: As in `CurvatureCallback`.
        std: As in `CurvatureCallback`.
        read: As in `CurvatureCallback`.

    Raises:
        InputError: If transformers is missing, or an option is out of range.

    Cost: that of the attack at `images` images, once an evaluation.
    """

    def __init__(
        self,
        trainer: Any,
        method: AttackFunction,
        *,
        seed: int = 0,
        images: int = 256,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        read: Callable[[Any], tuple[Tensor, Labels]] | None = None,
    ) -> None:
        method = require_attack(method)

        def evaluate(model: nn.Module, x: Inputs, y: Labels) -> dict[str, np.ndarray]:
            result = attack(model, x, y, method, seed=seed, progress=False, keep_inputs=False)
            return {name: getattr(result, name) for name in ("clean", "robust", "undefined")}

        super().__init__(trainer, images, Batches(mean, std, read), evaluate, _summarize_attack)


def _summarize_attack(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    clean, robust, undefined = (int(columns[name].sum()) for name in ("clean", "robust", "undefined"))
    return summarize_robustness(clean, robust, undefined, len(columns["robust"]))
