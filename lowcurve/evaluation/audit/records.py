"""Tests 19 to 21, which cost nothing: other people's numbers, certificates, and whether the report is whole."""

import platform
from importlib.metadata import version

import numpy as np

from lowcurve.evaluation.audit.queries import spsa_queries
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import CAVEAT, Check, Finding

AGREEMENT = 0.01
"""Test 19: RobustBench practice."""
REQUIRED = (
    "ball", "pixel box", "examples", "clean accuracy", "accuracy under each attack", "worst case", "accuracy at each radius",
    "accuracy 0 reached", "steps", "step size", "restarts", "losses", "queries", "seed", "versions",
)  # fmt: skip
"""Test 21. Carlini et al. 2019, section 5; the intervals that belong to each count are made where they are shown."""

AUTOATTACK = Check(
    19,
    "agreement with AutoAttack",
    f"more than {AGREEMENT:.0%} more examples stand here than under the reference",
    "The attacks here were too weak on this network; the reference's number is the headline.",
    "Report the reference's number, and attack longer here.",
)
CERTIFIED = Check(
    20,
    "certified against attacked",
    "an example that is certified at a radius falls at it",
    "A certificate and a counterexample cannot both be right: a bug in the verifier, in the attack, or two networks.",
    "Look at that example in double precision, and compare the ball, the pixel box and the normalization of both.",
)
REPORT = Check(
    21,
    "report completeness",
    "anything is missing by which the accuracy could be judged or measured again",
    "Numbers without their conditions cannot be compared: the radius' units, the steps, who was attacked, a curve down to 0.",
    "Mend the tests that did not run, or say beside the accuracy what is missing.",
)


def autoattack(subject: AuditState) -> Finding:
    """Test 19, against who stands under AutoAttack. Reference: Croce and Hein 2020; RobustBench."""
    if subject.reference is None:
        return AUTOATTACK.not_run("no reference was given; give reference=, who stands under AutoAttack, to run this")
    here, there = subject.robust(), subject.reference
    count = len(here)
    said = f"{int(here.sum())} of {count} examples stand here, {int(there.sum())} under the reference"
    return AUTOATTACK.judged((int(here.sum()) - int(there.sum())) / count, said, fail=AGREEMENT)


def certified(subject: AuditState) -> Finding:
    """Test 20, at every radius that was attacked. Reference: Carlini et al. 2019 (provable cross-check)."""
    if subject.certified is None:
        return CERTIFIED.not_run("no certificates were given; give certified=, from a verifier, to run this")
    radius = subject.ball.radius
    holds = subject.certified if subject.certified.dtype == bool else None
    broken = np.zeros(len(subject.right), dtype=bool)
    for at, stands in [(radius, subject.robust()), *((at, subject.whole(~fell)) for at, fell in subject.at.items())]:
        if holds is None:
            # As it was certified: a radius in single precision may lie a little above the number it was meant to be.
            broken |= (subject.certified >= at * (1 + 1e-6)) & (subject.certified > 0) & ~stands
        elif at <= radius:
            broken |= holds & ~stands
    claimed = int((subject.certified if holds is not None else subject.certified >= radius).sum())
    listed = f": {', '.join(map(str, np.flatnonzero(broken)))}" * bool(broken.any())
    said = f"of {len(broken)} examples {claimed} are certified at the radius, {int(broken.sum())} fall where they are certified"
    return CERTIFIED.judged(int(broken.sum()), said + listed, fail=0)


def report(subject: AuditState) -> Finding:
    """Test 21. Reference: Carlini et al. 2019, section 5."""
    missing = [name for name in REQUIRED if name not in conditions(subject)]
    said = f"{len(REQUIRED) - len(missing)} of {len(REQUIRED)} entries are there"
    return REPORT.judged(len(missing), said + (f", without {', '.join(missing)}" * bool(missing)), flag=0)


def conditions(subject: AuditState) -> dict[str, str]:
    """Under which the findings hold, in words; what is not known is left out."""
    ball, budget, count = subject.ball, subject.budget, len(subject.right)
    counts = {name: int(stands.sum()) for name, stands in subject.columns().items()}
    found = {
        "ball": f"{ball.norm.name}, radius {ball.radius:g} in pixel units",
        "pixel box": f"{ball.box[0]:g} to {ball.box[1]:g}",
        "examples": f"{count}, {len(subject)} classified rightly and attacked, the first {len(subject.queried)} of them with"
        " queries",
        "clean accuracy": f"{len(subject)} of {count}",
        "accuracy under each attack": "; ".join(f"{name}: {stand} of {count}" for name, stand in counts.items()),
        "worst case": f"{int(subject.robust().sum())} of {count}",
        "steps": f"PGD {budget.steps}, convergence {2 * budget.steps}, APGD {budget.apgd_steps}, SPSA {budget.spsa_steps}, PGD"
        f" beside it {budget.long_steps}",
        "step size": "PGD 2.5 radius / steps in l_inf and 5 radius / steps in l_2; those of the others are their own",
        "restarts": f"{budget.restarts} more in test 9, otherwise 1",
        "losses": "log-odds (the order of cross-entropy), margin, cross-entropy",
        "queries": f"Square {budget.queries}, SPSA {spsa_queries(budget)}, noise {budget.noise_draws}",
        "seed": str(subject.seed),
        "versions": f"lowcurve {version('lowcurve')}, torch {version('torch')}, Python {platform.python_version()}",
        "meaning": CAVEAT,
    }
    if not counts:
        found.pop("accuracy under each attack")
    if subject.at:
        curve = {0.0: len(subject), **{at: int((~fell).sum()) for at, fell in subject.at.items()}}
        found["accuracy at each radius"] = "; ".join(f"{at:g}: {curve[at]} of {count}" for at in sorted(curve))
        reached = [at for at in sorted(curve) if not curve[at]]
        if reached:
            found["accuracy 0 reached"] = f"at {reached[0]:g}"
    return found
