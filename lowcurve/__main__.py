"""The command line, as `python -m lowcurve`."""

import sys

from lowcurve.cli import main

sys.exit(main())
