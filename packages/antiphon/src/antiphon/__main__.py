"""`python -m antiphon`: all services in one process, and further commands."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {"keygen": "antiphon.shell.keygen", "load": "antiphon.shell.load"}
"""The module of each command, which has `main(arguments)`. It is imported only if its command is run."""

SERVE = "antiphon.shell.serve"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that is the first argument. Without one, run all services.

    Raises:
        SystemExit: with 2 for an unknown command. Commands exit with their own codes.
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
