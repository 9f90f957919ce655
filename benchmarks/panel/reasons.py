"""Reasons of the wrong verdicts of the committed run, by the entry's title."""

REASONS: dict[str, str] = {
    "two networks in turn, adversarial, l_inf 0.15": (
        "The audit got the package's PGD-20, which keeps the best point that it finds. Its accuracy is too high by fewer points"
        " than that of the panel's own PGD-20, which judges its last point. The audit warns of it in test 25."
    ),
}
