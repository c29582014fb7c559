"""`python -m antiphon`: all in one, and the commands beside it."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {"keygen": "antiphon.shell.keygen", "load": "antiphon.shell.load"}
"""The module of each command has `main(arguments)`; it is imported when the command is given, and not before."""

SERVE = "antiphon.shell.serve"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names; without one, run every service.

    Raises:
        SystemExit: with 2 if there is no such command; commands exit with their own codes.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0].startswith("-"):
        import_module(SERVE).main(given)
    elif given[0] in COMMANDS:
        import_module(COMMANDS[given[0]]).main(given[1:])
    else:
        print(f"antiphon: there is no command {given[0]!r}: try {', '.join(COMMANDS)}, or --help", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
