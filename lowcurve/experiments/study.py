"""The study: train each network, measure its geometry, attack it. One step a network, each kept as soon as it is done."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.data import DataSet, load
from lowcurve.errors import InputError
from lowcurve.experiments.geometry import curvature_results
from lowcurve.experiments.pictures import in_reading_order, training_results
from lowcurve.experiments.robustness import attack_results, transfer_results
from lowcurve.experiments.settings import METHODS, Study
from lowcurve.models import Factory, Network
from lowcurve.models.modes import mode
from lowcurve.results import Result, describe
from lowcurve.training import Checkpoint, Hardware, Objective, Optimization, fabric, fit
from lowcurve.types import Progress, silent

log = logging.getLogger("lowcurve")
GIVEN = "given"


class Kept(Checkpoint, Protocol):
    """A checkpoint that can be forgotten once its training is done."""

    def remove(self) -> None: ...


class Keeper(Protocol):
    """Where a study keeps what it has finished; `store.Run` is one."""

    def networks(self) -> tuple[str, ...]: ...

    def made_by(self, name: str) -> str | None: ...

    def load_network(self, name: str) -> nn.Module: ...

    def save_network(self, name: str, source: Network | Factory, model: nn.Module, key: str = "") -> None: ...

    def load_part(self, name: str, key: str) -> dict[str, Result] | None: ...

    def save_part(self, name: str, key: str, results: Mapping[str, Result]) -> None: ...

    def checkpoint(self, name: str, key: str) -> Kept: ...

    def loggers(self, name: str) -> list[Any]: ...

    def ledger(self, name: str, key: str) -> Any: ...

    def save_inputs(self, name: str, columns: Mapping[str, Tensor]) -> None: ...


def read(study: Study) -> DataSet:
    """The study's data."""
    return load(study.data, data_dir=study.data_dir, limits=study.limits, seed=study.seed)


def rehearse(study: Study, data: DataSet, *, training: bool) -> None:
    """Build everything once and train nothing, so that what cannot work is said before a run is begun."""
    fabric(Hardware(accelerator=study.accelerator, precision=study.precision))
    if not training:
        return
    for optimization in (study.training, study.fine_tuning):
        if optimization.augmentation.active and len(data.shape) != 3:
            raise InputError("images to augment", f"inputs of shape {data.shape}", "leave the augmentation out")
    _, std = data.statistics()
    for method in study.methods:
        study.objective(method, std)
    try_network(source_of(study, data).build(study.seed), data)


def try_network(model: nn.Module, data: DataSet) -> None:
    """Refuse a network that cannot take the data's inputs or has no logit for some of its classes."""
    mend = "give the --data that the network was made for"
    few = data.test.take(slice(2))
    evaluation.require_finite(model)
    try:
        with mode(model, training=False):
            logits = evaluation.logits_of(model, few.pixels(slice(None)), few.y)
    except InputError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"a network for inputs of shape {data.shape}", str(error).splitlines()[0], mend) from None
    if logits.shape[1] < len(data.classes):
        raise InputError(f"a network for {len(data.classes)} classes", logits.shape[1], mend)


def train(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """Make every network of `study.methods` that the keeper does not have yet as these settings would make it."""
    source = source_of(study, data)
    _, std = data.statistics()
    # CURE starts from the standard network, so that comes first, wherever it is needed; a given one takes its place.
    base = GIVEN if study.weights is not None else "standard"
    methods = [m for m in METHODS if m in study.methods or (m == "standard" and "CURE" in study.methods)]
    for method in methods:
        if method == "standard" and base == GIVEN:
            continue
        objective, optimization, start = study.objective(method, std), study.training, ""
        if method == "CURE":
            optimization, start = study.fine_tuning, keeper.made_by(base) or ""
        key = describe((source, study.data, study.limits, study.seed, objective, optimization, study.precision, start))
        if keeper.made_by(method) == key:
            log.info("%s: already trained", method)
            continue
        model = keeper.load_network(base) if method == "CURE" else source.build(study.seed)
        _train_one(study, method, model, objective, optimization, data, keeper, key, progress)
        keeper.save_network(method, source, model, key)
        keeper.checkpoint(method, key).remove()


def keep_given(study: Study, keeper: Keeper, given: nn.Module) -> None:
    """The user's own network, kept under the name `given`."""
    source = Factory(study.model or "")
    keeper.save_network(GIVEN, source, given, describe((source, study.weights, "given")))


def source_of(study: Study, data: DataSet) -> Network | Factory:
    """How a new network of this study is built."""
    if study.model is not None:
        return Factory(study.model)
    mean, std = data.statistics()
    floor = 1e-3  # a channel that is the same everywhere would divide by zero
    deviation = tuple(max(s, floor) for s in std)
    return Network(study.network, data.shape, len(data.classes), mean, deviation, study.nonlinearity, study.width)


def measure(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """The geometry of every network that is kept: part `curvature-NAME`."""
    settings = (study.evaluation, study.radius, study.norm)
    _for_each(study, "curvature", keeper, settings, data, progress, curvature_results)


def attack(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """The robustness of every network that is kept: part `attack-NAME`."""

    def results_of(
        study: Study, data: DataSet, name: str, model: nn.Module, progress: Progress[int]
    ) -> dict[str, Result]:
        return attack_results(study, data, name, model, progress, keeper)

    settings = (study.evaluation, study.suite, study.radius, study.norm)
    _for_each(study, "attack", keeper, settings, data, progress, results_of)
    names = in_reading_order(keeper.networks())
    key = describe(("transfer", study.data, study.limits, study.seed, settings, [keeper.made_by(n) for n in names]))
    if len(names) > 1 and keeper.load_part("transfer", key) is None:
        models = {name: keeper.load_network(name).to(_device(study)) for name in names}
        keeper.save_part("transfer", key, transfer_results(study, data, models, progress))
    for name in keeper.networks():
        keeper.ledger(name, "").remove()  # what it kept is in the part now


def _for_each(
    study: Study, step: str, keeper: Keeper, settings: Any, data: DataSet, progress: Progress[int], results_of: Any
) -> None:
    if not keeper.networks():
        raise InputError(
            "a run with at least one network", "none", "run lowcurve train first, or give --model and --weights"
        )
    for name in in_reading_order(keeper.networks()):
        key = describe((step, study.data, study.limits, study.seed, settings, keeper.made_by(name)))
        if keeper.load_part(f"{step}-{name}", key) is not None:
            log.info("%s: %s already done", name, step)
            continue
        model = keeper.load_network(name).to(_device(study))
        keeper.save_part(f"{step}-{name}", key, results_of(study, data, name, model, progress))
        log.info("%s: %s done", name, step)


def _train_one(
    study: Study,
    method: str,
    model: nn.Module,
    objective: Objective,
    optimization: Optimization,
    data: DataSet,
    keeper: Keeper,
    key: str,
    progress: Progress[int],
) -> None:
    made = fabric(Hardware(accelerator=study.accelerator, precision=study.precision), loggers=keeper.loggers(method))
    history = fit(
        model,
        objective,
        data.train,
        optimization,
        seed=study.seed,
        validation=data.validation,
        fabric=made,
        checkpoint=keeper.checkpoint(method, key),
        progress=progress,
        heading=f"training {method}",
    )
    last = history[-1]
    log.info("%s: %s", method, ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    keeper.save_part(f"training-{method}", key, training_results(study, method, history))


def _device(study: Study) -> torch.device:
    device: torch.device = fabric(Hardware(accelerator=study.accelerator)).device
    return device
