"""Ends of a command from outside: Ctrl-C, the signals that end processes, exhausted memory, a process that is gone."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from lowcurve.errors import InputError, RunError

ENDS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENCE = 2.0
"""Seconds after a signal in which another is ignored, so that the command can say how to go on. A later one ends at once."""


class Ended(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def ended_by_signals(*, for_good: bool) -> Iterator[None]:
    """Raise `Ended` at the first signal that asks the process to end.

    Signals that the process was told to ignore, as under nohup, stay ignored.

    Args:
        for_good: The process ends after the block. A further signal then changes nothing until it has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def end(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Ended(number)
        if time.monotonic() - first[0] > PATIENCE:
            os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDS}
    mine = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        # Python takes back its own handlers while it ends, but not that a signal is ignored.
        for number in mine:
            signal.signal(number, signal.SIG_IGN if for_good and first else before[number])


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of an interrupted command: 128 and the number of the signal.

    Args:
        error: What was raised.
    """
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


def say_end(error: KeyboardInterrupt, rest: str) -> int:
    """Print that a command was interrupted and return its exit code.

    Args:
        error: What was raised.
        rest: The rest of the sentence: what is kept, and how to go on.
    """
    code = exit_code(error)
    name = signal.Signals(code - 128).name
    with suppress(OSError):  # the terminal may be gone
        print(f"\n{'interrupted' if name == 'SIGINT' else f'ended by {name}'}{rest}", file=sys.stderr, flush=True)
    return code


@contextmanager
def ends_in_words(kept: str) -> Iterator[None]:
    """Turn what ends a whole run into a sentence: exhausted memory, and a process that is gone.

    Args:
        kept: What is kept, and how to go on.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from lowcurve.evaluation.sharing import is_process_error
        from lowcurve.network_calls import is_memory_error

        reason = next(iter(str(error).strip().splitlines()), "no memory left")
        if is_memory_error(error):
            hint = f"take fewer or smaller batches, or a larger machine. {kept}"
            raise RunError("enough memory for one batch", reason, hint) from None
        if is_process_error(error):
            hint = f"see what the other process wrote. {kept}"
            raise RunError("all processes to work until the end", reason, hint) from None
        raise


def as_sentence(error: Exception) -> InputError:
    """Return the error for what a computer cannot hold or read, whichever file or number it was.

    Args:
        error: What was raised.
    """
    if isinstance(error, RecursionError):
        return InputError("settings and files of few nested levels", "too many", "write them without so many brackets")
    if isinstance(error, OSError):
        name = f" {error.filename}" if error.filename else ""
        hint = "check its path and permissions"
        return InputError(f"to be able to use the file{name}", (error.strerror or str(error)).lower(), hint)
    if isinstance(error, UnicodeError):
        return InputError("text in UTF-8", str(error), "save the file as UTF-8")
    return InputError("numbers and words that a computer can hold", str(error), "write smaller ones")
