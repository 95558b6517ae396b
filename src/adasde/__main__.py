"""``python -m adasde`` is the command line."""

import sys

from adasde.cli import main

sys.exit(main())
