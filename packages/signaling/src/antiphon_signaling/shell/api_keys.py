"""Reads API-key files, and makes the authenticator that the settings ask for."""

import base64
from collections.abc import Callable
from pathlib import Path

from antiphon_common.settings import FrontSettings, SettingsError, is_loopback
from antiphon_common.shell.secrets import find_exposure
from antiphon_signaling.authentication import DEFAULT_TENANT, ApiKeys, Authenticator

MADE_KEY_BYTES = 24
"""Random bytes of the API key that is made at start."""


def load_api_keys(file: str) -> ApiKeys:
    """Read an API-key file that only its owner can read.

    Raises:
        SettingsError: the file is missing, exposed or malformed. The message has its name.
    """
    try:
        if (exposure := find_exposure(file)) is not None:
            raise SettingsError(exposure)
        return ApiKeys.parse(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--api-key-file: cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"--api-key-file: {file} is not text") from None
    except SettingsError as error:
        raise SettingsError(f"--api-key-file: {file}: {error}") from None


def make_authenticator(front: FrontSettings, random: Callable[[int], bytes]) -> tuple[Authenticator, str | None]:
    """Return the authenticator that the settings ask for, and the API key if one was made now.

    The keys come from a file. Without one, no key is needed with `--no-auth` or on loopback; else a key is made.

    Raises:
        SettingsError: the API-key file cannot be used.
    """
    proxies = front.proxy
    if front.api_key_file:
        return Authenticator(load_api_keys(front.api_key_file), proxies=proxies), None
    if front.no_auth:
        return Authenticator(None, proxies=proxies), None
    if is_loopback(front.http.host):
        return Authenticator(None, loopback_only=True, proxies=proxies), None
    key = base64.urlsafe_b64encode(random(MADE_KEY_BYTES)).decode()
    return Authenticator(ApiKeys({key: DEFAULT_TENANT}), proxies=proxies), key
