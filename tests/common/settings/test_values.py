"""Values of settings: how they are read, and the error message of an invalid one."""

from typing import Any

import pytest

from antiphon_common.settings import (
    Address,
    FrontSettings,
    Media,
    RelaySettings,
    SharedSettings,
    TransceiverSettings,
    backend_urls,
    parse,
)

ALL = (FrontSettings, RelaySettings, TransceiverSettings, SharedSettings)


def settings(*argv: str, **environ: str) -> Any:
    return parse("antiphon", "All in one.", ALL, argv, environ)


def test_repeated_settings_become_lists() -> None:
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
def test_an_invalid_value_is_reported_in_one_line(
    argv: list[str], environ: dict[str, str], hints: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse("antiphon", "", ALL, argv, environ)
    output = capsys.readouterr()
    assert (exit_info.value.code, output.out, output.err.count("\n")) == (2, "", 1)
    assert all(hint in output.err for hint in hints), output.err


def test_an_invalid_redis_url_is_not_quoted_since_it_may_contain_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--redis", "reds://:hunter2@127.0.0.1")
    error = capsys.readouterr().err
    assert "--redis" in error
    assert "hunter2" not in error
