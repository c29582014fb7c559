"""`antiphon keygen`: makes the secret file that all services of an installation share, and rotates its keys."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from antiphon_common.keys import SECRET_SIZE, KeyRing, KeyRingError
from antiphon_common.shell.secrets import replace_secret, write_secret

MINT_SECONDS = 60
"""Seconds until the new key is used. Kubernetes takes a minute to copy the file to every service."""
RETIRE_SECONDS = 3600
"""Seconds for which old keys are still accepted: longer than a link header or a control request is valid. A call may
last longer than the key of its token."""


def main(arguments: Sequence[str]) -> None:
    """Write a new secret file, or its text to standard output. With --rotate, add a key to a file.

    Raises:
        SystemExit: the file exists, cannot be written, or is no secret file.
    """
    parser = argparse.ArgumentParser(
        prog="antiphon keygen",
        description="Make the secret file that relay, transceiver and signaling share (--secret-file).",
        epilog="Services read the file again when it changes. After --rotate, copy the file to every machine before "
        "the new key is used. No call is lost.",
    )
    parser.add_argument(
        "file", nargs="?", help="file to write, which only its owner can read (default: standard output)"
    )
    parser.add_argument("--rotate", action="store_true", help="add a new key to the file; the older keys retire later")
    add_seconds = partial(parser.add_argument, type=int, metavar="SECONDS")
    add_seconds(
        "--in",
        dest="mint",
        default=MINT_SECONDS,
        help=f"time until the new key is used; services read it within 3 s (default: {MINT_SECONDS})",
    )
    add_seconds(
        "--retire",
        default=RETIRE_SECONDS,
        help=f"time from then until the older keys retire (default: {RETIRE_SECONDS})",
    )
    given = parser.parse_args(arguments)
    if given.rotate and given.file is None:
        parser.error("--rotate needs the file")
    try:
        if given.rotate:
            _rotate(Path(given.file), given.mint, given.retire)
        elif given.file is None:
            sys.stdout.write(KeyRing.generate(os.urandom).format())
        else:
            write_secret(Path(given.file), KeyRing.generate(os.urandom).format())
    except FileExistsError:
        raise SystemExit(f"antiphon keygen: {given.file} is there already: remove it, or write another") from None
    except OSError as error:
        raise SystemExit(f"antiphon keygen: cannot write {given.file}: {error.strerror}") from None
    except KeyRingError as error:
        raise SystemExit(f"antiphon keygen: {error}") from None


def _rotate(file: Path, mint: int, retire: int) -> None:
    ring = KeyRing.load(file)
    rotated = ring.rotate(os.urandom(SECRET_SIZE), int(time.time()), mint_after=mint, retire_after=retire)
    replace_secret(file, rotated.format())
    key = rotated.keys[-1]
    print(f"key {key.id} is used in {mint} s; the others retire {retire} s later", file=sys.stderr)
