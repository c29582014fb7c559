from pathlib import Path
from typing import Any

import pytest

from antiphon_common.settings import (
    Address,
    Backend,
    FrontSettings,
    Media,
    RelaySettings,
    SettingsError,
    SharedSettings,
    TransceiverSettings,
    backend_urls,
    parse,
)

ALL = (FrontSettings, RelaySettings, TransceiverSettings, SharedSettings)


def settings(*argv: str, **environ: str) -> Any:
    return parse("antiphon", "All in one.", ALL, argv, environ)


def test_defaults_are_those_of_one_machine() -> None:
    front, relay, transceiver, shared = settings()
    assert front.http == Address("127.0.0.1", 8080)
    assert relay.media == (Media(Address("0.0.0.0", 3478)), Media(Address("::", 3478)))
    assert transceiver.audio == "pcm16/24000"
    assert transceiver.backend == (Backend("echo"),)
    assert shared.admin == Address("127.0.0.1", 9090)


@pytest.mark.parametrize(
    ("groups", "port"), [((RelaySettings,), 9090), ((TransceiverSettings,), 9091), ((FrontSettings,), 9092)]
)
def test_each_service_has_its_admin_port(groups: tuple[Any, ...], port: int) -> None:
    shared = parse("service", "", (*groups, SharedSettings), [], {})[-1]
    assert shared.admin == Address("127.0.0.1", port)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text(
        'capacity = 1\ncluster = 1\naudio = "opus"\nno-auth = true\ntransceiver = ["http://a:1", "http://b:2"]'
    )
    front, _, transceiver, shared = settings(
        "--capacity", "3", ANTIPHON_CONFIG=str(file), ANTIPHON_CAPACITY="2", ANTIPHON_CLUSTER="2"
    )
    assert (transceiver.capacity, shared.cluster, transceiver.audio, front.no_auth) == (3, 2, "opus", True)
    assert shared.transceiver == ("http://a:1", "http://b:2")


def test_the_file_of_the_flag_wins_over_that_of_the_environment(tmp_path: Path) -> None:
    for name, capacity in (("flag", 1), ("environment", 2)):
        (tmp_path / name).write_text(f"capacity = {capacity}")
    given, other = str(tmp_path / "flag"), str(tmp_path / "environment")
    assert settings("--config", given, ANTIPHON_CONFIG=other)[2].capacity == 1
    assert settings(ANTIPHON_CONFIG=other)[2].capacity == 2


def test_limits_of_callers_are_settings_like_all_others(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text('tenant-calls = 7\naddress-offers = 2.5\nproxy = ["10.0.0.0/8"]')
    front = settings("--config", str(file), "--address-calls", "3", ANTIPHON_TENANT_OFFERS="0.5")[0]
    assert (front.tenant_calls, front.address_offers, front.address_calls, front.tenant_offers) == (7, 2.5, 3, 0.5)
    assert [str(network) for network in front.proxy] == ["10.0.0.0/8"]
    for argv in (
        ["--tenant-calls", "0"],
        ["--address-offers", "0"],
        ["--tenant-offers", "x"],
        ["--proxy", "10.0.0.1/8"],
    ):
        with pytest.raises(SystemExit):
            settings(*argv)


def test_repeated_settings() -> None:
    expected = (Media(Address("192.0.2.1", 3478), Address("203.0.113.1", 3478), 7), Media(Address("::1", 99)))
    texts = ("7=192.0.2.1,203.0.113.1", "[::1]:99")
    assert settings("--media", texts[0], "--media", texts[1])[1].media == expected
    assert settings(ANTIPHON_MEDIA=" ".join(texts))[1].media == expected
    assert tuple(str(media) for media in expected) == ("7=192.0.2.1:3478,203.0.113.1:3478", "[::1]:99")


def test_values_are_read() -> None:
    front, _, transceiver, shared = settings(
        *("--advertise", "203.0.113.1", "--advertise", "2001:db8::1", "--advertise", "[2001:db8::2]:443"),
        *("--backend", "mine=ws://127.0.0.1:9000/x?a=b", "--audio", "pcm16"),
        *("--transceiver-network", "1=fd00::/96:4000-4010", "--transceiver-network", "2=10.0.0.0/8:5000"),
    )
    assert front.advertise == (Address("203.0.113.1", 0), Address("2001:db8::1", 0), Address("2001:db8::2", 443))
    assert backend_urls(transceiver) == {"mine": "ws://127.0.0.1:9000/x?a=b"}
    assert [str(network) for network in shared.transceiver_network] == [
        "1=fd00::/96:4000-4010",
        "2=10.0.0.0/8:5000-5000",
    ]


@pytest.mark.parametrize(
    ("argv", "environ", "hints"),
    [
        (["--http", "8080"], {}, ["--http", "'8080'", "port"]),
        (["--http", "example.org:80"], {}, ["--http", "numeric address"]),
        (["--http", "127.0.0.1:99999"], {}, ["65535"]),
        (["--capacity", "0"], {}, ["--capacity", "above 0"]),
        ([], {"ANTIPHON_CAPACITY": "many"}, ["ANTIPHON_CAPACITY", "'many'"]),
        ([], {"ANTIPHON_NO_AUTH": "perhaps"}, ["ANTIPHON_NO_AUTH", "true or false"]),
        (["--media", "70000=127.0.0.1"], {}, ["ingress id"]),
        (["--workers", "0"], {}, ["--workers", "from 1"]),
        (["--backend", "mine=http://127.0.0.1"], {}, ["ws://"]),
        (["--audio", "mp3"], {}, ["opus"]),
        (["--transceiver-network", "10.0.0.0/8"], {}, ["CLUSTER=CIDR"]),
        (["--relay-network", "10.0.0.1/8"], {}, ["host bits"]),
        (["--transceiver", "127.0.0.1:8090"], {}, ["http://"]),
        (["--tls-cert", "a.pem"], {}, ["--tls-key"]),
        (["--tls", "yes"], {}, ["self-signed"]),
        (["--cluster", "1", "--cluster", "2"], {}, ["--cluster", "once"]),
        (["--redis", "127.0.0.1:6379"], {}, ["--redis", "redis://"]),
        (["--drain", "-1"], {}, ["--drain", "seconds"]),
        (["--no-such-thing"], {}, ["--no-such-thing"]),
        (["--config", "absent.toml"], {}, ["absent.toml", "No such file"]),
    ],
)
def test_a_bad_value_is_one_line_that_says_what_to_do(
    argv: list[str], environ: dict[str, str], hints: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse("antiphon", "", ALL, argv, environ)
    output = capsys.readouterr()
    assert (exit_info.value.code, output.out, output.err.count("\n")) == (2, "", 1)
    assert all(hint in output.err for hint in hints), output.err


def test_a_bad_url_of_redis_is_not_quoted_since_it_may_hold_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--redis", "reds://:hunter2@127.0.0.1")
    error = capsys.readouterr().err
    assert "--redis" in error
    assert "hunter2" not in error


@pytest.mark.parametrize(("text", "hint"), [("htpp = 1", "is it 'http'?"), ("http", "not TOML")])
def test_a_bad_file_is_one_line_too(text: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_help_names_every_setting_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        settings("--help")
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    fields = [field for group in ALL for field in group.__struct_fields__]
    assert [field for field in fields if f"--{field.replace('_', '-')}" not in text] == []
    assert "127.0.0.1:8080" in text


def test_a_shipped_backend_needs_the_program_that_ships_it() -> None:
    with pytest.raises(SettingsError, match="echo=ws://"):
        backend_urls(TransceiverSettings())
