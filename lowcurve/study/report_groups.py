"""The report of a study: what opens it, and its folded groups with their conclusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowcurve.evaluation.audit.verdict import WORDS
from lowcurve.report import Group, page
from lowcurve.results import Column, Curves, Result, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.study import findings
from lowcurve.study.optional import MISSING
from lowcurve.study.side_by_side import TRAINING, write_setting

FIRST = ("against radius", "against scale")
"""The chart that opens the report: the first of these that the results have."""
ROBUSTNESS = ("bracket", "verified", "attacks", "gallery", "transfer")
CURVATURE = (
    "geometry", "against scale", "curvature and robustness", "stability", "profile", "profile at scale", "density", "spectrum",
    "linearity", "indicator", "discrepancy", "layers",
)  # fmt: skip
FOUND = "found by DeepFool"
"""Column of the boundary's table with the distances."""
TOLD = 3
"""At most so many missing results are named on the first screen."""


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: Heading.
        lead: Sentence below it.
        results: Results by kind, in reading order.
        ball: Norm and radius of the attacks, such as "l_inf radius 0.125".
        suite: Name of the suite of attacks.
        facts: Facts on how the results were made.
        settings: All settings by dotted name.
        warnings: Sentences in a box on the first screen.
        commands: Commands that repeat or continue the run.
        before: Kinds that open the page below the first table, such as a comparison with a paper.
        comparable: False if the networks were attacked under different conditions, so no sentence compares them.
    """

    title: str
    lead: str
    results: Mapping[str, Result]
    ball: str
    suite: str
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    commands: Sequence[str] = ()
    before: Sequence[str] = ()
    comparable: bool = True

    def sentences(self) -> list[str]:
        """Return what was found, in two to four sentences; none if nothing was evaluated."""
        return findings.opening(self.results, self.ball, self.suite) if self.comparable else []

    def write(self, *, interactive: bool = True) -> str:
        """Return the page.

        Args:
            interactive: Add the scripts.
        """
        chart = next((kind for kind in FIRST if isinstance(self.results.get(kind), Curves)), "")
        shown = [kind for kind in (chart, "comparison", *self.before) if kind in self.results]
        warnings = [*findings.cautions(self.results, self.suite), *self.warnings, *_lacks(self.results.get(MISSING))]
        return page(
            self.title,
            self.lead,
            [self._brief(self.results[kind]) for kind in shown],
            {},
            warnings,
            findings=self.sentences() or [self._silence()],
            groups=self.groups(shown),
            interactive=interactive,
        )

    def _brief(self, result: Result) -> Result:
        """Return a table with the audit's verdicts shortened; the tests' names are in the group on the audit."""
        return findings.shorten_verdicts(result, self.results.get("audit")) if isinstance(result, Table) else result

    def _silence(self) -> str:
        if not self.results:
            return "No network was attacked or measured yet."
        return (
            "No robust accuracy and no curvature at the scale of the attack could be computed."
            if self.comparable
            else "The runs were made under different conditions: read each network's numbers by themselves."
        )

    def groups(self, shown: Sequence[str] = ()) -> list[Group]:
        """Return the groups of all other results, each opened by its conclusion; empty ones are left out.

        Args:
            shown: Kinds that the page shows already.
        """
        left = {kind: result for kind, result in self.results.items() if kind not in shown}
        training = {kind: left.pop(kind) for kind in [*left] if kind.startswith(TRAINING)}
        audit, missing = left.pop("audit", None), left.pop(MISSING, None)
        robustness = _taken(left, ROBUSTNESS)
        curvature = _taken(left, CURVATURE)
        surfaces = [kind for kind, result in left.items() if isinstance(result, Surface)]
        draw = () if surfaces or not self.commands else ("lowcurve draw surface RUN",)
        groups = [
            Group("Robustness", self._robustness(), robustness),
            Group("Audit", self._audit(), _audit_tables(audit), findings.verdicts(self.results)),
            Group("Curvature", self._curvature(), curvature),
            Group("Boundaries and surfaces", self._boundary(len(surfaces)), list(left.values()), commands=draw),
            Group("Training", _training(training), list(training.values())),
        ]
        last = [missing, _settings(self.settings)]
        made = self._made(missing)
        kept = [group for group in groups if group.results or group.verdicts]
        tables = [table for table in last if table is not None]
        return [*kept, Group("Settings and commands", made, tables, facts=self.facts, commands=self.commands)]

    def _robustness(self) -> str:
        table = self.results.get("comparison")
        robust = findings.shares(table, self.suite) if isinstance(table, Table) else {}
        if not robust:
            return "No network was attacked."
        if not self.comparable:
            return "Each network was attacked under the conditions of its run."
        proved = findings.shares(table, "verified") if isinstance(table, Table) else {}
        least = (
            f" Proved for the first images: {findings.ranking(proved)}."
            if any(s[0] > 0 for s in proved.values())
            else ""
        )
        return f"Accuracy under the suite {self.suite} at {self.ball}: {findings.ranking(robust)}.{least}"

    def _audit(self) -> str:
        table = self.results.get("audit")
        if not isinstance(table, Table):
            return ""
        outcomes, networks = table.cells("outcome"), len({*table.cells("network")})
        tests = f"{len(outcomes)} tests of {networks} network{'' if networks == 1 else 's'}"
        return f"{tests}: {findings.count_outcomes(outcomes)}."

    def _curvature(self) -> str:
        scale, numbers = findings.curvatures(self.results)
        if not numbers:
            return "The curvature at the scale of the attack is missing."
        return f"Median curvature at the scale of the attack, h = {scale}: {findings.ranking(numbers, '.3g', falling=False)}."

    def _boundary(self, surfaces: int) -> str:
        table = self.results.get("boundary")
        numbers = findings.shares(table, FOUND) if isinstance(table, Table) else {}
        drawn = f" {surfaces} map{'' if surfaces == 1 else 's'} below." if surfaces else ""
        if not numbers:
            return f"No distance to the boundary was found.{drawn}"
        return f"Median l_2 distance to the boundary that DeepFool finds: {findings.ranking(numbers, '.3g')}.{drawn}"

    def _made(self, missing: Result | None) -> str:
        lacks = f"{len(missing.rows)} results could not be computed; " if isinstance(missing, Table) else ""
        seed = f"seed {self.facts['seed']}, " if "seed" in self.facts else ""
        text = f"{lacks}{seed}lowcurve {self.facts.get('lowcurve', '')}, written {self.facts.get('written', 'before')}."
        return text[:1].upper() + text[1:]


def _lacks(missing: Result | None) -> list[str]:
    """Return sentences on the first results that could not be computed."""
    rows = [list(map(str, row)) for row in missing.rows] if isinstance(missing, Table) else []
    told = [f"{row[0]} has no {row[1]}: {row[2]}" for row in rows if len(row) > 2][:TOLD]
    more = f"{len(rows) - TOLD} more are listed below Settings and commands."
    return [*told, more] if len(rows) > TOLD else told


def _taken(left: dict[str, Result], kinds: Sequence[str]) -> list[Result]:
    return [left.pop(kind) for kind in kinds if kind in left]


def _audit_tables(audit: Result | None) -> list[Result]:
    """Return each test's outcome by network, and the figures of all tests."""
    if not isinstance(audit, Table):
        return []
    columns = [[*map(str, audit.cells(heading))] for heading in ("network", "test", "outcome", "found")]
    if not all(columns):
        return [audit]
    networks, tests, outcomes, found = columns
    names = list(dict.fromkeys(networks))
    words = [WORDS.get(outcome, outcome) for outcome in outcomes]
    by_pair = dict(zip(zip(networks, tests, strict=True), words, strict=True))
    rows = tuple((test, *(by_pair.get((name, test), "–") for name in names)) for test in dict.fromkeys(tests))
    matrix = Table("Outcome of every test", (Column("test"), *map(Column, names)), rows, audit.caption)
    headings = (NETWORK, Column("test"), Column("outcome"), Column("figures"))
    figures = Table(
        "Figures of every test",
        headings,
        tuple(zip(networks, tests, words, found, strict=True)),
        conditions=audit.conditions,
    )
    return [matrix, figures]


def _training(courses: Mapping[str, Result]) -> str:
    """Tell the last validation accuracy of each network."""
    last: dict[str, float] = {}
    for kind, result in courses.items():
        line = result.lines.get("validation accuracy") if isinstance(result, Curves) else None
        if line is not None and line.y and line.y[-1] is not None:
            last[kind.removeprefix(TRAINING)] = line.y[-1]
    if not last:
        return f"{len(courses)} course{'' if len(courses) == 1 else 's'} of training."
    shown = list(last.items())[: findings.LISTED]
    more = f" and {len(last) - len(shown)} more" if len(last) > len(shown) else ""
    listed = ", ".join(f"{name} {100 * value:.1f} %" for name, value in shown)
    return f"Validation accuracy after the last epoch: {listed}{more}."


def _settings(settings: Mapping[str, Any]) -> Table | None:
    rows = tuple((name, write_setting(value)) for name, value in settings.items())
    return Table("All settings", (Column("setting"), Column("value")), rows) if rows else None
