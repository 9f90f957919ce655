"""An audit as plain numbers and strings, in one documented form."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lowcurve.evaluation.columns import share_of_true

if TYPE_CHECKING:
    from lowcurve.evaluation.audit.verdict import Audit, Finding

SCHEMA = "lowcurve-audit-1"
"""Name of the form. It changes when a field is renamed or removed."""
SHARE_FIELDS = {
    "count": "number of images that count",
    "of": "number of images",
    "value": "count / of",
    "low": "lower end of the 95 % Wilson interval",
    "high": "upper end of the 95 % Wilson interval",
}
"""Fields of a share of images."""
FINDING_FIELDS = {
    "number": "number of the test",
    "name": "name of the test",
    "outcome": '"passed", "flag" (a warning), "fail" or "not run" (not applicable, with the reason in evidence)',
    "measured": "the number that was judged; null if the test did not run",
    "threshold": "number above which the test fails, or is a flag if it cannot fail; null if the test did not run",
    "share": "the share of images that speak against the evaluation; null if the test counts no images",
    "evidence": "the figures, in a sentence",
    "means": "meaning for the robust accuracy; empty unless the outcome is a flag or fail",
    "hint": "next step; empty unless the outcome is a flag or fail",
}
"""Fields of a finding."""
REMEDY_FIELDS = {
    "attack": "the attack, in words",
    "before": "number of images robust before it",
    "after": "number of images robust after it",
    "of": "number of audited images",
}
"""Fields of a remedy: an attack made for a test that failed."""
FIELDS = {
    "schema": "name and version of this form",
    "verdict": "the verdict in words, with the figures of every test that failed",
    "level": '"reliable as far as tested", "warnings", "unreliable" or "too weak to judge"',
    "reliable": "true if the tests ran and none failed",
    "images": "number of audited images",
    "clean accuracy": "share of images that are classified correctly without an attack",
    "robust accuracy": "share of images that are robust under all attacks, those of the remedies too; null if none was tried",
    "draws": "draws over whose mean logits an image counts as robust or not; 1 unless the output is random",
    "robust images": "number of robust images under each attack that was tried on all images",
    "beyond gradients": "indices of the images that only attacks without gradients fooled",
    "counts": "number of tests that passed, warned, failed and were not applicable",
    "findings": "one entry per test, in order of cost",
    "remedies": "one entry per attack that was made for a test that failed",
    "conditions": "settings and versions that the findings depend on, by name",
}
"""Fields of an audit. docs/audit.md shows these tables."""


def to_dict(audit: "Audit") -> dict[str, Any]:
    """Return an audit in the form of `FIELDS`.

    Args:
        audit: The audit.
    """
    worst = audit.robust.get("worst case")
    return {
        "schema": SCHEMA,
        "verdict": audit.verdict,
        "level": audit.level,
        "reliable": audit.reliable,
        "images": audit.examples,
        "clean accuracy": None if audit.clean is None else _share(audit.clean),
        "robust accuracy": None if worst is None else _share(worst),
        "draws": audit.draws,
        "robust images": {name: int(column.sum()) for name, column in audit.robust.items()},
        "beyond gradients": [int(place) for place in audit.beyond_gradients],
        "counts": audit.counts,
        "findings": [finding_to_dict(finding) for finding in audit.findings],
        "remedies": [asdict(remedy) for remedy in audit.remedies],
        "conditions": dict(audit.conditions),
    }


def finding_to_dict(finding: "Finding") -> dict[str, Any]:
    """Return a finding in the form of `FINDING_FIELDS`.

    Args:
        finding: The finding.
    """
    found = {name: getattr(finding, name) for name in FINDING_FIELDS if name != "share"}
    counted = finding.counted
    share = None if counted is None else _share(np.arange(counted[1]) < counted[0])
    return {name: share if name == "share" else found[name] for name in FINDING_FIELDS}


def _share(column: np.ndarray) -> Mapping[str, float]:
    share = share_of_true(column)
    return {"count": share.successes, "of": share.count, "value": share.value, "low": share.low, "high": share.high}
