import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from antiphon_common.keys import Key, KeyRing
from antiphon_common.settings import Address, SharedSettings
from antiphon_common.shell.secrets import (
    find_exposure,
    follow_keys,
    load_keys,
    own_secret_file,
    read_keys,
    replace_secret,
    write_secret,
)

LOOPBACK = {"--link": Address("127.0.0.1", 0), "--control": Address("::1", 1)}
EXPOSED = {**LOOPBACK, "--link": Address("192.0.2.1", 0)}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def test_services_of_one_user_share_keys_on_loopback() -> None:
    first, second = (load_keys(SharedSettings(), LOOPBACK) for _ in range(2))
    assert first.format() == second.format()
    assert stat.S_IMODE(own_secret_file().stat().st_mode) == 0o600


def test_addresses_other_than_loopback_are_refused_without_a_secret_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        load_keys(SharedSettings(), EXPOSED)
    line = capsys.readouterr().err
    assert (exit_info.value.code, line.count("\n")) == (2, 1)
    assert all(hint in line for hint in ("--link 192.0.2.1:0", "--secret-file"))
    assert not own_secret_file().exists()


def test_insecure_services_share_keys_on_any_address() -> None:
    first, second = (load_keys(SharedSettings(insecure=True), EXPOSED) for _ in range(2))
    assert first.format() == second.format()
    assert not own_secret_file().exists()


def test_the_configured_secret_file_is_read(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = KeyRing.generate(lambda size: bytes(size))
    write_secret(state / "keys", ring.format())
    assert load_keys(SharedSettings(secret_file=str(state / "keys")), EXPOSED).format() == ring.format()
    with pytest.raises(SystemExit) as exit_info:
        load_keys(SharedSettings(secret_file=str(state / "absent")), LOOPBACK)
    assert exit_info.value.code == 1
    assert "absent: No such file" in capsys.readouterr().err


def test_a_service_does_not_start_without_a_key_valid_now(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_secret(state / "keys", KeyRing([Key(0, bytes(32), mint_from=1 << 40)]).format())
    with pytest.raises(SystemExit) as exit_info:
        load_keys(SharedSettings(secret_file=str(state / "keys")), LOOPBACK)
    assert (exit_info.value.code, "earlier mint_from" in capsys.readouterr().err) == (1, True)


async def test_keys_follow_their_file_and_stay_when_it_becomes_invalid(
    state: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    file = state / "keys"
    write_secret(file, KeyRing.generate(lambda size: bytes(size)).format())
    keys = read_keys(file)
    link, old = keys.link, keys.link.minting(0)
    nursery.start_soon(follow_keys, keys)
    await trio.sleep(2)

    def errors() -> list[str]:
        return [record.message for record in caplog.records if record.levelname == "ERROR"]

    for text in ("junk", "", KeyRing([Key(5, bytes(32), mint_from=1 << 40)]).format(), None):
        file.unlink() if text is None else replace_secret(file, text)
        reported = len(errors())
        await trio.sleep(60)
        assert (link.minting(0), len(errors())) == (old, reported + 1)
    write_secret(file, KeyRing([Key(7, bytes(range(32)))]).format())
    await trio.sleep(2)
    assert (link.minting(0)[0], link.accepting(0, 0)) == (7, None)
    replace_secret(file, KeyRing([Key(8, bytes(range(32)), retire_after=1)]).format())
    reported = len(errors())
    await trio.sleep(60)
    assert (link.minting(1 << 32)[0], len(errors())) == (8, reported + 1)
    assert "AAAA" not in caplog.text


def test_an_existing_secret_file_is_not_replaced(state: Path) -> None:
    write_secret(state / "keys", "first")
    with pytest.raises(FileExistsError):
        write_secret(state / "keys", "second")
    assert [file.read_text() for file in state.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("owner", "mode", "mounted", "trusted"),
    [
        ("own", 0o600, False, True),
        ("own", 0o400, False, True),
        ("own", 0o640, False, False),
        ("own", 0o604, False, False),
        ("own", 0o644, False, False),
        ("own", 0o660, False, False),
        ("own", 0o620, False, False),
        ("own", 0o602, False, False),
        ("own", 0o644, True, False),
        ("root", 0o600, False, True),
        ("root", 0o440, False, True),
        ("root", 0o640, False, True),
        ("root", 0o444, False, False),
        ("root", 0o460, False, False),
        ("root", 0o444, True, True),
        ("root", 0o644, True, True),
        ("root", 0o666, True, False),
        ("root", 0o464, True, False),
        ("other", 0o600, False, False),
        ("other", 0o444, True, False),
    ],
)
def test_a_secret_file_is_readable_by_its_owner_only(
    owner: str, mode: int, mounted: bool, trusted: bool, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet mounts a Secret with a `..data` link next to the file."""
    write_secret(state / "keys", KeyRing.generate(bytes).format())
    if mounted:
        (state / "..data").symlink_to(state)
    given = os.stat(state / "keys")
    uid = {"own": 1000, "root": 0, "other": 1001}[owner]
    status = os.stat_result((stat.S_IFREG | mode, *given[1:4], uid, *given[5:10]))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda file, **how: status if str(file).endswith("keys") else real(file, **how))
    exposure = find_exposure(state / "keys")
    monkeypatch.undo()
    assert (exposure is None) == trusted
    if not trusted:
        assert "chmod 600" in str(exposure) or "chown" in str(exposure)


def test_a_service_does_not_start_with_a_secret_file_that_others_can_read(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_secret(state / "keys", KeyRing.generate(bytes).format())
    (state / "keys").chmod(0o644)
    with pytest.raises(SystemExit) as exit_info:
        load_keys(SharedSettings(secret_file=str(state / "keys")), LOOPBACK)
    assert exit_info.value.code == 1
    assert "chmod 600" in capsys.readouterr().err
    (state / "keys").chmod(0o600)
    load_keys(SharedSettings(secret_file=str(state / "keys")), LOOPBACK)


def test_a_secret_mounted_by_docker_may_be_read_in_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.stat_result((stat.S_IFREG | 0o444, 1, 1, 1, 0, 0, 1, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda file, **how: status)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    found = [find_exposure("/run/secrets/antiphon"), find_exposure("/run/secrets-of-mine/antiphon")]
    monkeypatch.undo()
    assert [exposure is None for exposure in found] == [True, False]
