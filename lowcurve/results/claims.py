"""A paper's numbers beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcurve.results.kinds import Cell, Column, Conditions, Table

UNSAID = "not in the paper"


@dataclass(frozen=True)
class Claim:
    """What a paper says, as it is printed, and ours.

    name: what the number is, "LCNN: mean ‖H‖". paper: as printed. where: table, figure or section. ours: a number, one with its
    spread, or text; None where it was not run. form: how ours is written, a format specification.

    Example:
        >>> Claim("CURE: PGD-20", "36.3 %", "Table 2", 0.352, ".1%").shown
        '35.2%'
    """

    name: str
    paper: str
    where: str
    ours: Cell = None
    form: str = ".3g"

    @property
    def shown(self) -> str:
        """Ours, as it is written."""
        return "not run" if self.ours is None else Column("", form=self.form).write(self.ours)


def holds(name: str, where: str, found: bool | None, evidence: str = "") -> Claim:
    """A sentence of a paper as a claim: whether it holds of ours, and the numbers that say so.

    where: `UNSAID` for a sentence of which the paper says nothing; its column is a dash then.

    Example:
        >>> holds("LCNN curves less than standard", "Table 1", True, "C 20 and 90").shown
        'holds (C 20 and 90)'
    """
    said = None if found is None else f"{'holds' if found else 'does not hold'}{f' ({evidence})' if evidence else ''}"
    return Claim(name, "–" if where == UNSAID else "holds", where, said)


def beside(title: str, claims: Sequence[Claim], caption: str = "", conditions: Conditions | None = None) -> Table:
    """The claims as a table.

    Example:
        >>> beside("Table 2", [Claim("CURE: clean", "81.2", "Table 2")]).rows
        (('CURE: clean', '81.2', 'not run', 'Table 2'),)
    """
    columns = (
        Column("number", "What it is of."),
        Column("paper", "As it is printed."),
        Column("ours", "What was found here, under the conditions below."),
        Column("where", "Where it stands in the paper."),
    )
    rows = tuple((claim.name, claim.paper, claim.shown, claim.where) for claim in claims)
    return Table(title, columns, rows, caption, conditions or {})
