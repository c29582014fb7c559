from pathlib import Path

import pytest

from antiphon_common.settings import Address, FrontSettings, SettingsError
from antiphon_common.settings.values import read_network
from antiphon_signaling.refusals import RefusedError
from antiphon_signaling.shell.api_keys import load_api_keys, make_authenticator

KEY = "a-key-of-16-characters"


def entropy(size: int) -> bytes:
    return bytes(range(size))


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"acme:{KEY}\n")
    file.chmod(0o600)
    assert load_api_keys(str(file)).tenant_of(KEY) == "acme"
    file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"--api-key-file: .*keys: .*mode 0644.*chmod 600"):
        load_api_keys(str(file))


def test_a_missing_key_file_is_reported_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"--api-key-file: cannot read /nowhere"):
        load_api_keys("/nowhere")


def test_a_key_is_generated_only_if_other_hosts_can_reach_the_service() -> None:
    everywhere = Address("0.0.0.0", 8080)
    authenticator, key = make_authenticator(FrontSettings(http=everywhere), entropy)
    assert key is not None
    assert len(key) >= 32
    assert authenticator.tenant({"authorization": f"Bearer {key}"}, "192.0.2.7") == "default"
    with pytest.raises(RefusedError):
        authenticator.tenant({}, "127.0.0.1")
    authenticator, key = make_authenticator(FrontSettings(http=everywhere, no_auth=True), entropy)
    assert (key, authenticator.tenant({}, "192.0.2.7")) == (None, "default")
    authenticator, key = make_authenticator(FrontSettings(), entropy)
    assert (key, authenticator.tenant({}, "127.0.0.1")) == (None, "default")


@pytest.mark.parametrize("kind", ["file", "none", "made"])
def test_addresses_behind_a_proxy_are_distinguished_for_every_kind_of_credential(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "keys"
    file.write_text("acme:acme-key-of-16-bytes\n")
    file.chmod(0o600)
    front = FrontSettings(
        http=Address("0.0.0.0", 443),
        proxy=(read_network("10.0.0.0/8"),),
        api_key_file=str(file) if kind == "file" else None,
        no_auth=kind == "none",
    )
    authenticator, key = make_authenticator(front, bytes)
    headers = {"x-forwarded-for": "192.0.2.7", "authorization": f"Bearer {key or 'acme-key-of-16-bytes'}"}
    assert authenticator.identify(headers, "10.0.0.1").address == "192.0.2.7"
