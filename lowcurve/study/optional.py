"""Steps of an evaluation that may fail: what cannot be computed is missing with its reason, and the rest goes on."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lowcurve.errors import InputError, RunError
from lowcurve.evaluation.sharing import is_process_error
from lowcurve.network_calls import is_memory_error
from lowcurve.results import Column, Result, Table
from lowcurve.results.cells import NETWORK

log = logging.getLogger("lowcurve")
T = TypeVar("T")
MISSING = "missing"
"""Kind of the result that lists what could not be computed."""


def reason_of(error: Exception) -> str:
    """Return in one line why a step failed.

    Args:
        error: What the step raised. An error of the whole run is raised again: exhausted memory, a file that cannot be
            written, or another process that is gone.

    Example:
        >>> reason_of(RuntimeError("derivative is not implemented"))
        'RuntimeError: derivative is not implemented'
    """
    if isinstance(error, RunError) or is_memory_error(error) or is_process_error(error):
        raise error
    if isinstance(error, InputError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@dataclass
class OptionalSteps:
    """Run the steps of an evaluation. Each of them may fail without the others.

    Args:
        name: Name of the network, or of the step that has all networks.
        strict: Raise the error of a step that fails.

    Attributes:
        missing: What is missing, with the reason.

    Example:
        >>> steps = OptionalSteps("CURE")
        >>> steps.run("one half", lambda: 1 / 2), steps.run("infinity", lambda: 1 / 0)
        (0.5, None)
        >>> steps.missing
        {'infinity': 'ZeroDivisionError: division by zero'}
    """

    name: str
    strict: bool = False
    missing: dict[str, str] = field(default_factory=dict)

    def run(self, what: str, step: Callable[[], T]) -> T | None:
        """Return what a step makes, or note why it cannot be made and return None.

        Args:
            what: What the step makes, as the report names it.
            step: The step.
        """
        try:
            return step()
        except Exception as error:  # a network of the user's own may raise anything
            if self.strict:
                raise
            reason = reason_of(error)
            if reason not in self.missing.values():
                log.warning("%s: no %s: %s", self.name, what, reason)
            self.missing[what] = reason
            return None

    def collect(self, steps: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
        """Return the results of all steps that can be made, by kind.

        Args:
            steps: The steps by the kind of their result.
        """
        found = {kind: self.run(kind, step) for kind, step in steps.items()}
        return {kind: result for kind, result in found.items() if result is not None}

    def table(self) -> dict[str, Result]:
        """Return the table of what is missing under its kind, with a row for each reason; nothing if nothing is missing."""
        reasons: dict[str, list[str]] = {}
        for what, reason in self.missing.items():
            reasons.setdefault(reason, []).append(what)
        rows = tuple((self.name, "; ".join(what), reason) for reason, what in reasons.items())
        headings = (NETWORK, Column("missing", "What is not in this report."), Column("reason"))
        return {MISSING: Table("What could not be computed", headings, rows)} if rows else {}


def is_done(step: str, results: Mapping[str, Result] | None) -> bool:
    """Return whether a step has its main results. Otherwise it is tried again.

    Args:
        step: Name of the step, as its part is named.
        results: Its results, or None if there are none yet.
    """
    found = set(results or ()) - {MISSING}
    return bool(found) and (step != "attack" or "robustness" in found)


def failures(parts: Mapping[str, Mapping[str, Result]], steps: Collection[str]) -> dict[str, str]:
    """Return the networks for which an evaluation has no main result, with the reason.

    Args:
        parts: Results of all steps by name, such as attack-CURE.
        steps: The steps that count, such as attack.
    """
    failed: dict[str, str] = {}
    for part, results in parts.items():
        step, _, name = part.partition("-")
        missing = results.get(MISSING)
        if step in steps and isinstance(missing, Table) and not is_done(step, results):
            failed[name] = str(missing.rows[0][2])
    return failed
