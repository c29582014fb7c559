import socket

import pytest

from antiphon.shell import serve
from antiphon_common.settings import Address, Media
from antiphon_relay.shell.public_sockets import AdvertisedAddress

WILDCARD, NAMED = Media(Address("0.0.0.0", 3478)), Media(Address("10.0.0.1", 99))
PUBLIC = Media(Address("10.0.0.1", 99), Address("203.0.113.1", 3478))
OF_THE_HOST = [AdvertisedAddress(1, host, 3478) for host in ("172.17.0.1", "127.0.0.1", "192.0.2.1")]


@pytest.fixture(autouse=True)
def default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {socket.AF_INET: "192.0.2.1"}
    monkeypatch.setattr(serve, "default_address", routes.get)


@pytest.mark.parametrize(
    ("settings", "opened", "advertised"),
    [
        ([WILDCARD], OF_THE_HOST, ["192.0.2.1:3478", "127.0.0.1:3478"]),
        ([WILDCARD, NAMED], [*OF_THE_HOST, AdvertisedAddress(2, "10.0.0.1", 99)],
         ["10.0.0.1:99", "192.0.2.1:3478", "127.0.0.1:3478"]),
        ([NAMED], [AdvertisedAddress(2, "10.0.0.1", 99)], ["10.0.0.1:99"]),
        ([PUBLIC], [AdvertisedAddress(2, "203.0.113.1", 3478)], ["203.0.113.1:3478"]),
    ],
)  # fmt: skip
def test_the_advertised_addresses_are_those_that_callers_can_use(
    settings: list[Media], opened: list[AdvertisedAddress], advertised: list[str]
) -> None:
    assert [str(address) for address in serve.advertised_addresses(settings, opened)] == advertised
