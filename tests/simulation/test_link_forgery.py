"""A host on the link's network without the key: a transceiver accepts none of its datagrams."""

import pytest

from antiphon.client.descriptions import read_answer
from antiphon_common.core import Path
from antiphon_common.link import HEADER_SIZE, TAG_SIZE, LinkKeys, RelayHello
from antiphon_transceiver.call_router import CallRouter
from support.floods.packet_flood import checks
from support.sim.actors import INGRESS
from support.sim.world import World

FORGED_PATH = Path.of("203.0.113.99", 40000, ingress=INGRESS)
STRANGE_RELAY = ("10.0.0.99", 9999)


def retagged(datagram: bytes) -> bytes:
    """Return a link datagram that is valid except for its tag."""
    return datagram[: HEADER_SIZE - TAG_SIZE] + bytes(TAG_SIZE) + datagram[HEADER_SIZE:]


def answers(router: CallRouter, datagram: bytes, now: float) -> int:
    """Send this datagram from an unknown host. Return the number of datagrams that the transceiver sends to it."""
    router.receive_datagram(datagram, STRANGE_RELAY, now)
    router.handle_timeout(now, now)
    return sum(sent.relay == STRANGE_RELAY for sent in iter(router.poll_transmit, None))


def live_call(world: World) -> tuple[str, list[bytes]]:
    """Make a call; return its client's ufrag and valid checks for it."""
    answered: list[str] = []

    def keep(answer: str) -> str:
        answered.append(answer)
        return answer

    client = world.call(rewrite=keep)
    assert world.run(5.0, lambda: client.connected)
    ufrag = client.core.offer().partition("ice-ufrag:")[2].split()[0]
    return ufrag, checks(1, read_answer(answered[0]).ice, ufrag)


@pytest.mark.parametrize("right", [True, False], ids=["right tag", "wrong tag"])
def test_a_valid_check_behind_a_header_with_a_wrong_tag_opens_no_path(*, right: bool) -> None:
    world = World()
    _, requests = live_call(world)
    router = world.transceivers[0].router
    paths, counted = len(router.paths), router.counters.bad_tag
    datagram = LinkKeys(world.keys.link).header(FORGED_PATH, 0, world.now) + requests[0]
    sent = answers(router, datagram if right else retagged(datagram), world.now)
    assert (sent > 0, len(router.paths) - paths, router.counters.bad_tag - counted) == (
        (True, 1, 0) if right else (False, 0, 1)
    )


@pytest.mark.parametrize("right", [True, False], ids=["right tag", "wrong tag"])
def test_a_hello_with_a_wrong_tag_announces_no_relay(*, right: bool) -> None:
    """A new relay would receive the paths of all calls at once."""
    world = World()
    live_call(world)
    router = world.transceivers[0].router
    datagram = LinkKeys(world.keys.link).encode(RelayHello((INGRESS,), boot_id=77), world.now)
    assert (answers(router, datagram if right else retagged(datagram), world.now) > 0) is right
