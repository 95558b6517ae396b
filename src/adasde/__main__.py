"""``adasde`` and ``python -m adasde``: the command line."""

import sys
from collections.abc import Sequence

from adasde import __version__
from adasde.common import not_installed
from adasde.scaling import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. `adasde scale` works with the core alone; the others come with adasde[workflow]."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["scale"]:
        return command.run_command(_scale_parser, given[1:])
    if given == ["--version"]:
        return command.run_command(_version_parser, given)
    try:
        from adasde import cli  # pydantic and much else, which the core does without
    except ModuleNotFoundError as error:
        if given in ([], ["-h"], ["--help"]):
            parser = _scale_parser()
            parser.epilog = f"The other commands need more. {not_installed(error)}"
            return command.run_command(lambda: parser, ["--help"])
        return command.fail(f"{not_installed(error)}; `adasde scale` works without", 2)
    return cli.main(given)


def _version_parser() -> command.Parser:
    parser = command.Parser(prog="adasde")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _scale_parser() -> command.Parser:
    parser = command.Parser(prog="adasde scale", description=command.scale.__doc__)
    command.scale_arguments(parser)
    parser.set_defaults(command=command.scale)
    return parser


if __name__ == "__main__":
    sys.exit(main())
