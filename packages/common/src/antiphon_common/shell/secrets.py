"""Reads, writes and follows the secret file, whose keys all services of an installation share."""

import logging
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import anyio

from antiphon_common.keys import SECRET_SIZE, Key, KeyRing, KeyRingError
from antiphon_common.settings import Address, SettingsError, SharedSettings, is_loopback
from antiphon_common.shell.supervise import explained

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds between two checks of the secret file."""

SECRETS_MOUNT = Path("/run/secrets")
"""Where Docker and Podman mount a container's secrets, by default with mode 0444."""

KNOWN_TO_ALL = KeyRing([Key(0, bytes(SECRET_SIZE))])
"""The keys of --insecure without a secret file. Every installation has them, so services on several machines agree."""


def load_keys(shared: SharedSettings, exposed: Mapping[str, Address]) -> KeyRing:
    """Return the keys of a service.

    `exposed` has its link and control addresses by flag. Without a secret file they must be on loopback. Then all
    services of one user on one machine share a file, which the first of them makes. With `insecure` any address is
    allowed.

    Raises:
        SystemExit: there are no usable keys. One line on standard error has the reason.
    """
    with explained():
        if shared.secret_file is not None:
            return read_keys(shared.secret_file)
        if shared.insecure:
            logger.warning("running on publicly known keys because of --insecure")
            return KNOWN_TO_ALL
        _refuse_exposed(exposed)
        file = own_secret_file()
        if not file.exists():
            _make_own(file)
        return read_keys(file)


def read_keys(file: str | Path) -> KeyRing:
    """Read a secret file.

    Raises:
        KeyRingError: the file is missing, exposed or malformed, or none of its keys has begun.
    """
    if (exposure := find_exposure(file)) is not None:
        raise KeyRingError(f"{file}: {exposure}")
    keys = KeyRing.load(file)
    if keys.is_early(time.time()):
        raise KeyRingError(f"{file}: no key may be used yet: give one of them an earlier mint_from")
    return keys


def find_exposure(file: str | Path) -> str | None:
    """Return why others can read or write a file of secrets, as the end of a sentence; None if they cannot.

    The owner must be this process's user or root. Only the owner may write the file, and others may not read it. A
    group may read root's files, as Kubernetes mounts Secrets for a pod's fsGroup. Everybody in a container may read
    mounted secrets, since the container runtime decides on their mode.
    """
    try:
        status = os.stat(file)
    except OSError:
        return None  # reading the file raises the reason
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}: give it to the user of this service (chown), or to root"
    refused = stat.S_IWGRP | stat.S_IWOTH
    if status.st_uid != 0:
        refused |= stat.S_IRGRP | stat.S_IROTH
    elif not _is_mounted(Path(file)):
        refused |= stat.S_IROTH
    if status.st_mode & refused:
        mode = stat.S_IMODE(status.st_mode)
        return f"others can read or write it (mode {mode:04o}): chmod 600 it, or set defaultMode: 0440 for a Secret"
    return None


def _is_mounted(file: Path) -> bool:
    """Return True if a container runtime has mounted the file: Docker, Podman, or the kubelet with its `..data`
    link."""
    return SECRETS_MOUNT in file.absolute().parents or (file.parent / "..data").is_symlink()


async def follow_keys(keys: KeyRing) -> None:
    """Read the secret file again whenever it has changed, until cancelled. Runs under Trio or asyncio.

    All users of `keys` have the new keys then. If the file cannot be used, the old keys stay, and the log has the
    reason.
    """
    if keys.source is None:
        return
    seen, overdue = _state_of(keys.source), False
    while True:
        await anyio.sleep(LOOK_SECONDS)
        if (state := _state_of(keys.source)) != seen:
            seen = state
            _read_again(keys, keys.source)
        if keys.is_overdue(time.time()) != overdue:
            overdue = not overdue
            if overdue:
                logger.error(
                    "every key has retired; the last one stays in use: rotate", extra={"file": str(keys.source)}
                )


def _state_of(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_again(keys: KeyRing, file: Path) -> None:
    try:
        keys.replace(read_keys(file))
    except KeyRingError as error:
        logger.error("the secret file cannot be used; the old keys stay", extra={"reason": str(error)})  # noqa: TRY400
    else:
        ids = " ".join(str(key.id) for key in keys.keys)
        logger.info("keys read again", extra={"ids": ids, "minting": keys.control.minting(time.time())[0]})


def own_secret_file() -> Path:
    """Return the secret file that a user's services on this machine share (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "antiphon" / "secret"


def write_secret(file: Path, text: str) -> None:
    """Write a new file that only its owner can read. It appears with its whole content.

    Raises:
        FileExistsError: the file exists. It stays as it is.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        os.link(draft, file)
    finally:
        draft.unlink()


def replace_secret(file: Path, text: str) -> None:
    """Replace the text of a secret file in one step, with the same owner and mode."""
    file = file.resolve()
    status = file.stat()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            stream.write(text)
        os.replace(draft, file)
    except OSError:
        draft.unlink()
        raise


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
        return  # another service was first, and its keys are used
    except OSError as error:
        raise SettingsError(
            f"cannot write {file} ({error.strerror}): make a secret file with `python -m antiphon keygen FILE` and "
            "give it to every service with --secret-file"
        ) from None
