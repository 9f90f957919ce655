"""The steps of a study: train the networks, measure their geometry, attack them. Each result is saved once it is finished."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from lowcurve.data import DataSet, Examples, Resized, load
from lowcurve.errors import InputError
from lowcurve.models import ConvertedNetwork, Factory, Network, Source
from lowcurve.results import Result, describe
from lowcurve.store import EXAMPLES, Run, weights_digest
from lowcurve.store.loggers import require_loggers
from lowcurve.study.adversarial_set import adversarial_set, mix
from lowcurve.study.comparison import GIVEN, LEVELS, sort_networks, training_results
from lowcurve.study.geometry_results import curvature_results
from lowcurve.study.jobs import Job, list_jobs, previous_network, required_methods
from lowcurve.study.measured_network import launch_fabric
from lowcurve.study.methods import METHODS, method_of, objective_of
from lowcurve.study.optional import OptionalSteps, is_done
from lowcurve.study.rehearsal import rehearse_evaluation, rehearse_training
from lowcurve.study.report_figures import report_figures
from lowcurve.study.robustness_results import attack_results, transfer_results
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Optimization, fit, make_fabric
from lowcurve.training.hardware import is_one_cpu_process, require_precise_weights, weights_type
from lowcurve.types import Progress, silent

log = logging.getLogger("lowcurve")


def load_data(study: Study) -> DataSet:
    """Load the study's data set."""
    return load(
        study.data,
        data_dir=study.data_dir,
        limits=study.limits,
        seed=study.seed,
        first=study.evaluation.first,
        transform=None if study.resize is None else Resized(study.resize),
    )


def check_study(study: Study, data: DataSet, steps: Sequence[str]) -> None:
    """Build everything and try each computation on two images, so that errors come before a run directory is created.

    Args:
        study: Settings of the study.
        data: Its data set.
        steps: The steps that follow, of "train", "measure" and "attack".

    Raises:
        InputError: If the hardware, an objective or a network cannot work.
    """
    require_loggers(study.loggers)
    if "train" in steps or not is_one_cpu_process(study.hardware):
        make_fabric(study.hardware)
    if "train" not in steps:
        return
    for optimization in (study.training, study.fine_tuning):
        if optimization.augmentation.active and len(data.shape) != 3:
            raise InputError("images to augment", f"inputs of shape {data.shape}", "leave the augmentation out")
    _, std = data.statistics()
    built: dict[Source | ConvertedNetwork, nn.Module] = {}
    for name in required_methods(study):
        source = source_of(study, data, name)
        if source not in built:
            built[source] = source.build(study.seed)
            try_network(built[source], data, study, steps)
        optimization, objective = optimization_of(name, study), objective_of(name, study, std, built[source])
        require_precise_weights(weights_type(study.hardware), objective, optimization.optimizer)
        rehearse_training(built[source], objective, data.train.take(slice(min(2, optimization.batch_size))))


def try_network(model: nn.Module, data: DataSet, study: Study, steps: Sequence[str] = ()) -> None:
    """Run a network on two test examples, with a step of each computation that follows.

    Args:
        model: The network.
        data: Data set.
        study: Settings of the study.
        steps: The steps that follow, of "train", "measure" and "attack".

    Raises:
        InputError: If the network fails on the data's inputs, has weights that are not finite, or has too few classes.
    """
    classes = rehearse_evaluation(model, data.test.take(slice(2)), study, steps)
    if classes < len(data.classes):
        hint = "give the --data that the network was made for"
        raise InputError(f"a network for {len(data.classes)} classes", classes, hint)


def do_job(study: Study, data: DataSet, run: Run, job: Job, progress: Progress[int] = silent) -> None:
    """Do one job of the study, unless the run holds its results with the same settings already.

    Several processes may share the work; the first one writes.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run that holds the networks and the results.
        job: The job.
        progress: Progress display.
    """
    run = run if launch_fabric(study.hardware).is_global_zero else run.read_only()
    measured = (study.evaluation, study.radius, study.norm)
    attacked = (study.evaluation, study.suite, study.radius, study.norm)
    if job.step == "train":
        _train(study, data, run, job.network, progress)
    elif job.step == "measure":
        _evaluate(study, "curvature", run, measured, data, job.network, progress, curvature_results)
    elif job.step == "attack":
        _evaluate(study, "attack", run, attacked, data, job.network, progress, partial(attack_results, run=run))
        run.ledger(job.network, "").remove()  # its content is in the part now
    elif job.step == "draw":
        _evaluate_together(study, "drawn", run, measured, data, progress, report_figures)
    else:
        _evaluate_together(study, "transfer", run, attacked, data, progress, transfer_results)


def begin(study: Study, data: DataSet, run: Run, steps: Sequence[str]) -> list[Job]:
    """Note on which examples the steps are done, and return their jobs.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run that holds the networks.
        steps: The steps, of "train", "measure" and "attack".

    Raises:
        InputError: If there is no network to evaluate.
    """
    jobs = list_jobs(study, run.networks(), steps)
    if launch_fabric(study.hardware).is_global_zero and {"measure", "attack"} & {*steps}:
        run.write(EXAMPLES, f"{data.test.digest}\n")
    return jobs


def train(study: Study, data: DataSet, run: Run, progress: Progress[int] = silent) -> None:
    """Train every network of the study that the run does not hold yet with the same settings.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run that holds the networks.
        progress: Progress display.
    """
    for job in begin(study, data, run, ("train",)):
        do_job(study, data, run, job, progress)


def _train(study: Study, data: DataSet, run: Run, name: str, progress: Progress[int]) -> None:
    _, std = data.statistics()
    source = source_of(study, data, name)
    method, previous, start = method_of(name, study), None, ""
    if method.previous:
        base = previous_network(name, study)
        previous, start = run.load_network(base), run.made_by(base) or ""
    optimization = optimization_of(name, study)
    attack, extra = study.validation_attack, study.others.per_class if name == "adversarial-set" else 0
    options = (objective_of(name, study, std), optimization, attack, study.precision, study.compile, extra)
    digests = (data.train.digest, data.validation.digest)
    key = describe((source, study.data, digests, study.limits, study.seed, *options, start))
    if run.made_by(name) == key:
        log.info("%s: already trained", name)
        return
    model = previous if method.fine_tunes and previous is not None else source.build(study.seed)
    examples = data.train
    if extra and previous is not None:
        adversarial = adversarial_set(previous, examples, per_class=extra, seed=study.seed, progress=progress)
        log.info("%s: %d adversarial images beside %d clean ones", name, len(adversarial), len(examples))
        examples = mix(examples, adversarial)
    job = _Training(name, objective_of(name, study, std, previous), optimization, examples, key)
    _train_one(study, job, model, data, run, progress)
    run.save_network(name, source, model, key)
    run.checkpoint(name, key).remove()
    launch_fabric(study.hardware).barrier()


def optimization_of(name: str, study: Study) -> Optimization:
    """Return the optimization settings of a method."""
    if method_of(name, study).fine_tunes:
        return study.fine_tuning
    return replace(study.training, curvature_decay=study.low_curvature.decay) if name == "minimal" else study.training


def save_given(study: Study, run: Run, model: nn.Module) -> None:
    """Save the user's own network in the run under the name "given"."""
    source = Factory(study.model or "", study.mean, study.std)
    run.save_network(GIVEN, source, model, describe((source, weights_digest(model), "given")))


def source_of(study: Study, data: DataSet, name: str = "standard") -> Source | ConvertedNetwork:
    """Return how a new network for a method is built."""
    plain = _plain_source(study, data)
    conversion = METHODS[name].conversion
    return plain if conversion is None else ConvertedNetwork(plain, conversion(study), data.shape)


def measure(study: Study, data: DataSet, run: Run, progress: Progress[int] = silent) -> None:
    """Measure the geometry of every network of the run and draw the report's figures.

    Saves the parts `curvature-NAME` and, with the figures of all networks, `drawn`.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run with trained networks.
        progress: Progress display.

    Raises:
        InputError: If the run has no network.
    """
    for job in begin(study, data, run, ("measure",)):
        do_job(study, data, run, job, progress)


def attack(study: Study, data: DataSet, run: Run, progress: Progress[int] = silent) -> None:
    """Attack every network of the run.

    Saves the parts `attack-NAME` and, for two or more networks, `transfer`.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run with trained networks.
        progress: Progress display.

    Raises:
        InputError: If the run has no network.
    """
    for job in begin(study, data, run, ("attack",)):
        do_job(study, data, run, job, progress)


def scope_of(study: Study, digest: str) -> str:
    """Return what all numbers of one report share: norm and radius of the attacks, and the test examples.

    Args:
        study: Settings of the study.
        digest: Digest of its test examples.

    Example:
        >>> scope_of(Study(radius="1/4"), "0f") == scope_of(Study(radius="0.25"), "0f")
        True
    """
    return describe((study.norm, study.ball().radius, digest))


def _plain_source(study: Study, data: DataSet) -> Source:
    if study.model is not None:
        return Factory(study.model, study.mean, study.std)
    mean, std = data.statistics()
    smallest = 1e-3  # a channel that is constant over the data would divide by zero
    std = tuple(max(s, smallest) for s in std)
    return Network(study.network, data.shape, len(data.classes), mean, std, study.nonlinearity, study.width)


def _evaluate(
    study: Study,
    step: str,
    run: Run,
    settings: Any,
    data: DataSet,
    name: str,
    progress: Progress[int],
    results_of: Callable[[Study, DataSet, str, nn.Module, Progress[int]], dict[str, Result]],
) -> None:
    digests, scope = (data.train.digest, data.test.digest), scope_of(study, data.test.digest)
    key = describe((step, study.data, digests, study.limits, study.seed, settings, run.made_by(name)))
    if is_done(step, run.load_part(f"{step}-{name}", key)):
        log.info("%s: %s already done", name, step)
        return
    model = run.load_network(name).to(launch_fabric(study.hardware).device)
    optional = OptionalSteps(name)
    found = optional.run(step, partial(results_of, study, data, name, model, progress))
    run.save_part(f"{step}-{name}", key, found or optional.table(), scope)
    launch_fabric(study.hardware).barrier()
    log.info("%s: %s done", name, step)


def _evaluate_together(
    study: Study,
    step: str,
    run: Run,
    settings: Any,
    data: DataSet,
    progress: Progress[int],
    results_of: Callable[[Study, DataSet, Mapping[str, nn.Module], Progress[int]], dict[str, Result]],
) -> None:
    names = sort_networks(run.networks())
    digests, made = (data.train.digest, data.test.digest), [run.made_by(name) for name in names]
    key = describe((step, study.data, digests, study.limits, study.seed, settings, made))
    if not is_done(step, run.load_part(step, key)):
        models = {name: run.load_network(name).to(launch_fabric(study.hardware).device) for name in names}
        optional = OptionalSteps("all")
        found = optional.run(step, partial(results_of, study, data, models, progress))
        run.save_part(step, key, found or optional.table(), scope_of(study, data.test.digest))


@dataclass(frozen=True)
class _Training:
    """One training of the study, with the key of its network."""

    name: str
    objective: Objective
    optimization: Optimization
    examples: Examples
    key: str


def _train_one(
    study: Study, job: _Training, model: nn.Module, data: DataSet, run: Run, progress: Progress[int]
) -> None:
    loggers = run.loggers(job.name, study.loggers, {**asdict(study), "trained": job.name})
    launched = make_fabric(study.hardware, loggers=loggers)
    launched.launch()
    history = fit(
        model,
        job.objective,
        job.examples,
        job.optimization,
        seed=study.seed,
        validation=data.validation,
        validation_attack=study.validation_attack,
        fabric=launched,
        checkpoint=run.checkpoint(job.name, job.key),
        progress=progress,
        heading=f"training {job.name}",
    )
    last = history[-1]
    log.info("%s: %s", job.name, ", ".join(f"{k} {v:.4g}" for k, v in last.items() if not k.startswith(LEVELS)))
    run.save_part(f"training-{job.name}", job.key, training_results(study, job.name, history))
