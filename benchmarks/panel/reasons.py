"""Reasons of the wrong verdicts of the committed run, by the entry's title. Without one the table has the verdict itself."""

REASONS: dict[str, str] = {}
