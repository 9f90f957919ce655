"""The command line: words to calls. Torch is imported only once a command runs, so that help comes at once."""

from lowcurve.cli.commands import main

__all__ = ["main"]
