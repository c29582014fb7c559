"""The sockets that --media opens on a host."""

import socket
from contextlib import ExitStack

import pytest

from antiphon_common.settings import Address, Media
from antiphon_common.shell.interfaces import default_address, local_addresses
from antiphon_relay.shell.public_sockets import PublicSocketError, expand, ingress_id_of, open_public_sockets


def media(host: str, advertised: Address | None = None, ingress: int | None = None) -> Media:
    return Media(Address(host, 0), advertised, ingress)


def test_a_wildcard_expands_to_each_address_of_its_family() -> None:
    hosts = [one.local.host for one in expand([media("0.0.0.0")])]
    assert hosts == local_addresses(socket.AF_INET)
    assert "127.0.0.1" in hosts
    assert not any(one.local.host.startswith("fe80") for one in expand([media("::"), media("0.0.0.0")]))


def test_a_wildcard_with_an_advertised_address_is_the_address_of_the_default_route() -> None:
    public = Address("203.0.113.9", 3478)
    host = default_address(socket.AF_INET)
    expected = [] if host is None else [media(host, public)]
    assert expand([media("127.0.0.1"), media("0.0.0.0", public)]) == [media("127.0.0.1"), *expected]


def test_relays_behind_one_address_have_the_same_ingress_id() -> None:
    public = Address("203.0.113.9", 3478)
    with ExitStack() as stack:
        opened = open_public_sockets(
            [media("127.0.0.1", public), media("127.0.0.2"), media("127.0.0.3", ingress=5)], stack
        )
        ids = [one.ingress.id for one in opened]
        assert ids == [ingress_id_of(public), ingress_id_of(opened[1].advertised), 5]
        assert [one.advertised.host for one in opened] == ["203.0.113.9", "127.0.0.2", "127.0.0.3"]
        assert all(0 < one < 65536 for one in ids)


def test_an_advertised_port_of_zero_is_the_port_of_the_socket() -> None:
    with ExitStack() as stack:
        (opened,) = open_public_sockets([media("127.0.0.1", Address("203.0.113.9", 0))], stack)
        assert opened.advertised == Address("203.0.113.9", opened.socket.address[1])


@pytest.mark.parametrize("settings", [[media("127.0.0.1", ingress=0)], [media("127.0.0.1", ingress=5)] * 2, []])
def test_equal_ingress_ids_are_refused(settings: list[Media]) -> None:
    with ExitStack() as stack, pytest.raises(PublicSocketError):
        open_public_sockets(settings, stack)
