"""The command line: its arguments, what each command does, and the files that it may not lose."""

import logging
from collections.abc import Sequence

from adasde.cli.arguments import parser_of_commands
from adasde.scaling.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr where the input was bad or a file could not be used."""
    logging.basicConfig(format="adasde: %(message)s")
    logging.getLogger("adasde").setLevel(logging.INFO)
    return run_command(parser_of_commands, arguments)
