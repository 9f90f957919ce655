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


def holds(name: str, where: str, found: bool | None, evidence: str = "", *, told: bool | None = None) -> Claim:
    """Return a claim that a statement holds for our numbers, does not hold, or cannot be told.

    Numbers of a sample of images or seeds tell only what their intervals tell. Without an interval nothing can be told.

    Args:
        name: The statement.
        where: Its place in the paper. `NOT_IN_PAPER` stands for a statement of ours.
        found: True if it holds for the numbers as they are. None if it was not run.
        evidence: The numbers that show it.
        told: True if the intervals of the numbers are apart, or if the statement is exact. False if they overlap. None if
            no interval is known.

    Example:
        >>> holds("LCNN curves less than standard", "Table 1", True, "C 20 and 90", told=True).shown
        'holds (C 20 and 90)'
        >>> holds("LCNN curves less than standard", "Table 1", True, "C 20 and 21").shown
        'cannot be told (C 20 and 21; no interval)'
    """
    paper = "–" if where == NOT_IN_PAPER else "holds"
    if found is None:
        return Claim(name, paper, where)
    verdict = ("holds" if found else "does not hold") if told else "cannot be told"
    reasons = [evidence] if evidence else []
    if not told:
        reasons.append("no interval" if told is None else "intervals overlap")
    return Claim(name, paper, where, verdict + (f" ({'; '.join(reasons)})" if reasons else ""))


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
