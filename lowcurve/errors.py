"""The one error of the house. Free of torch, so that the command line and the report start without it."""


class InputError(ValueError):
    """What a caller got wrong, in one sentence of three parts: what was expected, what came, what to write instead.

    Example:
        >>> print(InputError("a radius of at most 1.0", "8.0", "write pixels(8) for 8/255"))
        expected a radius of at most 1.0, received 8.0; write pixels(8) for 8/255
    """

    def __init__(self, expected: str, received: object, hint: str) -> None:
        self.expected, self.received, self.hint = expected, str(received), hint
        super().__init__(f"expected {expected}, received {received}; {hint}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.expected, self.received, self.hint)
