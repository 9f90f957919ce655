"""The exception for wrong input. This module needs no torch, so the command line and the report start without it."""

import difflib
from collections.abc import Iterable

LONGEST = 600
"""Longer parts of an error are shown by their beginning and end."""


class InputError(ValueError):
    """A mistake in what the user gave, told in two plain sentences.

    Args:
        expected: What would have been right, as the object of "Expected".
        received: What was given instead.
        hint: What to do, as an instruction.

    Example:
        >>> print(InputError("a radius of at most 1.0", "8.0", "write pixels(8) for 8/255"))
        Expected a radius of at most 1.0, got 8.0. Write pixels(8) for 8/255.
    """

    def __init__(self, expected: str, received: object, hint: str) -> None:
        self.expected, self.received, self.hint = _shorten(expected), _shorten(str(received)), hint
        super().__init__(f"Expected {self.expected}, got {_sentence(self.received)} {_sentence(_capitalize(hint))}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.expected, self.received, self.hint)


class NotAvailable(InputError):
    """A quantity that cannot be computed for this network, told like an `InputError`.

    The network itself is fine. A study leaves the quantity's column empty with this reason, and goes on.

    Example:
        >>> print(NotAvailable("operations with known derivative bounds", "softmax", "bound the network without it"))
        Expected operations with known derivative bounds, got softmax. Bound the network without it.
    """


class RunError(InputError):
    """What ends a whole run and not one step of it, such as a full disk."""


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Suggest the known word that is most similar to a misspelt one.

    Args:
        word: What the user wrote.
        known: The words that exist.
        otherwise: The hint if none of them is similar.

    Example:
        >>> nearest("CUER", ["standard", "CURE"], "see --help"), nearest("?", ["CURE"], "see --help")
        ('did you mean CURE?', 'see --help')
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f"did you mean {names[close[0]]}?" if close else otherwise


def describe(value: object) -> str:
    """Describe a value in an error: a class, a short value itself, or the type of anything longer.

    Example:
        >>> describe("l7"), describe(2), describe(None), describe([1, 2]), describe(dict)
        ("'l7'", '2', 'None', 'list', 'the class dict itself')
    """
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return repr(value) if value is None or isinstance(value, str | int | float) else type(value).__name__


def _capitalize(text: str) -> str:
    """Capitalize the first word unless it is code, such as `h=0.1`."""
    word = text.partition(" ")[0].rstrip(",:;")
    return text[:1].upper() + text[1:] if word.isalpha() else text


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
