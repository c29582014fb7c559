"""The groups of settings of each service, and their defaults."""

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


def test_limits_of_callers_are_read_from_all_sources(tmp_path: Path) -> None:
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


def test_a_shipped_backend_is_accepted_only_by_the_program_that_ships_it() -> None:
    with pytest.raises(SettingsError, match="echo=ws://"):
        backend_urls(TransceiverSettings())
