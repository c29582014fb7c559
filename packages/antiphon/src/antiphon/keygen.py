"""`antiphon keygen`: makes the secret file that all services of an installation share."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from antiphon_common.keys import KeyRing
from antiphon_common.shell.secrets import write_secret


def main(arguments: Sequence[str]) -> None:
    """Write a new secret file, or its text to standard output; never replace a file."""
    parser = argparse.ArgumentParser(
        prog="antiphon keygen",
        description="Make the secret file that relay, transceiver and signaling share (--secret-file).",
        epilog="To rotate later, add a line from a new file under another id, with the times from which it is accepted "
        "and used: id:base64:accept_from:mint_from:retire_after, in Unix seconds. No call is lost.",
    )
    parser.add_argument("file", nargs="?", help="where to write it, for its owner alone; standard output without")
    file = parser.parse_args(arguments).file
    text = KeyRing.generate(os.urandom).format()
    if file is None:
        sys.stdout.write(text)
        return
    try:
        write_secret(Path(file), text)
    except FileExistsError:
        raise SystemExit(f"antiphon keygen: {file} is there already: remove it, or write another") from None
    except OSError as error:
        raise SystemExit(f"antiphon keygen: cannot write {file}: {error.strerror}") from None
