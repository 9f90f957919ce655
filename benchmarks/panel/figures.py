"""Error rates of the audit on the panel, and the tables of docs/audit.md."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowcurve.results import Column, Table, dump, proportion
from panel.reasons import REASONS

Row = dict[str, Any]
CLEARLY = 0.05
"""The suite is wrong if an attack made for the network leaves so much less of its accuracy."""
CLEARLY_NAIVE = 0.15
"""The same for PGD-20 on cross-entropy. For honest networks of the tuning half it is up to 12 points too high."""
FALLING = ("gradient alignment",)
"""Tests whose number speaks against the network where it is low."""
ROUNDING = 1e-9
HALVES, DECLARED = ("tuning", "final"), ("third", "fourth", "fifth")
"""Names of the sets: halves of the first networks, and those committed before their first audit."""
SHARE, COUNT = ".0%", "d"


def misjudged_by_suite(row: Row) -> bool:
    """Return whether the suite's robust accuracy is clearly too high."""
    return row["suite"] - row["adaptive"] >= CLEARLY - ROUNDING


def only_naive_is_wrong(row: Row) -> bool:
    """Return whether the naive attack's robust accuracy is clearly too high and the suite's is not.

    Of a random network the suite counts what one unlucky draw fools, so only attacks on the expectation are compared.
    """
    least = row["adaptive"] if row["random"] else min(row["adaptive"], row["suite"])
    return not misjudged_by_suite(row) and row["naive"] - least >= CLEARLY_NAIVE - ROUNDING


def misjudged(row: Row) -> bool:
    """Return whether the naive or the suite's robust accuracy is clearly too high."""
    return misjudged_by_suite(row) or only_naive_is_wrong(row)


def judged(row: Row) -> Row:
    """Return the row with the audit of the evaluation that is wrong: the naive one where only that is wrong."""
    found = row.get("audit of the naive attack")
    if found is None:
        return {"judged": "suite", **row}
    # Which networks count was fixed by the panel's own naive attack; the cost is that beside the suite.
    kept = {name: row[name] for name in ("naive", "audit seconds") if name in row}
    return {**row, **found, **kept, "judged": "naive"}


def numbers(row: Row, outcome: str) -> list[int]:
    """Return the numbers of the tests with an outcome."""
    return sorted(f["number"] for f in row["findings"] if f["outcome"] == outcome)


def is_alarm(row: Row) -> bool:
    """Return whether the verdict is "unreliable"."""
    return row["level"] == "unreliable"


def score_of_verdict(row: Row) -> float:
    """Return the number of failed tests, and a hundredth of the number of warnings."""
    return len(numbers(row, "fail")) + 0.01 * len(numbers(row, "flag"))


def score_of_test(number: int) -> Callable[[Row], float]:
    """Return the function from a row to what a test measured, high where it speaks against the network.

    It is NaN for a test that did not run.
    """

    def score(row: Row) -> float:
        for finding in row["findings"]:
            if finding["number"] == number and finding["measured"] is not None and finding["outcome"] != "not run":
                return -finding["measured"] if finding["name"] in FALLING else finding["measured"]
        return np.nan

    return score


def area(score: Callable[[Row], float], masked: Sequence[Row], honest: Sequence[Row]) -> float | None:
    """Return the area under the ROC curve: the chance that a masked network scores higher; equal scores count half.

    Networks without a score are left out.
    """
    found = (np.array([score(row) for row in rows]) for rows in (masked, honest))
    above, below = (scores[~np.isnan(scores)] for scores in found)
    if not len(above) or not len(below):
        return None
    return float(np.mean((above[:, None] > below[None]) + 0.5 * (above[:, None] == below[None])))


def summarize_panel(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the summary in numbers and the tables.

    Args:
        rows: Rows of the panel.
    """
    rows = list(map(judged, rows))
    parts = {name: split(part) for name, part in _sets(rows).items() if part}
    every = split(rows)
    tables = {
        "rates": rates(parts),
        "operating-points": operating_points(parts),
        "tests": tests(every),
        "cost": cost(rows),
        "gains": gains(every["masked"]),
        "wrong": wrong(rows),
    }
    for ending, chosen in (
        ("", [r for r in rows if r["half"] in DECLARED]),
        ("-of-the-halves", [r for r in rows if r["half"] in HALVES]),
    ):
        if chosen:
            part = split(chosen)
            tables |= {
                f"remedies{ending}": remedies(part["masked"]),
                f"masked{ending}": networks("Networks whose evaluation is wrong", part["masked"]),
                f"honest{ending}": networks("Honest networks", part["honest"]),
                f"nothing-to-hide{ending}": networks("Defended networks with nothing to hide", part["nothing to hide"]),
            }
    summary = {
        half: {name: len(members) for name, members in part.items()} | _rates(part) for half, part in parts.items()
    }
    return {"summary": summary, "results": {name: dump(table) for name, table in tables.items()}}


def _sets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each set, those of the fourth in l_1, of the sets that no threshold has seen together, and all."""
    found = {name: [row for row in rows if row["half"] == name] for name in (*HALVES, *DECLARED)}
    return {
        **found,
        "fourth, in l_1": [row for row in found["fourth"] if ", l_1 " in row["name"]],
        "final, third, fourth and fifth": [row for row in rows if row["half"] != "tuning"],
        "all": list(rows),
    }


def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by what they are: masked, with nothing to hide, honest."""
    return {
        "masked": [row for row in rows if row["masked"] and misjudged(row)],
        "nothing to hide": [row for row in rows if row["masked"] and not misjudged(row)],
        "honest": [row for row in rows if not row["masked"]],
    }


def _share(rows: Sequence[Row], which: Callable[[Row], bool]) -> tuple[float, float, float] | None:
    if not rows:
        return None
    found = proportion(sum(map(which, rows)), len(rows))
    return found.value, found.low, found.high


def _only_warned(row: Row) -> bool:
    return row["level"] == "warnings"


def _rates(part: dict[str, list[Row]]) -> Row:
    by_suite = [row for row in part["masked"] if misjudged_by_suite(row)]
    return {
        "sensitivity": _share(part["masked"], is_alarm),
        "sensitivity where the suite is wrong": _share(by_suite, is_alarm),
        "false alarms": _share(part["honest"], is_alarm),
        "honest networks with warnings only": _share(part["honest"], _only_warned),
        "alarms with nothing to hide": _share(part["nothing to hide"], is_alarm),
        "area under the ROC curve": area(score_of_verdict, part["masked"], part["honest"]),
    }


def rates(parts: dict[str, dict[str, list[Row]]]) -> Table:
    """Return the error rates of the verdict for each set."""
    rows = []
    for half, part in parts.items():
        found = _rates(part)
        shares = [
            _written(part["masked"], found["sensitivity"]),
            _written(
                [r for r in part["masked"] if misjudged_by_suite(r)], found["sensitivity where the suite is wrong"]
            ),
            _written(part["honest"], found["false alarms"]),
            _written(part["honest"], found["honest networks with warnings only"]),
            _written(part["nothing to hide"], found["alarms with nothing to hide"]),
        ]
        rows.append((half, *shares, found["area under the ROC curve"]))
    columns = (
        Column(
            "set", "networks that served to tune the audit, the others, and three sets written for a finished audit"
        ),
        Column("sensitivity", "share of wrong evaluations that are called unreliable, with its 95 % interval"),
        Column("where the suite is wrong", "the same, where the suite's own robust accuracy is wrong"),
        Column("false alarms", "share of honest evaluations that are called unreliable"),
        Column("warnings only", "share of honest evaluations with warnings and no failure"),
        Column("nothing to hide, alarms", "share of defended networks called unreliable whose evaluation is right"),
        Column("ROC area", "of the number of failed tests, and warnings among equals", ".3f"),
    )
    return Table("The verdict", columns, tuple(rows))


def _written(rows: Sequence[Row], share: tuple[float, float, float] | None) -> str:
    if share is None:
        return "–"
    value, low, high = share
    return f"{value:.0%} ({round(value * len(rows))} of {len(rows)}; {low:.0%} to {high:.0%})"


def operating_points(parts: dict[str, dict[str, list[Row]]]) -> Table:
    """Return sensitivity and false alarms for other thresholds of the verdict: points of its ROC curve."""
    points = (("a warning or failure", 0.01), ("a failure", 1.0), ("two failures", 2.0), ("three failures", 3.0))
    shown = {name: part for name, part in parts.items() if name in (*HALVES, *DECLARED)}
    rows = []
    for name, least in points:
        cells: list[Any] = [name]
        for half in shown:
            for side in ("masked", "honest"):
                found = shown[half][side]
                cells.append(
                    float(np.mean([score_of_verdict(r) >= least - ROUNDING for r in found])) if found else None
                )
        rows.append(tuple(cells))
    heads = [Column(f"{half}: {word}", form=SHARE) for half in shown for word in ("sensitivity", "false alarms")]
    return Table("Points of the ROC curve", (Column("alarm at"), *heads), tuple(rows))


def tests(part: dict[str, list[Row]]) -> Table:
    """Return for each test how well its number tells masked from honest networks, and how often it is raised."""
    found = {f["number"]: f["name"] for row in (*part["masked"], *part["honest"]) for f in row["findings"]}
    rows = []
    for number in sorted(found):
        cells: list[Any] = [f"{number}. {found[number]}", area(score_of_test(number), part["masked"], part["honest"])]
        for side in ("masked", "honest"):
            for outcome in ("fail", "flag"):
                cells.append(sum(number in numbers(row, outcome) for row in part[side]))
        ran = [sum(number not in numbers(row, "not run") for row in part[side]) for side in ("masked", "honest")]
        rows.append((*cells, *ran))
    columns = (
        Column("test"),
        Column("ROC area", "of what it measures, where it ran", ".2f"),
        Column("fails, masked", form=COUNT), Column("warns, masked", form=COUNT),
        Column("fails, honest", form=COUNT), Column("warns, honest", form=COUNT),
        Column("ran, masked", form=COUNT), Column("ran, honest", form=COUNT),
    )  # fmt: skip
    return Table("The tests", columns, tuple(rows))


def cost(rows: Sequence[Row]) -> Table:
    """Return the processor time of suite and audit: `strong` by default, with all searches, and the panel's lighter suite.

    The time is that of the repeated run where there is one.
    """
    rows = [row | {k: v for k, v in row.get("again", {}).items() if "seconds" in k} for row in rows]
    sets = {
        "default": [row for row in rows if row["half"] == "fifth"],
        "all searches": [row for row in rows if row.get("full") and row["half"] != "fifth"],
        "lighter": [row for row in rows if row["half"] in HALVES],
    }
    cells: list[tuple[Any, ...]] = []
    for name, chosen in sets.items():
        groups = {**split(chosen), "all": chosen}
        groups["random, of these"] = [row for row in chosen if row["random"]]
        for side, found in groups.items():
            if found:
                suite, own = (np.array([row[f"{which} seconds"] for row in found]) for which in ("suite", "audit"))
                ratio, whole = own / np.maximum(suite, 0.01), own.sum() / suite.sum()
                cells.append((name, side, len(found), suite.sum(), own.sum(), whole, np.median(ratio)))
    rounded = [tuple(float(cell) if isinstance(cell, np.floating) else cell for cell in row) for row in cells]
    columns = (
        Column("suite"), Column("networks"), Column("evaluations", form=COUNT), Column("suite, s", form=".0f"),
        Column("audit, s", form=".0f"), Column("audit / suite", form=".2f"), Column("median of the ratios", form=".2f"),
    )  # fmt: skip
    return Table("Processor time", columns, tuple(rounded))


def remedies(masked: Sequence[Row]) -> Table:
    """Return what the attacks gained that the audit makes for its findings."""
    rows = []
    for row in masked:
        gained = [r for r in row["remedies"] if r["after"] < r["before"]]
        said = "; ".join(f"{r['before'] / r['of']:.0%} → {r['after'] / r['of']:.0%} by {r['attack']}" for r in gained)
        rows.append((row["name"], row["half"], row["suite"], row["audited"], row["adaptive"], said or "none"))
    columns = (
        Column("network"), Column("set"), Column("suite", form=SHARE), Column("after the audit", form=SHARE),
        Column("adaptive", form=SHARE), Column("gains of the audit's own attacks"),
    )  # fmt: skip
    return Table("The audit's attacks", columns, tuple(rows))


def kind_of_remedy(attack: str) -> str:
    """Return the kind of an attack that the audit makes, from its name."""
    kinds = {
        "rescaled": "the same attack on rescaled logits",
        "student": "transfer from a distilled student",
        "transfer": "transfer from the classifier inside",
        "every intermediate": "BPDA through every intermediate image",
        " before '": "BPDA through the stages before the classifier",
        "Square": "Square with more queries",
        "PGD on the mean": "PGD on the mean of draws (EOT)",
    }
    named = next((kind for part, kind in kinds.items() if part in attack), None)
    return named or f"BPDA through {'layers' if attack[len('BPDA through ')].isupper() else 'operations'}"


def gains(masked: Sequence[Row]) -> Table:
    """Return how much each kind of attack of the audit gained, in percentage points of the robust accuracy."""
    found: dict[str, list[float]] = {}
    for row in masked:
        for r in row["remedies"]:
            found.setdefault(kind_of_remedy(r["attack"]), []).append(100 * (r["before"] - r["after"]) / r["of"])
    rows = [
        (kind, len(points), sum(point > 0 for point in points), float(np.mean(points)), max(points))
        for kind, points in sorted(found.items(), key=lambda item: -float(np.mean(item[1])))
    ]
    columns = (
        Column("attack"), Column("networks", "on which it ran", COUNT), Column("gained on", form=COUNT),
        Column("mean gain, points", form=".1f"), Column("largest gain, points", form=".0f"),
    )  # fmt: skip
    return Table("Gains of the audit's attacks", columns, tuple(rows))


def networks(title: str, found: Sequence[Row]) -> Table:
    """Return the accuracies and the verdict of each network."""
    accuracies = ("clean", "naive", "suite", "adaptive", "audited")
    rows = tuple(
        (
            row["name"], row["kind"], row["half"], *(row[name] for name in accuracies), row["judged"], row["level"],
            _listed(numbers(row, "fail")), _listed(numbers(row, "flag")),
        )
        for row in found
    )  # fmt: skip
    columns = (
        Column("network and ball"), Column("kind"), Column("set"),
        *(Column("after the audit" if name == "audited" else name, form=SHARE) for name in accuracies),
        Column("judged"), Column("verdict"), Column("failed"), Column("warned"),
    )  # fmt: skip
    return Table(title, columns, rows)


def _listed(found: Sequence[int]) -> str:
    return ", ".join(map(str, found)) or "–"


def wrong(rows: Sequence[Row]) -> Table:
    """Return the wrong verdicts with their reasons."""
    missed = [row for row in rows if row["masked"] and misjudged(row) and not is_alarm(row)]
    alarms = [row for row in rows if not row["masked"] and is_alarm(row)]
    found = [("missed", row) for row in missed] + [("false alarm", row) for row in alarms]
    cells = tuple((word, row["name"], row["half"], REASONS.get(row["name"], row["verdict"])) for word, row in found)
    return Table("Wrong verdicts", tuple(map(Column, ("wrong", "network and ball", "set", "reason"))), cells)
