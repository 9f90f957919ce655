"""The study: train each network, measure its geometry, attack it. One step a network, each kept as soon as it is done."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.data import DataSet, Examples, load
from lowcurve.errors import InputError
from lowcurve.models import ConvertedNetwork, Factory, Network, Source
from lowcurve.models.modes import set_training
from lowcurve.results import Result, describe
from lowcurve.study.adversarial_set import adversarial_set, mixed
from lowcurve.study.comparison import LEVELS, in_reading_order, training_results
from lowcurve.study.geometry_results import curvature_results
from lowcurve.study.methods import METHODS, method_of, objective_of
from lowcurve.study.report_figures import drawn
from lowcurve.study.robustness_results import attack_results, transfer_results
from lowcurve.study.settings import Study
from lowcurve.study.subject import processes
from lowcurve.training import Checkpoint, Objective, Optimization, fabric, fit
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

    def save_network(self, name: str, source: Source | ConvertedNetwork, model: nn.Module, key: str = "") -> None: ...

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
    fabric(study.hardware)
    if not training:
        return
    for optimization in (study.training, study.fine_tuning):
        if optimization.augmentation.active and len(data.shape) != 3:
            raise InputError("images to augment", f"inputs of shape {data.shape}", "leave the augmentation out")
    _, std = data.statistics()
    for name in needed(study):
        objective_of(name, study, std)
    for source in {source_of(study, data, name): name for name in needed(study)}:
        try_network(source.build(study.seed), data)


def try_network(model: nn.Module, data: DataSet) -> None:
    """Refuse a network that cannot take the data's inputs or has no logit for some of its classes."""
    hint = "give the --data that the network was made for"
    few = data.test.take(slice(2))
    evaluation.require_finite(model)
    try:
        with set_training(model, training=False):
            logits = evaluation.logits_of(model, few.pixels(slice(None)), few.y)
    except InputError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"a network for inputs of shape {data.shape}", str(error).splitlines()[0], hint) from None
    if logits.shape[1] < len(data.classes):
        raise InputError(f"a network for {len(data.classes)} classes", logits.shape[1], hint)


def train(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """Make every network of `study.methods`, and those that they need, which the keeper does not have yet as these settings
    would make it. Several processes may share the work; one of them keeps it."""
    keeper = _shared(study, keeper)
    _, std = data.statistics()
    for name in needed(study):
        source = source_of(study, data, name)
        method, before, start = method_of(name, study), None, ""
        if method.before:
            base = GIVEN if study.weights is not None and method.before == "standard" else method.before
            before, start = keeper.load_network(base), keeper.made_by(base) or ""
        optimization = optimization_of(name, study)
        attack, extra = study.validation_attack, study.others.per_class if name == "adversarial-set" else 0
        named = (objective_of(name, study, std), optimization, attack, study.precision, study.compile, extra)
        key = describe((source, study.data, study.limits, study.seed, *named, start))
        if keeper.made_by(name) == key:
            log.info("%s: already trained", name)
            continue
        model = before if method.starts and before is not None else source.build(study.seed)
        examples = data.train
        if extra and before is not None:
            moved = adversarial_set(before, examples, per_class=extra, seed=study.seed, progress=progress)
            log.info("%s: %d adversarial images beside %d clean ones", name, len(moved), len(examples))
            examples = mixed(examples, moved)
        work = _Work(name, objective_of(name, study, std, before), optimization, examples, key)
        _train_one(study, work, model, data, keeper, progress)
        keeper.save_network(name, source, model, key)
        keeper.checkpoint(name, key).remove()
        processes(study.hardware).barrier()


def optimization_of(name: str, study: Study) -> Optimization:
    """How the method of that name is trained."""
    if method_of(name, study).starts:
        return study.fine_tuning
    return replace(study.training, curvature_decay=study.low_curvature.decay) if name == "minimal" else study.training


def needed(study: Study) -> list[str]:
    """The methods of the study and those whose networks they start from or learn from, each after what it needs."""
    wanted = {*study.methods, *(method_of(name, study).before for name in study.methods)}
    if study.weights is not None:
        wanted.discard("standard")
    return [name for name in METHODS if name in wanted]


def keep_given(study: Study, keeper: Keeper, given: nn.Module) -> None:
    """The user's own network, kept under the name `given`."""
    source = Factory(study.model or "", study.mean, study.std)
    keeper.save_network(GIVEN, source, given, describe((source, study.weights, "given")))


def source_of(study: Study, data: DataSet, name: str = "standard") -> Source | ConvertedNetwork:
    """How a new network of this study is built for the method of that name."""
    conversion = METHODS[name].conversion
    if conversion is not None:
        plain = source_of(study, data)
        assert not isinstance(plain, ConvertedNetwork)
        return ConvertedNetwork(plain, conversion(study), data.shape)
    if study.model is not None:
        return Factory(study.model, study.mean, study.std)
    mean, std = data.statistics()
    floor = 1e-3  # a channel that is the same everywhere would divide by zero
    deviation = tuple(max(s, floor) for s in std)
    return Network(study.network, data.shape, len(data.classes), mean, deviation, study.nonlinearity, study.width)


def measure(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """The geometry of every network that is kept: part `curvature-NAME`; pictures of all: part `drawn`."""
    keeper = _shared(study, keeper)
    settings = (study.evaluation, study.radius, study.norm)
    _for_each(study, "curvature", keeper, settings, data, progress, curvature_results)
    if study.evaluation.drawn:
        _together(study, "drawn", keeper, settings, data, progress, drawn)


def attack(study: Study, data: DataSet, keeper: Keeper, progress: Progress[int] = silent) -> None:
    """The robustness of every network that is kept: part `attack-NAME`."""
    keeper = _shared(study, keeper)

    def results_of(
        study: Study, data: DataSet, name: str, model: nn.Module, progress: Progress[int]
    ) -> dict[str, Result]:
        return attack_results(study, data, name, model, progress, keeper)

    settings = (study.evaluation, study.suite, study.radius, study.norm)
    _for_each(study, "attack", keeper, settings, data, progress, results_of)
    if len(keeper.networks()) > 1:
        _together(study, "transfer", keeper, settings, data, progress, transfer_results)
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
        model = keeper.load_network(name).to(processes(study.hardware).device)
        keeper.save_part(f"{step}-{name}", key, results_of(study, data, name, model, progress))
        processes(study.hardware).barrier()
        log.info("%s: %s done", name, step)


def _together(
    study: Study, step: str, keeper: Keeper, settings: Any, data: DataSet, progress: Progress[int], results_of: Any
) -> None:
    names = in_reading_order(keeper.networks())
    key = describe((step, study.data, study.limits, study.seed, settings, [keeper.made_by(n) for n in names]))
    if keeper.load_part(step, key) is None:
        models = {name: keeper.load_network(name).to(processes(study.hardware).device) for name in names}
        keeper.save_part(step, key, results_of(study, data, models, progress))


@dataclass(frozen=True)
class _Work:
    """One training, of that name and key."""

    name: str
    objective: Objective
    optimization: Optimization
    examples: Examples
    key: str


def _shared(study: Study, keeper: Keeper) -> Keeper:
    """The keeper, once all processes run; those that do not lead read from it and keep nothing."""
    return keeper if processes(study.hardware).is_global_zero else _Reader(keeper)


class _Reader:
    """The keeper of a process that keeps nothing: another one does."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def __getattr__(self, name: str) -> Any:
        if name.startswith("save"):
            return lambda *_: None
        return getattr(self.keeper, name)

    def loggers(self, name: str) -> list[Any]:  # noqa: ARG002 (the signature of Keeper)
        """None."""
        return []

    def ledger(self, name: str, key: str) -> Any:  # noqa: ARG002 (the signature of Keeper)
        """One that is forgotten."""
        return _Forgotten()


class _Forgotten(dict[str, Any]):
    def remove(self) -> None:
        """There is nothing to forget."""


def _train_one(
    study: Study, work: _Work, model: nn.Module, data: DataSet, keeper: Keeper, progress: Progress[int]
) -> None:
    made = fabric(study.hardware, loggers=keeper.loggers(work.name))
    made.launch()
    history = fit(
        model,
        work.objective,
        work.examples,
        work.optimization,
        seed=study.seed,
        validation=data.validation,
        validation_attack=study.validation_attack,
        fabric=made,
        checkpoint=keeper.checkpoint(work.name, work.key),
        progress=progress,
        heading=f"training {work.name}",
    )
    last = history[-1]
    log.info("%s: %s", work.name, ", ".join(f"{k} {v:.4g}" for k, v in last.items() if not k.startswith(LEVELS)))
    keeper.save_part(f"training-{work.name}", work.key, training_results(study, work.name, history))
