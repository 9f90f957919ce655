"""The commands study, train, measure and attack: the steps of a study on a run directory."""

import logging
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.cli import recipes
from lowcurve.cli.display import show
from lowcurve.cli.ending import ends_in_words, exit_code, say_end
from lowcurve.cli.processes import (
    end_with_parent,
    follows,
    lead,
    leader_run,
    prepare_process,
    require_processes,
)
from lowcurve.cli.report import write_report
from lowcurve.cli.requests import Request, parse
from lowcurve.cli.terminal import log_to
from lowcurve.cli.threads import keep_threads, one_thread
from lowcurve.cli.tracking import log_report
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from lowcurve.data import DataSet
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")
LOW_ACCURACY = 0.5
"""Below this clean accuracy of a user's network, the command says what to check."""
CHECKED = 500
"""Test images on which that accuracy is taken."""


def run(command: str, words: list[str]) -> int:
    """Run study, train, measure or attack.

    Args:
        command: One of the four.
        words: The words after it.

    Returns:
        The exit code: 0, or that of `say_end` after Ctrl-C and its like.
    """
    busy = prepare_process()
    sys.path.insert(0, os.getcwd())  # for --model package.module:function
    request = parse(command, words)
    require_processes(request.study.devices, request.study.nodes)
    if follows():
        return _follow(command, request)
    from lowcurve.store import Run
    from lowcurve.store.loggers import prepare_loggers
    from lowcurve.store.provenance import describe_origin
    from lowcurve.study import pipeline

    # Everything that can be wrong with the request is found before a directory is made for it.
    study = request.study
    place = None if request.run else _new_place(command, request)
    with one_thread():  # processes that are forked from this one must not have used several
        data = pipeline.load_data(study)
        given = given_network(command, study, data, request.run)
        pipeline.check_study(study, data, _own_steps(command))
    run = request.run
    if run is None:
        assert place is not None
        run = Run.create(place, numbered=request.out is None)
    with run.lock(command):
        if request.run is None:
            run.begin(study, request.recipe)
            if request.pretrained is not None:
                run.copy_networks(request.pretrained)
        else:
            run.clean()
            if request.new_settings:
                run.write_settings(study)
        steps = _steps_of(command, request, run)
        processes = keep_threads(run, study.devices, _networks_side_by_side(study, run, steps, given), request.jobs)
        again = f"{command} {run.folder}" if steps == (command,) else f"study --resume {run.folder}"
        kept = f"{run.folder} keeps what is finished. Continue with: lowcurve {again}"
        with lead(run), log_to(run):
            if busy:
                log.info("%s", busy)
            run.add_origin(describe_origin(shlex.join(["lowcurve", command, *words]), data))
            prepare_loggers(run.folder, study.loggers)
            try:
                with ends_in_words(kept):
                    _work(command, steps, study, data, run, given, processes)
            except KeyboardInterrupt as error:
                return say_end(error, f". {kept}")
            except InputError as error:
                log.error("%s", error)
                raise
    return 0


def _work(
    command: str,
    steps: tuple[str, ...],
    study: "Study",
    data: "DataSet",
    run: "Run",
    given: "nn.Module | None",
    processes: int,
) -> None:
    """Do the steps and write the report."""
    from lowcurve.store import PAGE
    from lowcurve.study import pipeline
    from lowcurve.study.optional import failures

    started = time.monotonic()
    log.info("lowcurve %s in %s", command, run.folder)
    if command == "train":
        recipes.announce(recipes.load(run))
    sizes = f"{len(data.train)} to train on, {len(data.validation)} for validation, {len(data.test)} to test"
    log.info("%s: %s. %s", data.name, sizes, data.note)
    if study.model is not None and "train" in steps:
        log.info("%s", _describe_plan(study))
    if given is not None:
        pipeline.save_given(study, run, given)
        with one_thread():
            check_accuracy(given, data)
    if len(steps) == 2:
        log.info("the radius is set anew: after %s, %s is repeated for it", *steps)
    _do_jobs(steps, study, data, run, processes)
    log.info("%s took %.0f s", command, time.monotonic() - started)
    log_report(run, study.loggers, run.read_settings(), write_report(study, run))
    evaluations = [{"measure": "curvature"}.get(step, step) for step in steps if step != "train"]
    for name, reason in failures(run.parts(), evaluations).items():
        hint = f"see the table of what is missing in {run.folder / PAGE}"
        raise InputError(f"numbers of the network {name}", f"none: {reason}", hint)


def _do_jobs(steps: tuple[str, ...], study: "Study", data: "DataSet", run: "Run", processes: int) -> None:
    """Do the jobs of the steps, in this process or side by side in several, and show how they proceed."""
    import torch

    from lowcurve.study import pipeline
    from lowcurve.study.workers import Workers, do_in_turn

    jobs, do = pipeline.begin(study, data, run, steps), partial(pipeline.do_job, study, data, run)
    if processes == 1:
        with show(study, data, run, jobs, 1) as display:
            do_in_turn(jobs, do, display)
        return
    log.info("%d networks are trained and judged side by side", processes)
    # The processes begin before the display, which has a thread.
    workers = Workers(processes, torch.get_num_threads(), do)
    with workers, show(study, data, run, jobs, processes) as display:
        workers.do(jobs, display)
    run.clean()  # of what an ended process was writing


def _follow(command: str, request: Request) -> int:
    """Take part in the work that another process leads. Only the leader writes."""
    from lowcurve.study import pipeline

    end_with_parent()
    log.setLevel(logging.ERROR)  # the leader says the rest
    try:
        run = leader_run(request, _first_networks(command, request))
        data = pipeline.load_data(request.study)
        with ends_in_words(f"{run.folder} keeps what is finished"):
            for job in pipeline.begin(request.study, data, run, _steps_of(command, request, run)):
                pipeline.do_job(request.study, data, run, job)
    except KeyboardInterrupt as error:
        return exit_code(error)
    return 0


def _steps_of(command: str, request: Request, run: "Run") -> tuple[str, ...]:
    """Return the steps of a command.

    A new radius for an earlier run also repeats the other step, if the run has results of it: all numbers of a report
    belong to one radius.
    """
    if command == "study":
        return _own_steps(command)
    other, part = {"attack": ("measure", "curvature-"), "measure": ("attack", "attack-")}.get(command, ("", ""))
    repeat = request.new_ball and bool(part) and any(name.startswith(part) for name in run.parts())
    return (command, other) if repeat else (command,)


def _own_steps(command: str) -> tuple[str, ...]:
    """Return the steps of a command on a new run."""
    return ("train", "measure", "attack") if command == "study" else (command,)


def _new_place(command: str, request: Request) -> Path:
    from lowcurve.store import new_place

    if command in ("measure", "attack") and request.study.model is None:
        hint = f"write lowcurve {command} RUN, or give --model package.module:function --weights FILE --data NAME"
        raise InputError("a run or a model", "neither", hint)
    return new_place(request.out, f"{command}-{Path(request.study.data).stem}")


def _networks_side_by_side(study: "Study", run: "Run", steps: tuple[str, ...], given: "nn.Module | None") -> int:
    """Return how many networks there are, or 1 where one process or the processes of Fabric share each network's work."""
    from lowcurve.study.jobs import training_plan
    from lowcurve.study.measured_network import launch_fabric

    if study.devices * study.nodes > 1 or launch_fabric(study.hardware).device.type != "cpu":
        return 1
    return len({*run.networks(), *(training_plan(study) if "train" in steps else ())}) + (given is not None)


def _describe_plan(study: "Study") -> str:
    """List the networks that are trained for a user's own network, with the weights they start from."""
    from lowcurve.study.jobs import training_plan

    starts = {"": f"the weights that {study.model} returns", "given": "the weights in --weights"}
    names: dict[str, list[str]] = {}
    for name, start in training_plan(study).items():
        names.setdefault(starts.get(start, f"the network {start}"), []).append(name)
    if not names:
        return f"nothing is trained: {study.model} is evaluated as it is. Add --train or --methods NAMES to train it"
    return "will be trained: " + "; ".join(f"{', '.join(group)} from {start}" for start, group in names.items())


def check_accuracy(model: "nn.Module", data: "DataSet") -> None:
    """Say what to check if the user's network classifies few clean images correctly.

    Args:
        model: The network.
        data: The data set.
    """
    from lowcurve import evaluation
    from lowcurve.network_calls import call, input_like

    logits = call(model, data.test.pixels([0]).to(input_like(model))).shape[1]
    if logits > len(data.classes):
        log.info(
            "the network has %d logits for the %d classes of the data; the others are called class %d to class %d",
            *(logits, len(data.classes), len(data.classes), logits - 1),
        )
    clean = evaluation.accuracy(model, data.test.take(slice(CHECKED)))
    if clean.value < LOW_ACCURACY:
        log.warning(
            "Your network classifies only %.1f %% of %d clean test images correctly. Check its normalization (--mean and "
            "--std, or a first layer of its own; pixels are in [0, 1]), the order of the channels and axes of the pixels, "
            "the order of the labels, and the file of weights.",
            100 * clean.value,
            clean.count,
        )


def _first_networks(command: str, request: Request) -> tuple[str, ...]:
    """Return the networks that a new run gets before its work begins."""
    from lowcurve.study.comparison import GIVEN

    if request.run is not None:
        return ()
    if request.pretrained is not None:
        return request.pretrained.networks()
    return (GIVEN,) if _is_given(command, request.study) else ()


def _is_given(command: str, study: "Study") -> bool:
    """Return whether the user's own network is evaluated, as it is or with the weights in --weights."""
    is_evaluated = study.weights is not None or command in ("measure", "attack", "audit") or not study.methods
    return study.model is not None and is_evaluated


def given_network(command: str, study: "Study", data: "DataSet", run: "Run | None") -> "nn.Module | None":
    """Return the user's network, tried once on an input of the data's shape; None if the command needs none.

    Args:
        command: The command's name.
        study: Settings, with the function that builds the network and its weights.
        data: The data set.
        run: The run that may hold the network already.
    """
    from lowcurve.study.comparison import GIVEN

    if study.model is None and study.weights is not None:
        raise InputError("a model for the weights", "--weights alone", "give --model package.module:function too")
    if not _is_given(command, study) or (run is not None and GIVEN in run.networks()):
        return None
    from lowcurve.models import Factory
    from lowcurve.store import load_weights
    from lowcurve.study import pipeline

    model = Factory(study.model or "", study.mean, study.std).build(study.seed)
    if study.weights is not None:
        load_weights(model[1] if study.mean else model, study.weights)  # type: ignore[index]
    model.eval()
    # An audit also judges networks without a gradient.
    pipeline.try_network(model, data, study, () if command == "audit" else _own_steps(command))
    return model
