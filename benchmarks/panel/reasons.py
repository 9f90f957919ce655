"""Reasons of the wrong verdicts of the committed run, by the entry's title. Without one the table has the verdict itself."""

REASONS: dict[str, str] = {
    "two networks in turn, adversarial, l_inf 0.15": (
        "The evaluation that was audited is the package's PGD-20, which keeps the best point that it finds. It is 7 points too"
        " high, and the audit warns of 25. The panel's own PGD-20 judges its last point and is 18 points too high."
    ),
}
