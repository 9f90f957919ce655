"""Tests 19 to 21 and 25: a reference, certificates, the report, the judged suite. They cost nothing."""

import platform
from functools import cache
from importlib.metadata import version

import numpy as np

from lowcurve.evaluation.audit.queries import spsa_queries
from lowcurve.evaluation.audit.state import JUDGED_DRAWS, AuditState
from lowcurve.evaluation.audit.verdict import CAVEAT, Check, Finding

AGREEMENT = 0.01
"""Test 19: RobustBench practice."""
TOO_HIGH = 0.03
"""Test 25. Checked in tests/test_audit.py."""
REQUIRED = (
    "ball", "pixel box", "examples", "clean accuracy", "accuracy under each attack", "worst case", "accuracy at each radius",
    "accuracy 0 reached", "steps", "step size", "restarts", "losses", "queries", "seed", "versions",
)  # fmt: skip
"""Test 21. Carlini et al. 2019, section 5."""

AUTOATTACK = Check(
    19,
    "agreement with AutoAttack",
    f"more images are robust here than under the reference, by more than {AGREEMENT:.0%} of all",
    "The attacks here were too weak for this network.",
    "Report the reference's robust accuracy, or attack longer here.",
)
CERTIFIED = Check(
    20,
    "certified against attacked",
    "an image is fooled at a radius for which it is certified",
    "A certificate and an adversarial image cannot both be right: the verifier or the attack has a bug, or they were run on"
    " different networks.",
    "Evaluate that image in double precision, and compare ball, pixel box and normalization of both.",
)
REPORT = Check(
    21,
    "report completeness",
    "an entry is missing that is needed to judge or reproduce the robust accuracy",
    "Robust accuracies cannot be compared without their conditions: units of the radius, steps, attacked images, a curve down"
    " to 0.",
    "Repair the tests that did not run, or state beside the accuracy what is missing.",
)


SUITE = Check(
    25,
    "the judged attacks against the audit's",
    f"the audit's attacks fool images that the judged suite left robust, more than {TOO_HIGH:.0%} of those it attacked here",
    "The robust accuracy that is judged is too high by so much: the suite is too weak for this network.",
    "Report the worst case of the audit, or attack with lc.strong(norm, radius).",
)


def suite(state: AuditState) -> Finding:
    """Run test 25 on the audited images. Reference: Carlini et al. 2019."""
    if state.known is None:
        return SUITE.not_run("no suite's result on these images was given; give attacked=, the result of lc.attack")
    left = state.known.robust[state.correct]
    fooled = int((left & state.fooled_by_any()).sum())
    evidence = f"of {len(left)} images the suite leaves {int(left.sum())} robust, and the audit fools {fooled} of these"
    return SUITE.judge_count(fooled, len(left), evidence, allowed=TOO_HIGH, flag_above=0.0)


@cache
def _version(package: str) -> str:
    return version(package)


def autoattack(state: AuditState) -> Finding:
    """Run test 19. Reference: Croce and Hein 2020; RobustBench."""
    if state.reference is None:
        return AUTOATTACK.not_run(
            "no reference was given; give reference=, the images that are robust under AutoAttack"
        )
    here, there = state.robust(), state.reference
    count = len(here)
    evidence = f"{int(here.sum())} of {count} images are robust here, {int(there.sum())} under the reference"
    return AUTOATTACK.judge_count(max(0, int(here.sum()) - int(there.sum())), count, evidence, allowed=AGREEMENT)


def certified(state: AuditState) -> Finding:
    """Run test 20 at every radius that was attacked. Reference: Carlini et al. 2019 (provable cross-check)."""
    if state.certified is None:
        return CERTIFIED.not_run("no certificates were given; give certified=, the radii from a verifier")
    radius = state.ball.radius
    holds = state.certified if state.certified.dtype == bool else None
    broken = np.zeros(len(state.correct), dtype=bool)
    by_radius = [(at, state.expand(~fooled)) for at, fooled in state.by_radius.items()]
    for at, robust in [(radius, state.robust()), *by_radius]:
        if holds is None:
            # Rounding to single precision may place a certified radius slightly above the requested number.
            broken |= (state.certified >= at * (1 + 1e-6)) & (state.certified > 0) & ~robust
        elif at <= radius:
            broken |= holds & ~robust
    claimed = int((state.certified if holds is not None else state.certified >= radius).sum())
    listed = f": {', '.join(map(str, np.flatnonzero(broken)))}" * bool(broken.any())
    evidence = (
        f"of {len(broken)} images {claimed} are certified at the radius, {int(broken.sum())} are fooled where they are"
        f" certified{listed}"
    )
    return CERTIFIED.judge(int(broken.sum()), evidence, fail=0)


def report(state: AuditState) -> Finding:
    """Run test 21. Reference: Carlini et al. 2019, section 5."""
    present = conditions(state)
    missing = [name for name in REQUIRED if name not in present]
    evidence = f"{len(REQUIRED) - len(missing)} of {len(REQUIRED)} entries are present"
    return REPORT.judge(len(missing), evidence + f", without {', '.join(missing)}" * bool(missing), flag=0)


def conditions(state: AuditState) -> dict[str, str]:
    """Return the conditions of the findings, in words; entries that are not known are left out."""
    ball, budget, count = state.ball, state.budget, len(state.correct)
    counts = {name: int(robust.sum()) for name, robust in state.robust_columns().items()}
    found = {
        "ball": f"{ball.norm.name}, radius {ball.radius:g} in pixel units",
        "pixel box": f"{ball.box[0]:g} to {ball.box[1]:g}",
        "examples": f"{count}, {len(state)} classified correctly and attacked, the first {len(state.queried)} of them also"
        " without gradients",
        "clean accuracy": f"{len(state)} of {count}",
        "accuracy under each attack": "; ".join(f"{name}: {robust} of {count}" for name, robust in counts.items()),
        "worst case": f"{int(state.robust().sum())} of {count}",
        "steps": f"PGD {budget.steps}, convergence {2 * budget.apgd_steps}, APGD {budget.apgd_steps}, SPSA {budget.spsa_steps},"
        f" PGD to compare with SPSA {budget.long_steps}",
        "step size": "PGD 2.5 radius / steps in l_inf and 5 radius / steps in l_2; the other attacks choose their own",
        "restarts": f"{budget.restarts} more in test 9, otherwise 1",
        "losses": "log-odds (which rises and falls with cross-entropy), margin, cross-entropy",
        "queries": f"Square {budget.queries}, SPSA {spsa_queries(budget)}, noise {budget.noise_draws}",
        "seed": str(state.seed),
        "judged by": f"mean logits over {JUDGED_DRAWS} draws, as the output is random" if state.random else "one pass",
        "versions": f"lowcurve {_version('lowcurve')}, torch {_version('torch')}, Python {platform.python_version()}",
        "meaning": CAVEAT,
    }
    if not counts:
        found.pop("accuracy under each attack")
    else:
        curve = {0.0: len(state)} | {at: int((~fooled).sum()) for at, fooled in state.by_radius.items()}
        curve[ball.radius] = int((~state.fooled_by_any()).sum())
        found["accuracy at each radius"] = "; ".join(f"{at:g}: {curve[at]} of {count}" for at in sorted(curve))
        reached = [at for at in sorted(curve) if not curve[at]]
        if reached:
            found["accuracy 0 reached"] = f"at {reached[0]:g}"
    return found
