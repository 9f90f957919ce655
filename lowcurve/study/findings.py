"""Sentences on the results of a study, made from its numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lowcurve.evaluation.audit.verdict import CLEAN, TOO_WEAK, WARNED, WORDS
from lowcurve.report import Raised, Verdict
from lowcurve.results import Cell, Curves, Result, Table
from lowcurve.study.comparison import unreliable
from lowcurve.study.robustness_row import UNAUDITED

FEW = 50
"""From fewer test images nothing can be read."""
LISTED = 6
"""At most so many networks are listed in one sentence."""
ALIKE = 1.1
"""Ratios up to this one are called about equal."""
Spread = tuple[float, float, float]
"""A number with its interval, or a median with its quantiles."""


def opening(results: Mapping[str, Result], ball: str, suite: str) -> list[str]:
    """Return two to four sentences: robust accuracy, clean accuracy, curvature and the audit's verdict.

    Args:
        results: Results of a report by kind.
        ball: Norm and radius of the attacks, such as "l_inf radius 0.125".
        suite: Name of the suite of attacks.
    """
    table, doubted = results.get("comparison"), list[str]()
    robust = shares(table, suite) if isinstance(table, Table) else {}
    clean = shares(table, "clean") if isinstance(table, Table) else {}
    sentences = []
    if robust and isinstance(table, Table):
        images = f"{count} test images" if (count := examples_of(table)) else "the test images"
        doubted = [*unreliable(table)]
        sentences += _robust(robust, clean, f"At {ball}", images, suite, doubted)
    chosen = (next(iter(robust)), _best(robust, doubted)) if robust else None
    sentences += [_curvature(curvatures(results), chosen), _audit(verdicts(results), table)]
    return [sentence for sentence in sentences if sentence]


def cautions(results: Mapping[str, Result], suite: str) -> list[str]:
    """Return a warning where there are too few images to read anything from.

    Args:
        results: Results of a report by kind.
        suite: Name of the suite of attacks.
    """
    table = results.get("comparison")
    if not isinstance(table, Table) or not (count := examples_of(table)) or count >= FEW:
        return []
    widths = [high - low for _, low, high in shares(table, suite).values()]
    wide = f" Their intervals are up to {100 * max(widths):.0f} points wide." if widths else ""
    return [f"Nothing can be read from {count} test images.{wide} Run a larger scale, such as --scale laptop."]


def shares(table: Table, heading: str) -> dict[str, Spread]:
    """Return a column's numbers with their intervals by network, without cells that are missing.

    Args:
        table: A table with a row for each network.
        heading: Heading of the column.
    """
    found = {name: _spread(cell) for name, cell in _by_network(table, heading)}
    return {name: spread for name, spread in found.items() if spread is not None}


def examples_of(table: Table) -> int:
    """Return the number of attacked images that a table names in its conditions; 0 if it names none.

    Args:
        table: The table that compares the networks.
    """
    known = [table.conditions.get(key, "") for key in ("examples (robustness)", "examples")]
    found = re.search(r"\d+", next(filter(None, known), ""))
    return int(found.group()) if found else 0


def curvatures(results: Mapping[str, Result]) -> tuple[str, dict[str, Spread]]:
    """Return the scale of the attack and each network's curvature there: median, 10 and 90 % quantile over images.

    Args:
        results: Results of a report by kind.
    """
    curves, table = results.get("against scale"), results.get("geometry")
    said = table.conditions.get("h", "") if isinstance(table, Table) else ""
    scale = re.match(r"\d[\d.e+-]*", said)
    if not isinstance(curves, Curves) or scale is None or not curves.x:
        return "", {}
    h = float(scale.group())
    place = min(range(len(curves.x)), key=lambda i: abs(curves.x[i] - h))
    found = {}
    for name, line in curves.lines.items():
        parts = [part[place] if part else None for part in (line.y, line.low, line.high)]
        if (spread := _spread((parts[0], parts[1], parts[2]))) is not None:
            found[name] = spread
    return f"{h:.3g}", found


def verdicts(results: Mapping[str, Result]) -> list[Verdict]:
    """Return the audit's verdict on each network, with its counts and its raised tests.

    Args:
        results: Results of a report by kind.
    """
    table, compared = results.get("audit"), results.get("comparison")
    if not isinstance(table, Table):
        return []
    told = dict(_by_network(compared, "audit")) if isinstance(compared, Table) else {}
    columns = [column.heading for column in table.columns]
    rows = [dict(zip(columns, map(str, row), strict=True)) for row in table.rows]
    found = []
    for network in dict.fromkeys(row.get("network", "") for row in rows):
        own = [row for row in rows if row.get("network") == network]
        counted = count_outcomes(row.get("outcome") for row in own)
        raised = [
            Raised(row.get("test", ""), WORDS[row["outcome"]], _sentence(row.get("found", "")), row.get("meaning", ""),
                   row.get("to do", ""))
            for row in own if row.get("outcome") in ("flag", "fail")
        ]  # fmt: skip
        verdict = _short_verdict(str(told.get(network) or ""), len(raised))
        found.append(Verdict(network, _sentence(verdict), counted, raised))
    return found


def count_outcomes(outcomes: Iterable[Cell]) -> str:
    """Return how many tests passed, warned, failed and were not applicable.

    Args:
        outcomes: Outcomes of an audit's tests.

    Example:
        >>> count_outcomes(["passed", "flag", "passed"])
        'passed 2, warned 1, failed 0, not applicable 0'
    """
    counts = Counter(outcomes)
    return ", ".join(f"{word} {counts[outcome]}" for outcome, word in WORDS.items())


def shorten_verdicts(table: Table, audit: Result | None) -> Table:
    """Return a table whose verdicts have the number of their warnings instead of the names.

    Args:
        table: A table with a row for each network.
        audit: The tests of the audit. Verdicts on other networks stay as they are.
    """
    if not isinstance(audit, Table):
        return table
    networks = audit.cells("network")
    warned = Counter(name for name, one in zip(networks, audit.cells("outcome"), strict=False) if one == "flag")
    headings = [column.heading for column in table.columns]
    rows = (
        tuple(
            _short_verdict(cell, warned[row[0]])
            if heading == "audit" and isinstance(cell, str) and row[0] in networks
            else cell
            for heading, cell in zip(headings, row, strict=True)
        )
        for row in table.rows
    )
    return replace(table, rows=tuple(rows))


def _short_verdict(verdict: str, warnings: int) -> str:
    """Return "no masking found, 2 warnings" instead of their names; another verdict as it is."""
    found, warned, _ = verdict.partition(WARNED)
    if found != CLEAN:
        return verdict
    return "no masking found" + (f", {warnings} warning{'' if warnings == 1 else 's'}" if warned else "")


def percent(spread: Spread) -> str:
    """Return a share with its interval, with decimals only where the interval is narrow or the share is near 0 or 1.

    Args:
        spread: The share and the ends of its interval.

    Example:
        >>> percent((0.675, 0.625, 0.721)), percent((0.9967, 0.982, 1.0))
        ('68 % [63, 72]', '99.7 % [98.2, 100.0]')
    """
    value, low, high = spread
    digits = 1 if high - low < 0.02 or 0 < value < 0.01 or 0.99 < value < 1 else 0
    # Halves are rounded up, as a reader does it.
    texts = [f"{100 * number + 1e-9:.{digits}f}" for number in (value, low, high)]
    return f"{texts[0]} % [{texts[1]}, {texts[2]}]"


def ranking(numbers: Mapping[str, Spread], write: str = "percent", *, falling: bool = True) -> str:
    """List the networks in the order of their numbers; of many only the first three and the last.

    Args:
        numbers: Numbers by network.
        write: "percent", or a format for the numbers.
        falling: Begin with the largest.
    """
    ordered = sorted(numbers, key=lambda name: numbers[name][0], reverse=falling)
    texts = [
        f"{name} {percent(numbers[name]) if write == 'percent' else format(numbers[name][0], write)}"
        for name in ordered
    ]
    if len(texts) > LISTED:
        texts = [*texts[:3], f"and, at the other end of {len(texts)}, {texts[-1]}"]
    return ", ".join(texts)


def _robust(
    robust: dict[str, Spread], clean: dict[str, Spread], where: str, images: str, suite: str, doubted: Sequence[str]
) -> list[str]:
    """Compare the most robust network that the audit does not doubt with the first one and the next best."""
    first, best = next(iter(robust)), _best(robust, doubted)
    attack = f"under the strongest attack tried (suite {suite})"
    begin = f"{where}, {best} keeps {'at most ' if best in doubted else ''}{percent(robust[best])} of {images} {attack}"
    if len(robust) == 1:
        right = f"; without an attack it is right on {percent(clean[best])}" if best in clean else ""
        return [f"{begin}{right}."]
    ranked = [name for name in sorted(robust, key=lambda name: -robust[name][0]) if name != best]
    others = [name for name in ranked if name not in doubted] or ranked
    compared = list(dict.fromkeys([others[0], *([first] if first != best else [])]))
    parts = " and ".join(
        f"{name} {'at most ' if name in doubted else ''}{percent(robust[name])}" for name in reversed(compared)
    )
    sentence = f"{begin}; {parts}."
    if near := [name for name in others if _overlap(robust[name], robust[best])]:
        overlap = "interval of {} overlaps" if len(near) == 1 else "intervals of {} overlap"
        sentence += f" The {overlap.format(_joined(near))} that of {best}: it takes more images to tell them apart."
    sentences = [sentence]
    higher = [name for name in ranked if name in doubted and robust[name][0] > robust[best][0]]
    if higher and best not in doubted:
        sentences[0] += f" Higher numbers of {_joined(higher)} are not reliable, as the audit found."
    other = first if first != best else others[0]
    if best in clean and other in clean:
        pair = f"{best} is right on {percent(clean[best])} and {other} on {percent(clean[other])}"
        sentences.append(f"Without an attack, {pair}{_difference(clean[best], clean[other], best)}.")
    return sentences


def _difference(one: Spread, other: Spread, name: str) -> str:
    if _overlap(one, other):
        return ": no difference that these images could show"
    points = 100 * (one[0] - other[0])
    return f": {name} is {abs(points):.0f} points {'better' if points > 0 else 'worse'}"


def _curvature(found: tuple[str, dict[str, Spread]], chosen: tuple[str, str] | None) -> str:
    """Compare the curvature of the loss of the most robust network with that of the first one, or the extremes."""
    scale, numbers = found
    if not numbers:
        return ""
    at = f"At the scale of the attack (h = {scale} in l_2)"
    least, most = (pick(numbers, key=lambda name: numbers[name][0]) for pick in (min, max))
    if len(numbers) == 1:
        return f"{at}, the curvature of its loss has the median {_quantiles(numbers[least])} over the images."
    first, best = chosen if chosen is not None and {*chosen} <= {*numbers} else (most, least)
    if first == best:
        first = most if best != most else least
    one, other = numbers[best], numbers[first]
    between = f"the loss of {best} curves {_times(one[0], other[0])} that of {first}"
    medians = f"median {_quantiles(one)} against {_quantiles(other)} over the images"
    lowest = f"; {least} has the least, {_quantiles(numbers[least])}" if least not in (best, first) else ""
    return f"{at}, {between}: {medians}{lowest}."


def _times(one: float, other: float) -> str:
    low, high = sorted((abs(one), abs(other)))
    if low == 0 or high / low < ALIKE:
        return "about as much as"
    return f"{_factor(high / low)} times {'less' if abs(one) < abs(other) else 'more'} than"


def _factor(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.0e}"


def _audit(found: Sequence[Verdict], table: Result | None) -> str:
    """Sum up the verdicts: unreliable ones by name, then the others, then the warnings with their networks."""
    if not found:
        missing = isinstance(table, Table) and UNAUDITED in table.cells("audit")
        return "No audit was run, so nothing says whether masked gradients hide a weakness." if missing else ""
    bad = [one.network for one in found if any(test.outcome == "failed" for test in one.raised)]
    weak = [one.network for one in found if one.verdict.lower().startswith(TOO_WEAK)]
    good = [one.network for one in found if one.network not in (*bad, *weak)]
    parts = []
    if bad:
        tests = list(dict.fromkeys(test.test for one in found for test in one.raised if test.outcome == "failed"))
        parts.append(
            f"The audit says that the robust accuracy of {_joined(bad)} is not reliable: failed {_joined(tests)}"
        )
    if weak:
        parts.append(f"The audit cannot judge {_joined(weak)}: hardly better than guessing")
    if good:
        whose = (
            "" if len(good) == len(found) == 1 else f" in {'any network' if len(good) == len(found) else _joined(good)}"
        )
        warned: dict[str, list[str]] = {}
        for one in found:
            for test in one.raised:
                if test.outcome == "warned" and one.network in good:
                    warned.setdefault(test.test.partition(". ")[2] or test.test, []).append(one.network)
        count = sum(map(len, warned.values()))
        listed = "; ".join(test + (f" ({_joined(names)})" if len(found) > 1 else "") for test, names in warned.items())
        told = f", with {count} warning{'' if count == 1 else 's'}: {listed}" if count else " and raised no warning"
        parts.append(f"The audit found no masking{whose}{told}")
    return ". ".join(parts) + "."


def _by_network(table: Table, heading: str) -> Iterable[tuple[str, Cell]]:
    """Return a column's cells, each with the first cell of its row; nothing if there is no such column."""
    return zip((str(row[0]) for row in table.rows), table.cells(heading), strict=False)


def _best(numbers: Mapping[str, Spread], doubted: Sequence[str] = ()) -> str:
    """Return the network with the largest number, of those that are not doubted if there are any."""
    return max(numbers, key=lambda name: (name not in doubted, numbers[name][0]))


def _overlap(one: Spread, other: Spread) -> bool:
    return one[1] <= other[2] and other[1] <= one[2]


def _quantiles(spread: Spread) -> str:
    value, low, high = spread
    return f"{value:.3g} (10 to 90 %: {low:.3g} to {high:.3g})"


def _joined(names: Sequence[str]) -> str:
    if len(names) > LISTED:
        return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def _spread(cell: Cell) -> Spread | None:
    if isinstance(cell, tuple):
        value, low, high = cell
        if value is None or low is None or high is None:
            return None
        return (value, low, high)
    return None
