"""Write the table of papers, equations and functions of lowcurve, from the `Reference:` lines of the docstrings.

`python docs/concordance.py` writes docs/concordance.md. tests/test_structure.py checks that the page is current.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "lowcurve"
TITLES = {
    "bardusco_report": "Bardusco: Robustness and curvature in deep learning",
    "moosavi2019cure": "Moosavi-Dezfooli, Fawzi, Uesato, Frossard: Robustness via curvature regularization, and vice versa",
    "srinivas2022lcnn": "Srinivas, Matoba, Lakkaraju, Fleuret: Efficient training of low-curvature neural networks",
    "yu2018interpreting": "Yu et al.: Interpreting adversarial robustness, a view from decision surface in input space",
}
HEAD = """# Concordance

For each paper, its equations, figures and tables, and the functions of `lowcurve` that compute them.
`python docs/concordance.py` writes this page from the `Reference:` lines of the docstrings.
"""
KEY = re.compile(r"\b(?:[a-z]+\d{4}[a-z]+|bardusco_report)\b")
YEAR = re.compile(r"\b(19|20)\d\d\b")


def references() -> Iterator[tuple[str, str, str]]:
    """Yield every (work, place in it, dotted name of the function) of the docstrings."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for name, docstring in _documented(ast.parse(path.read_text()), module):
            for paragraph in re.findall(r"^Reference: (.*?)(?:\n\n|\Z)", docstring, re.MULTILINE | re.DOTALL):
                for work, place in works(" ".join(paragraph.split())):
                    yield work, place, name


def works(reference: str) -> list[tuple[str, str]]:
    """Return the works and places of one line. Semicolons separate them; a part without a work belongs to the one before.

    Example:
        >>> works("srinivas2022lcnn, section 3 (C); moosavi2019cure, Eq. (1); not as printed.")
        [('srinivas2022lcnn', 'section 3 (C)'), ('moosavi2019cure', 'Eq. (1); not as printed')]
    """
    parts: list[str] = []
    for part in re.split(r"; (?![^(]*\))", reference.removesuffix(".")):
        head = part.split(",")[0]
        if parts and not KEY.search(head) and not YEAR.search(head):
            parts[-1] += f"; {part}"
        else:
            parts.append(part)
    return [_work(part) for part in parts]


def page() -> str:
    """Return the concordance as Markdown: first the works with a bibliography key, then the others by name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for work, place, name in references():
        found.setdefault(work, []).append((place, name))
    sections = [HEAD]
    for work in sorted(found, key=lambda work: (not KEY.fullmatch(work), work)):
        rows = [f"| {place or 'the whole'} | `{name}` |" for place, name in sorted(found[work], key=_natural)]
        title = f"{TITLES[work]}.\n\n" if work in TITLES else ""
        sections.append(f"## {work}\n\n{title}| place | function |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(sections)


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from _documented(child, f"{name}.{child.name}")


def _work(part: str) -> tuple[str, str]:
    """Split a part into the work, which is a key or authors with their year, and the place in it."""
    head, _, place = part.partition(", ")
    key = KEY.search(head)
    if key is not None:
        around = head.replace(key.group(), "it") if head != key.group() else ""
        return key.group(), ", ".join(filter(None, (around, place)))
    dated = re.match(r"(.*?\b(?:19|20)\d\d)\b[\s,;(]*(.*)", part)
    if dated is None:
        return head, place
    return dated.group(1), dated.group(2).replace(")", "", int("(" not in dated.group(2)))


def _natural(row: tuple[str, str]) -> list[tuple[int, str]]:
    """Return a sort key that puts figure 2 before figure 10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", " ".join(row))]


if __name__ == "__main__":
    (HERE / "concordance.md").write_text(page())
