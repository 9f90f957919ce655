"""Claims of papers, compared with our numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcurve.results.kinds import Cell, Column, Conditions, Table

NOT_IN_PAPER = "not in the paper"


@dataclass(frozen=True)
class Claim:
    """A number or statement of a paper, with ours.

    Args:
        name: Name of the number, such as "LCNN: mean ‖H‖".
        paper: The paper's number, as printed.
        where: Place in the paper.
        ours: Our number, with an interval or without, or text. None if it was not run.
        form: Format specification of our number.

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
        """Our number as text."""
        return "not run" if self.ours is None else Column("", form=self.form).write(self.ours)


def holds(name: str, where: str, found: bool | None, evidence: str = "") -> Claim:
    """Return a claim that a statement holds for our numbers, or does not.

    Args:
        name: The statement.
        where: Its place in the paper. `NOT_IN_PAPER` stands for a statement of ours.
        found: True if it holds. None if it was not run.
        evidence: The numbers that show it.

    Example:
        >>> holds("LCNN curves less than standard", "Table 1", True, "C 20 and 90").shown
        'holds (C 20 and 90)'
    """
    verdict = (
        None if found is None else f"{'holds' if found else 'does not hold'}{f' ({evidence})' if evidence else ''}"
    )
    return Claim(name, "–" if where == NOT_IN_PAPER else "holds", where, verdict)


def comparison_table(
    title: str, claims: Sequence[Claim], caption: str = "", conditions: Conditions | None = None
) -> Table:
    """Return a table of claims.

    Args:
        title: Its title.
        claims: The rows.
        caption: Its caption.
        conditions: Conditions under which our numbers hold.

    Example:
        >>> comparison_table("Table 2", [Claim("CURE: clean", "81.2", "Table 2")]).rows
        (('CURE: clean', '81.2', 'not run', 'Table 2'),)
    """
    columns = (
        Column("number", "The number or statement."),
        Column("paper", "As printed."),
        Column("ours", "Our result under the conditions below."),
        Column("where", "Place in the paper."),
    )
    rows = tuple((claim.name, claim.paper, claim.shown, claim.where) for claim in claims)
    return Table(title, columns, rows, caption, conditions or {})
