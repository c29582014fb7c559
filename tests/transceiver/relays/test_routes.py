"""Routes of paths over relays. When a relay stops serving an ingress, its paths use another relay."""

from antiphon_common.core import Path
from antiphon_common.link import RelayHello
from antiphon_transceiver.relays import SILENT_AFTER, RelayTable, Route, RouteTable

FIRST, SECOND, THIRD = ("10.0.0.1", 7000), ("10.0.0.2", 7000), ("10.0.0.3", 7000)


def a_route(number: int, *, ingress: int = 1) -> Route:
    return Route(Path.of("203.0.113.1", number, ingress=ingress), FIRST, b"header")


def test_paths_of_a_silent_relay_use_another_relay_of_their_ingress() -> None:
    table, routes = RelayTable(), RouteTable()
    table.receive_hello(RelayHello((1, 2), 1), FIRST, 0.0)
    table.receive_hello(RelayHello((1,), 2), SECOND, SILENT_AFTER)
    table.handle_timeout(SILENT_AFTER)
    movable, alone = a_route(1), a_route(2, ingress=2)
    for route in (movable, alone):
        routes.open(route)
    assert routes.leave_relay(FIRST, table) == 1
    assert (movable.relay, alone.relay) == (SECOND, FIRST)


def test_paths_follow_the_shared_address_of_their_ingress() -> None:
    table, routes = RelayTable(), RouteTable()
    table.receive_hello(RelayHello((1,), 1, (1,)), FIRST, 0.0)
    table.receive_hello(RelayHello((1,), 2), SECOND, 0.0)
    table.receive_hello(RelayHello((1,), 3, (1,)), THIRD, 0.0)
    route = a_route(1)
    routes.open(route)
    assert routes.check_ingress(1, table) == 1
    assert route.relay == SECOND
    assert routes.check_ingress(1, table) == 0


def test_a_closed_route_does_not_change() -> None:
    table, routes = RelayTable(), RouteTable()
    table.receive_hello(RelayHello((1,), 2), SECOND, 0.0)
    route = a_route(1)
    routes.open(route)
    routes.close(route)
    routes.close(route)
    assert routes.check_ingress(1, table) == len(routes) == 0
    assert route.relay == FIRST
