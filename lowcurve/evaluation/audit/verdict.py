"""The findings of an audit and its verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lowcurve.evaluation.columns import share_of_true

Outcome = Literal["passed", "flag", "fail", "not run"]

CLEAN = "no masking found by these tests"
UNRELIABLE = "upper bound, evaluation unreliable: "
CAVEAT = "fixed attacks are not adaptive: an attack made for this network may find what none of these found"
"""A limit of every audit, to be printed beside the verdict. Reference: Tramer et al. 2020."""


@dataclass(frozen=True)
class Check:
    """One of the 21 tests, described.

    Args:
        number: From 1 to 21.
        name: Short name.
        raised_if: Condition under which the test is a flag or fails.
        means: Meaning of a raised test for the robust accuracy.
        hint: Advice for a raised test.
        differentiable: True if the test needs gradients.
    """

    number: int
    name: str
    raised_if: str
    means: str
    hint: str
    differentiable: bool = False

    def judge(
        self,
        measured: float,
        evidence: str,
        *,
        fail: float | None = None,
        flag: float | None = None,
        flagged: bool = False,
    ) -> "Finding":
        """Return a finding: a fail if the number is above `fail`, a flag if it is above `flag` or `flagged` is true.

        Args:
            measured: The number to judge.
            evidence: One sentence with the figures.
            fail: Threshold above which the test fails. None if it cannot fail.
            flag: Threshold above which the test is a flag.
            flagged: True if the test is a flag for another reason.
        """
        if math.isnan(measured):
            return self.not_run(f"its number is NaN: {evidence}")
        outcome: Outcome = "flag" if flagged or (flag is not None and measured > flag) else "passed"
        if fail is not None and measured > fail:
            outcome = "fail"
        return Finding(self, outcome, measured, flag if fail is None else fail, evidence)

    def not_run(self, reason: str) -> "Finding":
        """Return the finding of a test that did not run, with the reason."""
        return Finding(self, "not run", None, None, reason)


@dataclass(frozen=True)
class Finding:
    """The result of one test.

    Attributes:
        check: The test.
        outcome: "passed", "flag", "fail" or "not run".
        measured: The number that was judged. None if the test did not run.
        threshold: Number above which the test fails. A test that cannot fail is a flag above it.
        evidence: One sentence with the figures.

    Example:
        >>> check = Check(5, "zero gradient", "it is 0", "attacks do not move", "smooth the network")
        >>> finding = check.judge(0.2, "20 of 100 gradients are zero", fail=0.01, flag=0.0)
        >>> finding.outcome, finding.number, finding.hint
        ('fail', 5, 'smooth the network')
    """

    check: Check
    outcome: Outcome
    measured: float | None
    threshold: float | None
    evidence: str

    @property
    def number(self) -> int:
        """The test's number, 1 to 21."""
        return self.check.number

    @property
    def name(self) -> str:
        """The test's name."""
        return self.check.name

    @property
    def raised_if(self) -> str:
        """The condition under which the test is raised."""
        return self.check.raised_if

    @property
    def means(self) -> str:
        """The meaning of a raised test for the robust accuracy."""
        return self.check.means

    @property
    def hint(self) -> str:
        """Advice for a raised test."""
        return self.check.hint


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """The findings of an audit and its verdict on a network's robust accuracy.

    Attributes:
        findings: One finding per test, in order of cost.
        examples: Number of images.
        robust: For each attack that was tried on all images, which images are robust under it. They are correct before
            and after the attack. "worst case" joins all attacks, also those tried on some images only.
        beyond_gradients: Indices of the images that only attacks without gradients fooled.
        conditions: Settings and versions that the findings depend on, by name.

    Example:
        >>> check = Check(5, "zero gradient", "it is 0", "attacks do not move", "smooth the network")
        >>> finding = check.judge(0.2, "20 of 100 gradients are zero", fail=0.01)
        >>> Audit((finding,), 100, {"worst case": np.arange(100) < 50}, np.array([], dtype=int), {})
        Audit of 100 images: upper bound, evaluation unreliable: zero gradient
        robust accuracy at most 50.0% (95% CI 40.4-59.6%, 50 of 100)
        fail  5. zero gradient: 20 of 100 gradients are zero
              attacks do not move
              To do: smooth the network
    """

    findings: tuple[Finding, ...]
    examples: int
    robust: Mapping[str, np.ndarray]
    beyond_gradients: np.ndarray
    conditions: Mapping[str, str]

    @property
    def reliable(self) -> bool:
        """True if no test failed, which does not mean that the network is robust."""
        return not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The tests that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "fail")

    @property
    def verdict(self) -> str:
        """'no masking found by these tests', or 'upper bound, evaluation unreliable: ...' with every test that failed.

        Every robust accuracy of the network should be printed together with it.
        """
        failed = [f"{finding.name} ({finding.evidence})" for finding in self.failed]
        return UNRELIABLE + "; ".join(failed) if failed else CLEAN

    def to_dict(self) -> dict[str, Any]:
        """Return verdict, findings and conditions as plain numbers and strings, ready for JSON."""
        names = ("number", "name", "outcome", "measured", "threshold", "evidence", "means", "hint")
        findings = [{name: getattr(finding, name) for name in names} for finding in self.findings]
        return {
            "verdict": self.verdict,
            "reliable": self.reliable,
            "findings": findings,
            "conditions": dict(self.conditions),
        }

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per test."""
        import pandas

        return pandas.DataFrame(self.to_dict()["findings"])

    def __repr__(self) -> str:
        failed = ", ".join(finding.name for finding in self.failed)
        lines = [f"Audit of {self.examples} images: {UNRELIABLE + failed if failed else CLEAN}"]
        if "worst case" in self.robust:
            lines.append(f"robust accuracy at most {share_of_true(self.robust['worst case'])}")
        for finding in self.findings:
            if finding.outcome in ("fail", "flag"):
                lines.append(f"{finding.outcome}  {finding.number}. {finding.name}: {finding.evidence}")
                lines += [f"      {finding.means}", f"      To do: {finding.hint}"]
        return "\n".join(lines)
