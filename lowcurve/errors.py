"""The exception for wrong input. This module needs no torch, so the command line and the report start without it."""


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
        self.expected, self.received, self.hint = expected, str(received), hint
        super().__init__(f"Expected {expected}, got {_sentence(self.received)} {_sentence(_capitalize(hint))}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.expected, self.received, self.hint)


def _capitalize(text: str) -> str:
    """Capitalize the first word unless it is code, such as `h=0.1`."""
    word = text.partition(" ")[0].rstrip(",:;")
    return text[:1].upper() + text[1:] if word.isalpha() else text


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
