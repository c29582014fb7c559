"""Where a service gets the keys from that it shares with the others."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from antiphon_common.keys import SECRET_SIZE, Key, KeyRing
from antiphon_common.settings import Address, SettingsError, SharedSettings, is_loopback
from antiphon_common.shell.supervise import explained

logger = logging.getLogger(__name__)

KNOWN_TO_ALL = KeyRing([Key(0, bytes(SECRET_SIZE))])
"""What --insecure runs on without a secret file: every installation has it, so services on several machines agree."""


def load_keys(shared: SharedSettings, exposed: Mapping[str, Address]) -> KeyRing:
    """Return the keys of a single service; what stands in the way is one line on standard error, and the exit.

    `exposed` names its link and control addresses by their flags. Without a secret file they must be on loopback: then
    all services that one user runs on one machine share a file of their own, which the first of them makes. With
    `insecure` set they may be anywhere.
    """
    with explained():
        if shared.secret_file is not None:
            return KeyRing.load(shared.secret_file)
        if shared.insecure:
            logger.warning("running on keys that everybody knows, as --insecure says")
            return KNOWN_TO_ALL
        _refuse_exposed(exposed)
        file = own_secret_file()
        if not file.exists():
            _make_own(file)
        return KeyRing.load(file)


def own_secret_file() -> Path:
    """Return where a user's services on this machine keep their common keys (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "antiphon" / "secret"


def write_secret(file: Path, text: str) -> None:
    """Write a new file that only its owner can read; raise FileExistsError rather than replace one.

    It appears with its content: a service that starts at the same moment never reads half of it.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        os.link(draft, file)
    finally:
        draft.unlink()


def _refuse_exposed(addresses: Mapping[str, Address]) -> None:
    for flag, address in addresses.items():
        if not is_loopback(address.host):
            raise SettingsError(
                f"{flag} {address} can be reached by other machines: make a secret file with `python -m antiphon "
                "keygen FILE` and give it to every service with --secret-file (--insecure does without)"
            )


def _make_own(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(file, KeyRing.generate(os.urandom).format())
    except FileExistsError:
        return  # another service was first: its keys are as good
    except OSError as error:
        raise SettingsError(
            f"cannot write {file} ({error.strerror}): make a secret file with `python -m antiphon keygen FILE` and "
            "give it to every service with --secret-file"
        ) from None
