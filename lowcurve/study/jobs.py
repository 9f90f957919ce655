"""The jobs of a study: what is trained, measured and attacked, and what each needs first."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcurve.errors import InputError
from lowcurve.study.comparison import GIVEN, sort_networks
from lowcurve.study.methods import METHODS, method_of
from lowcurve.study.settings import Study


@dataclass(frozen=True)
class Job:
    """One piece of a study. Jobs whose needs are met may run in any order, or side by side: each writes its own files.

    Args:
        step: "train", "measure" or "attack" of one network; "draw" or "transfer" of all.
        network: Name of the network, empty for all.
        needs: Names of the jobs that come first.
    """

    step: str
    network: str = ""
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The job in words, such as "train CURE"."""
        return f"{self.step} {self.network}".strip()


def list_jobs(study: Study, networks: Sequence[str], steps: Sequence[str]) -> list[Job]:
    """List the jobs of some steps, in the order in which one process does them.

    The first network is finished before the others begin, so that its row is there early. Trainings that need no other network
    come before those that do: they are the longer ones.

    Args:
        study: Settings of the study.
        networks: Networks that the run holds.
        steps: Steps, of "train", "measure" and "attack".

    Raises:
        InputError: If there is no network to evaluate.

    Example:
        >>> [job.name for job in list_jobs(Study(methods=("CURE", "PGD")), (), ("train", "attack"))]
        ['train standard', 'attack standard', 'train PGD', 'train CURE', 'attack PGD', 'attack CURE', 'transfer']
    """
    plan = training_plan(study) if "train" in steps else {}
    names = sort_networks([*{*networks, *plan}])
    evaluations = [step for step in ("measure", "attack") if step in steps]
    if evaluations and not names:
        hint = "run lowcurve train first, or give --model and --weights"
        raise InputError("a run with at least one network", "none", hint)
    trained = {name: previous_network(name, study) for name in plan}
    # A network that others need is trained as soon as its own needs are met.
    order = sorted(plan, key=lambda name: (name not in trained.values(), bool(trained[name])))
    needed = {name: frozenset({f"train {start}"}) if start in plan else frozenset() for name, start in trained.items()}
    jobs = [Job("train", name, needed[name]) for name in order]
    first, *others = sorted(names, key=lambda name: order.index(name) if name in order else -1) or [""]
    after = {name: frozenset({f"train {name}"}) if name in plan else frozenset() for name in names}
    jobs[1:1] = [Job(step, first, after[first]) for step in evaluations]
    jobs += [Job(step, name, after[name]) for step in reversed(evaluations) for name in others]
    every = frozenset(f"train {name}" for name in plan)
    if "measure" in steps and study.evaluation.drawn:
        jobs.append(Job("draw", needs=every))
    if "attack" in steps and len(names) > 1:
        jobs.append(Job("transfer", needs=every))
    return jobs


def required_methods(study: Study) -> list[str]:
    """Return the methods whose networks the study trains, in the order of training.

    These are the methods of the study and the methods whose networks they need first. The user's own weights replace the
    standard network.

    Example:
        >>> required_methods(Study(methods=("CURE", "PGD")))
        ['standard', 'CURE', 'PGD']
    """
    wanted = {*study.methods, *(method_of(name, study).previous for name in study.methods)}
    if study.weights is not None:
        wanted.discard("standard")
    return [name for name in METHODS if name in wanted]


def training_plan(study: Study) -> dict[str, str]:
    """Return the networks that the study trains and, for each, the network from whose weights training starts.

    Returns:
        Names of the methods in the order of training. The value is the name of the start network, "given" for the user's
        own weights, or "" for new random weights.

    Example:
        >>> training_plan(Study(methods=("standard", "CURE"), model="mine:make", weights="mine.pt"))
        {'CURE': 'given'}
        >>> training_plan(Study(methods=("CURE", "PGD")))
        {'standard': '', 'CURE': 'standard', 'PGD': ''}
    """
    return {
        name: previous_network(name, study) if method_of(name, study).fine_tunes else ""
        for name in required_methods(study)
    }


def previous_network(name: str, study: Study) -> str:
    """Return the network from which a method's training starts, "" if there is none."""
    previous = method_of(name, study).previous
    return GIVEN if study.weights is not None and previous == "standard" else previous
