"""Name the code that made a result: the package's version with a fingerprint of its sources."""

import ast
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHOWS = ("cli", "report")
"""Folders that only show results."""
MEASURES = (*SHOWS, "results", "geometry", "papers", "figures")
"""Folders that no training uses. What a paper's item changes in a training is part of the training's settings."""


@lru_cache
def code_version() -> str:
    """Return VERSION+FINGERPRINT of all code that computes numbers: everything but `cli` and `report`.

    Example:
        >>> code_version().split("+")[0] == version("lowcurve")
        True
    """
    return f"{version('lowcurve')}+{fingerprint(PACKAGE, SHOWS)}"


@lru_cache
def training_version() -> str:
    """Return VERSION+FINGERPRINT of all code that trains networks: the same without the folders that measure and draw.

    Example:
        >>> training_version() == code_version()
        False
    """
    return f"{version('lowcurve')}+{fingerprint(PACKAGE, MEASURES)}"


def fingerprint(package: Path, without: Sequence[str]) -> str:
    """Compute ten hexadecimal digits that change if and only if a package's code changes.

    Hashes the syntax trees without docstrings and comments. File names and the modules that names are imported from do not
    count, so that prose, formatting and moved files invalidate no kept result.

    Args:
        package: The package's folder.
        without: Names of subfolders that are left out.

    Returns:
        The same digits on every machine and Python version.
    """
    digests = []
    for path in package.rglob("*"):
        name = path.relative_to(package).as_posix()
        if path.suffix not in (".py", ".c") or name.startswith(tuple(f"{folder}/" for folder in without)):
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        code = source if path.suffix == ".c" else _code(ast.parse(source))
        if code:
            digests.append(sha256(code).hexdigest())
    return sha256("\n".join(sorted(digests)).encode()).hexdigest()[:10]


def _code(tree: ast.Module) -> bytes:
    imported: list[str] = []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part) and not _is_own_import(part, imported)]  # type: ignore[attr-defined]
    return repr((_plain(tree), sorted(imported))).encode() if tree.body or imported else b""


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_own_import(statement: ast.AST, imported: list[str]) -> bool:
    """Note the names of an import from this package."""
    own = isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "lowcurve"
    if own:
        imported += [f"{name.name} as {name.asname}" for name in statement.names]  # type: ignore[attr-defined]
    return own


def _plain(value: object) -> object:
    """Return a syntax tree as nested tuples. Empty fields are left out, since each Python version adds new ones."""
    if isinstance(value, ast.AST):
        fields = ((name, _plain(part)) for name, part in ast.iter_fields(value) if part is not None and part != [])
        return (type(value).__name__, *fields)
    return [_plain(part) for part in value] if isinstance(value, list) else value
