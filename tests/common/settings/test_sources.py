"""Sources of settings: flags, environment and file, and the help text."""

from pathlib import Path
from typing import Any

import pytest

from antiphon_common.settings import (
    FrontSettings,
    RelaySettings,
    SharedSettings,
    TransceiverSettings,
    parse,
)

ALL = (FrontSettings, RelaySettings, TransceiverSettings, SharedSettings)


def settings(*argv: str, **environ: str) -> Any:
    return parse("antiphon", "All in one.", ALL, argv, environ)


def test_a_flag_precedes_the_environment_and_the_environment_the_file(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text(
        'capacity = 1\ncluster = 1\naudio = "opus"\nno-auth = true\ntransceiver = ["http://a:1", "http://b:2"]'
    )
    front, _, transceiver, shared = settings(
        "--capacity", "3", ANTIPHON_CONFIG=str(file), ANTIPHON_CAPACITY="2", ANTIPHON_CLUSTER="2"
    )
    assert (transceiver.capacity, shared.cluster, transceiver.audio, front.no_auth) == (3, 2, "opus", True)
    assert shared.transceiver == ("http://a:1", "http://b:2")


def test_the_file_of_the_flag_precedes_the_file_of_the_environment(tmp_path: Path) -> None:
    for name, capacity in (("flag", 1), ("environment", 2)):
        (tmp_path / name).write_text(f"capacity = {capacity}")
    given, other = str(tmp_path / "flag"), str(tmp_path / "environment")
    assert settings("--config", given, ANTIPHON_CONFIG=other)[2].capacity == 1
    assert settings(ANTIPHON_CONFIG=other)[2].capacity == 2


@pytest.mark.parametrize(("text", "hint"), [("htpp = 1", "is it 'http'?"), ("http", "not TOML")])
def test_an_invalid_file_is_reported_in_one_line(
    text: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        settings("--config", str(file))
    error = capsys.readouterr().err
    assert (error.count("\n"), hint in error) == (1, True), error


def test_a_file_may_hold_the_settings_of_every_service(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text('http = "127.0.0.1:1"\ncapacity = 7\n')
    (transceiver,) = parse("antiphon_transceiver", "", (TransceiverSettings,), ["--config", str(file)], {})
    assert transceiver.capacity == 7


def test_help_lists_every_setting_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        settings("--help")
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    fields = [field for group in ALL for field in group.__struct_fields__]
    assert [field for field in fields if f"--{field.replace('_', '-')}" not in text] == []
    assert "127.0.0.1:8080" in text
