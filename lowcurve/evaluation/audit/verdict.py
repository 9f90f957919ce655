"""The findings of an audit and its verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log, log1p
from typing import Any, Literal

import numpy as np

from lowcurve.evaluation.audit.exchange import finding_to_dict, to_dict
from lowcurve.evaluation.columns import share_of_true
from lowcurve.libraries import require_library

Outcome = Literal["passed", "flag", "fail", "not run"]
Level = Literal["reliable as far as tested", "warnings", "unreliable", "too weak to judge"]
"""The verdicts: no test is raised; some are flags; some failed; the network is hardly better than guessing."""

CLEAN = "no masking found by these tests"
WARNED = "; warnings: "
UNRELIABLE = "upper bound, evaluation unreliable: "
TOO_WEAK = "too weak to judge: "
WORDS: Mapping[str, str] = {"passed": "passed", "flag": "warned", "fail": "failed", "not run": "not applicable"}
"""The outcomes of tests as a report counts them."""
ASK_FOR_ALL = "a thorough audit runs this test too"
"""End of the reason why a test that the verdict does not need did not run."""
CHANCE_FINDING = 0.01
"""A test that counts images fails if so many are less likely than this by chance, under the share that is allowed."""
FEWEST = 3
"""Fewest images on which a test can fail. Fewer are a flag."""
FEW = 0.05
"""Share of the images: where fewer than `FEWEST` are robust, and no more than this, no search decides anything."""
CAVEAT = "fixed attacks are not adaptive: an attack made for this network may find what none of these found"
"""A limit of every audit, to be printed beside the verdict. Reference: Tramer et al. 2020."""


@dataclass(frozen=True)
class Check:
    """One of the 25 tests, described.

    Args:
        number: From 1 to 25.
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
    ) -> "Finding":
        """Return a finding: a fail if the number is above `fail`, a flag if it is above `flag`.

        Args:
            measured: The number to judge.
            evidence: One sentence with the figures.
            fail: Threshold above which the test fails. None if it cannot fail.
            flag: Threshold above which the test is a flag.
        """
        if math.isnan(measured):
            return self.not_run(f"its number is NaN: {evidence}")
        outcome: Outcome = "flag" if flag is not None and measured > flag else "passed"
        if fail is not None and measured > fail:
            outcome = "fail"
        return Finding(self, outcome, measured, flag if fail is None else fail, evidence)

    def judge_count(
        self, count: int, of: int, evidence: str, *, allowed: float, flag_above: float | None = None
    ) -> "Finding":
        """Return a finding on some of the images: it fails only if chance does not explain their number.

        It fails if `count` is at least 3 and so many are less likely than 1 % where each image counts with the allowed
        probability (exact binomial test). It is a flag if their share is larger than `flag_above`.

        Args:
            count: Number of images that speak against the evaluation.
            of: Number of images that were tried.
            evidence: One sentence with the figures.
            allowed: Share of the images that an honest network may show.
            flag_above: Share above which the test is a flag. None means the allowed share.
        """
        if not of:
            return self.not_run(f"no image was left to try; {evidence}")
        share, limit = count / of, allowed if flag_above is None else flag_above
        outcome: Outcome = "passed"
        meaning = ""
        if count:
            evidence = f"{evidence} ({share_of_true(np.arange(of) < count)}; allowed are {allowed:.1%})"
            if count >= FEWEST and chance_of(count, of, allowed) < CHANCE_FINDING:
                outcome = "fail"
            elif share > limit:
                few = f"{count} of {of} images are too few to tell this from chance, so it is a warning. If it is no chance: "
                outcome, meaning = "flag", few + self.means
        return Finding(self, outcome, share, allowed, evidence, meaning, (count, of))

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
        meaning: Meaning for the robust accuracy where it differs from the check's.
        counted: Number of images that speak against the evaluation, and number of images that were tried. None if the test
            counts no images.

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
    meaning: str = ""
    counted: tuple[int, int] | None = None

    @property
    def number(self) -> int:
        """The test's number, 1 to 25."""
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
    def raised(self) -> bool:
        """True if the test is a flag or failed."""
        return self.outcome in ("flag", "fail")

    @property
    def means(self) -> str:
        """The meaning of a raised test for the robust accuracy; empty for any other, whose figures say nothing of it."""
        return (self.meaning or self.check.means) if self.raised else ""

    @property
    def hint(self) -> str:
        """Advice for a raised test; empty for any other."""
        return self.check.hint if self.raised else ""


@dataclass(frozen=True)
class Remedy:
    """An attack made for what the failed tests found, and what it left.

    Attributes:
        attack: The attack, in words.
        before: Number of images that gradient attacks and the remedies before it left robust.
        after: Number of images that are robust under it too.
        of: Number of audited images.
    """

    attack: str
    before: int
    after: int
    of: int

    def __str__(self) -> str:
        return f"{self.before / self.of:.1%} -> {self.after / self.of:.1%} robust by {self.attack}"


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
        too_weak: Why the network cannot be judged. Empty if it can. Of a shard before the last one there are no findings.
        remedies: Attacks that were made for what the failed tests found, in their order. "worst case" counts them.
        clean: Which images are classified correctly without an attack.
        draws: Draws over whose mean logits an image counts as robust or not. It is 1 unless the output is random.

    Example:
        >>> check = Check(5, "zero gradient", "it is 0", "attacks do not move", "smooth the network")
        >>> finding = check.judge(0.2, "20 of 100 gradients are zero", fail=0.01)
        >>> Audit((finding,), 100, {"worst case": np.arange(100) < 50}, np.array([], dtype=int), {})
        Audit of 100 images: upper bound, evaluation unreliable: zero gradient
        of 1 tests: passed 0, warned 0, failed 1, not applicable 0
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
    too_weak: str = ""
    remedies: tuple[Remedy, ...] = ()
    clean: np.ndarray | None = None
    draws: int = 1

    @property
    def reliable(self) -> bool:
        """True if the tests ran and none failed, which does not mean that the network is robust."""
        return bool(self.findings) and not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The tests that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "fail")

    @property
    def counts(self) -> dict[str, int]:
        """How many tests passed, warned, failed and were not applicable. A test that did not run never counts as passed."""
        outcomes: list[str] = [finding.outcome for finding in self.findings]
        return {word: outcomes.count(outcome) for outcome, word in WORDS.items()}

    @property
    def level(self) -> Level:
        """The verdict's level.

        "too weak to judge" if the network is hardly better than guessing, so that no robust accuracy means anything;
        "unreliable" if a test failed; "warnings" if a test is a flag; otherwise "reliable as far as tested". A test that did
        not run is no reason for any of them.
        """
        if self.too_weak:
            return "too weak to judge"
        if self.failed:
            return "unreliable"
        return "warnings" if any(f.outcome == "flag" for f in self.findings) else "reliable as far as tested"

    @property
    def verdict(self) -> str:
        """The level in words: 'no masking found by these tests', with the names of warnings where there are any.

        'upper bound, evaluation unreliable: ...' names every test that failed, with its figures. 'too weak to judge: ...'
        says why. Every robust accuracy of the network should be printed together with it.
        """
        return self._told([f"{finding.name} ({finding.evidence})" for finding in self.failed])

    @property
    def summary(self) -> str:
        """The verdict with the names of the tests that failed, without their figures."""
        return self._told([finding.name for finding in self.failed], ", ")

    def _told(self, failed: list[str], between: str = "; ") -> str:
        warnings = ", ".join(finding.name for finding in self.findings if finding.outcome == "flag")
        return {
            "unreliable": UNRELIABLE + between.join(failed) + self._gained(),
            "too weak to judge": TOO_WEAK + self.too_weak,
            "warnings": CLEAN + WARNED + warnings,
            "reliable as far as tested": CLEAN,
        }[self.level] + self._judged()

    def _gained(self) -> str:
        gained = [str(remedy) for remedy in self.remedies if remedy.after < remedy.before]
        return f"; attacks made for it: {', '.join(gained)}" if gained else ""

    def _judged(self) -> str:
        return f"; the output is random, so each image is judged by its mean logits over {self.draws} draws" * (
            self.draws > 1
        )

    def worst_case_with(self, robust: np.ndarray) -> np.ndarray:
        """Return which images are robust under a suite and under the attacks that this audit made for failed tests.

        If the output is random, single draws decided which images the suite fooled. Then this audit's worst case replaces
        the suite's on the audited images.

        Args:
            robust: Whether each image is robust under the suite; the audited images come first.
        """
        joined = robust.copy()
        if self.draws > 1:
            joined[: self.examples] = self.robust["worst case"]
        elif self.remedies:
            joined[: self.examples] &= self.robust["worst case"]
        return joined

    def to_dict(self) -> dict[str, Any]:
        """Return verdict, findings, remedies and conditions as plain numbers and strings, in the form of `exchange.FIELDS`."""
        return to_dict(self)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per test."""
        pandas = require_library("pandas", install="pandas")

        return pandas.DataFrame([finding_to_dict(finding) for finding in self.findings])

    def __repr__(self) -> str:
        counted = ", ".join(f"{word} {count}" for word, count in self.counts.items())
        lines = [f"Audit of {self.examples} images: {self.summary}", f"of {len(self.findings)} tests: {counted}"]
        if "worst case" in self.robust:
            lines.append(f"robust accuracy at most {share_of_true(self.robust['worst case'])}")
        for finding in self.findings:
            if finding.raised:
                lines.append(f"{finding.outcome}  {finding.number}. {finding.name}: {finding.evidence}")
                lines += [f"      {finding.means}", f"      To do: {finding.hint}"]
        return "\n".join(lines)


def chance_of(count: int, of: int, share: float) -> float:
    """Return the probability of at least `count` successes in `of` independent trials with probability `share`.

    Example:
        >>> round(chance_of(1, 75, 0.01), 3), round(chance_of(3, 35, 0.01), 4)
        (0.529, 0.0052)
    """
    ways = (lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1) for k in range(count))
    fewer = sum(exp(way + k * log(share) + (of - k) * log1p(-share)) for k, way in enumerate(ways))
    return max(0.0, 1 - fewer)
