"""Model cards: the measured numbers of a network, their conditions, and the audit's verdict, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.errors import InputError
from lowcurve.evaluation.columns import share_of_true
from lowcurve.results import Table, load
from lowcurve.store import NUMBERS, Run

if TYPE_CHECKING:
    from lowcurve.evaluation import AttackResult
    from lowcurve.evaluation.audit import Audit

NAMES, RAISED = ("network", "audit"), ("flag", "fail")
USE = """```python
import lowcurve as lc
from lowcurve.integrations.hub import HubNetwork

model = HubNetwork.from_pretrained("USER/NAME")  # pixels in [0, 1] -> logits
print(lc.attack(model, images, labels, lc.strong("linf", 8 / 255)))
```"""


def card_of_run(folder: str | Path, name: str) -> str:
    """Return the model card of a network from its run's results.

    It holds the row of the report's first table with the meaning of each number, the conditions, the audit's verdict and every
    test that it raised.

    Args:
        folder: Folder of a run with results.
        name: Name of the network.

    Returns:
        Markdown.

    Raises:
        InputError: If the run has no results of this network.
    """
    content = Run.open(folder).read_json(NUMBERS)
    if content is None:
        hint = f"finish it: lowcurve study --resume {folder}"
        raise InputError(f"a run with results ({NUMBERS}) in {folder}", "none", hint)
    results = {kind: load(value) for kind, value in content["results"].items() if kind in ("comparison", "audit")}
    table, audit = results.get("comparison"), results.get("audit")
    row = next((row for row in table.rows if row[0] == name), None) if isinstance(table, Table) else None
    if not isinstance(table, Table) or row is None:
        raise InputError(f"results of {name!r} in {folder}", "none", "give the name of a network of this run")
    cells = list(zip(table.columns, row, strict=True))
    numbers = [(c.heading, c.write(cell), c.meaning) for c, cell in cells if c.heading not in NAMES]
    verdict = next((str(cell) for column, cell in cells if column.heading == "audit" and cell), "")
    raised = _raised(audit, name) if isinstance(audit, Table) else []
    facts = {key: content["facts"][key] for key in ("data", "seed", "lowcurve", "torch") if key in content["facts"]}
    return _card(
        f"{name}, trained on {facts.get('data', 'its data')}", numbers, verdict, raised, {**table.conditions, **facts}
    )


def card_of_audit(title: str, attacked: "AttackResult", audit: "Audit", **numbers: str) -> str:
    """Return a model card from an attack and an audit that were made in Python.

    Args:
        title: Title of the card, such as the network's name and its data.
        attacked: Result of `lc.attack` with the suite that judges the network.
        audit: Result of `lc.audit`.
        **numbers: Further numbers, as text by name.

    Returns:
        Markdown.

    Example:
        >>> import lowcurve as lc, torch
        >>> x, y = torch.tensor([[0.8, 0.3], [0.1, 0.9]]), [0, 1]
        >>> attacked = lc.attack(torch.nn.Identity(), x, y, lc.PGD("linf", 0.1))
        >>> found = lc.audit(torch.nn.Identity(), x, y, "linf", 0.1, budget=lc.evaluation.audit.Budget(queries=20))
        >>> print(card_of_audit("Identity on two points", attacked, found).splitlines()[0])
        # Identity on two points
    """
    tried = ", then ".join(name for name, _ in attacked.members)
    rows = [
        ("clean accuracy", str(share_of_true(attacked.clean)), "Accuracy on unperturbed images."),
        ("robust accuracy", str(share_of_true(attacked.robust)), f"At most: accuracy after {tried}."),
        *((name.replace("_", " "), value, "") for name, value in numbers.items()),
    ]
    raised = [(f"{f.number}. {f.name}", f.outcome, f.evidence, f.hint) for f in audit.findings if f.raised]
    return _card(title, rows, audit.summary, raised, audit.conditions)


def _raised(audit: Table, name: str) -> list[tuple[str, str, str, str]]:
    headings = [column.heading for column in audit.columns]
    places = [headings.index(heading) for heading in ("test", "outcome", "found", "to do")]
    rows = ([str(row[place]) for place in places] for row in audit.rows if row[0] == name)
    return [(row[0], row[1], row[2], row[3]) for row in rows if row[1] in RAISED]


def _card(
    title: str,
    numbers: Sequence[tuple[str, str, str]],
    verdict: str,
    raised: Sequence[tuple[str, str, str, str]],
    conditions: Mapping[str, Any],
) -> str:
    said = f"The audit's verdict on these accuracies: **{verdict}**." if verdict else "No audit was made."
    parts = [
        f"# {title}",
        "An image classifier that maps pixels in [0, 1] to logits. Its robustness was measured with lowcurve.",
        "## Measured",
        _table(("number", "value", "meaning"), numbers),
        "## Can they be believed?",
        f"{said} A robust accuracy is an upper bound: a stronger attack may exist.",
        *([_table(("test", "outcome", "found", "what to do"), raised)] if raised else []),
        "## Conditions",
        "\n".join(f"- {key}: {value}" for key, value in conditions.items()),
        "## Use",
        USE,
    ]
    return "\n\n".join(parts)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
