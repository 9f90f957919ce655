"""What an audit says: a finding for each test, and one verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Outcome = Literal["passed", "flag", "fail", "not run"]

CLEAN = "no masking found by these tests"
UNRELIABLE = "upper bound, evaluation unreliable: "
CAVEAT = "fixed attacks are not adaptive ones: an attack made for this network may find what none of these found"
"""What no audit can say, and what must stand beside every verdict. Reference: Tramer et al. 2020."""


@dataclass(frozen=True)
class Check:
    """One of the 21 tests, in words: when it is raised, what that means, what to do. differentiable: it needs gradients."""

    number: int
    name: str
    raised_if: str
    means: str
    hint: str
    differentiable: bool = False

    def judged(
        self, measured: float, said: str, *, fail: float | None = None, flag: float | None = None, warned: bool = False
    ) -> "Finding":
        """A finding by its number: above `fail` it fails, above `flag` (or warned for another reason) it is a flag."""
        outcome: Outcome = "flag" if warned or (flag is not None and measured > flag) else "passed"
        if fail is not None and measured > fail:
            outcome = "fail"
        return Finding(self, outcome, measured, flag if fail is None else fail, said)

    def not_run(self, why: str) -> "Finding":
        """A finding that says why there is none."""
        return Finding(self, "not run", None, None, why)


@dataclass(frozen=True)
class Finding:
    """What one test found. measured: the number that was judged; threshold: beyond it the test fails, or is a flag where
    it cannot fail; said: one sentence with the figures.

    Example:
        >>> check = Check(5, "zero gradient", "it is 0", "attacks stand still", "smooth the network")
        >>> finding = check.judged(0.2, "20 of 100 gradients are zero", fail=0.01, flag=0.0)
        >>> finding.outcome, finding.number, finding.hint
        ('fail', 5, 'smooth the network')
    """

    check: Check
    outcome: Outcome
    measured: float | None
    threshold: float | None
    said: str

    @property
    def number(self) -> int:
        """1 to 21, as in the table of the reference."""
        return self.check.number

    @property
    def name(self) -> str:
        """The test's name."""
        return self.check.name

    @property
    def raised_if(self) -> str:
        """When the test is raised."""
        return self.check.raised_if

    @property
    def means(self) -> str:
        """What it means that it is raised."""
        return self.check.means

    @property
    def hint(self) -> str:
        """What to do then."""
        return self.check.hint


@dataclass(frozen=True, eq=False)
class Audit:
    """What the tests found, in order of cost, and what that says about the robust accuracy of the network.

    examples: how many were looked at. standing: for each attack at the ball's radius that was shown every example, who
    stands under it (correct before it and after), one entry an example; "worst case" is who stands under all of them and
    was fooled by nothing else. beyond: the places of the examples that fell to an attack without gradients only.
    conditions: under which all this holds, in words.

    Example:
        >>> check = Check(5, "zero gradient", "it is 0", "attacks stand still", "smooth the network")
        >>> finding = check.judged(0.2, "20 of 100 gradients are zero", fail=0.01)
        >>> audit = Audit((finding,), 100, {}, np.array([], dtype=int), {})
        >>> audit.reliable, audit.verdict
        (False, 'upper bound, evaluation unreliable: zero gradient (20 of 100 gradients are zero)')
    """

    findings: tuple[Finding, ...]
    examples: int
    robust: Mapping[str, np.ndarray]
    beyond: np.ndarray
    conditions: Mapping[str, str]

    @property
    def reliable(self) -> bool:
        """Whether no test failed. Never that the network is robust."""
        return all(finding.outcome != "fail" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """'no masking found by these tests', or 'upper bound, evaluation unreliable: ...' with every test that failed.

        A robust accuracy of this network is not to be printed without it.
        """
        failed = [f"{finding.name} ({finding.said})" for finding in self.findings if finding.outcome == "fail"]
        return UNRELIABLE + "; ".join(failed) if failed else CLEAN
