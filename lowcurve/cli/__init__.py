"""The command line. Torch is imported only once a command runs, so that help appears at once."""

from lowcurve.cli.commands import main

__all__ = ["main"]
