"""Route tokens that their owner disowns after the end of their calls."""

import pytest

from antiphon_common.link import Disown, Moved
from antiphon_common.routing import Owner
from antiphon_relay.disowned import DISOWNED_SECONDS, MAX_DISOWNED
from antiphon_relay.forwarder import OWNER_CHECKS_AT_ONCE
from support.sim.relay_harness import Relay, Seen, Transceiver, binding_request, client


@pytest.fixture
def relay() -> Relay:
    return Relay()


def passes(relay: Relay, owner: Transceiver, ufrag: bytes, number: int = 0) -> bool:
    """Return whether a check with a token reaches its owner."""
    request = binding_request(ufrag)
    seen = relay.receive(request, client(number))
    assert seen in ([], [Seen(request, client(number), owner.link)])
    return bool(seen)


def test_no_check_with_a_disowned_token_passes_and_all_others_do(relay: Relay) -> None:
    owner = relay.transceiver()
    stale, live = owner.token(1), owner.token(2)
    assert passes(relay, owner, stale)
    assert owner.send_message(Disown(stale)) == []
    assert not any(passes(relay, owner, stale, number) for number in range(100))
    assert relay.counters.disowned == 100
    assert passes(relay, owner, live)


def test_disowned_tokens_do_not_use_up_the_limits_of_new_calls(relay: Relay) -> None:
    """200 tokens of ended calls, each disowned at its first check."""
    owner = relay.transceiver()
    stale = [owner.token(number) for number in range(200)]
    for number, ufrag in enumerate(stale):
        if passes(relay, owner, ufrag, number):
            owner.send_message(Disown(ufrag))
    relay.wait(1.0)
    for number in range(20 * OWNER_CHECKS_AT_ONCE):
        assert not passes(relay, owner, stale[number % len(stale)], number)
    assert all(passes(relay, owner, owner.token(1000 + number), number) for number in range(OWNER_CHECKS_AT_ONCE))
    assert relay.counters.over_owner_limit == relay.counters.over_token_limit == 0


def test_only_the_owner_that_a_token_names_disowns_it(relay: Relay) -> None:
    owner, other = relay.transceiver(9000), relay.transceiver(9001)
    ufrag = owner.token()
    other.send_message(Disown(ufrag))
    owner.send_message(Disown(ufrag[:-1] + (b"A" if ufrag[-1:] != b"A" else b"Q")))
    owner.send_message(Disown(b"!" * len(ufrag)))
    assert passes(relay, owner, ufrag)
    assert (relay.counters.not_owner, relay.counters.link_malformed) == (1, 2)
    assert len(relay.core.disowned) == 0


def test_a_previous_owner_cannot_disown_calls_that_have_moved(relay: Relay) -> None:
    origin, successor = relay.transceiver(9000), relay.transceiver(9001)
    early, late = origin.token(1), origin.token(2)
    origin.send_message(Disown(early))
    successor.send_message(Moved(origin.owner, successor.owner))
    origin.send_message(Disown(late))
    successor.send_message(Disown(late))
    assert passes(relay, successor, early)
    assert passes(relay, successor, late)


def test_a_disowned_token_expires_and_can_be_disowned_again(relay: Relay) -> None:
    owner = relay.transceiver()
    ufrag = owner.token()
    owner.send_message(Disown(ufrag))
    relay.wait(DISOWNED_SECONDS - 1)
    assert not passes(relay, owner, ufrag)
    relay.wait(2)
    assert len(relay.core.disowned) == 0
    assert passes(relay, owner, ufrag)
    owner.send_message(Disown(ufrag))
    assert not passes(relay, owner, ufrag)


def test_disowned_tokens_are_bounded_and_the_oldest_is_removed(relay: Relay) -> None:
    owner = relay.transceiver()
    for number in range(MAX_DISOWNED + 10):
        owner.send_message(Disown(owner.token(number)))
    assert len(relay.core.disowned) == MAX_DISOWNED
    assert passes(relay, owner, owner.token(9), 9)
    assert not passes(relay, owner, owner.token(10), 10)


def test_a_confirmed_flow_continues_after_its_token_is_disowned(relay: Relay) -> None:
    """After an ICE restart (RFC 8445 §9) the client's media and newer checks continue."""
    owner = relay.transceiver()
    old, new = owner.token(1), owner.token(2)
    owner.confirm(client(0))
    owner.send_message(Disown(old))
    assert passes(relay, owner, new)
    assert relay.receive(b"\x80\x6frtp", client(0)) == [Seen(b"\x80\x6frtp", client(0), owner.link)]


def test_a_token_of_another_cluster_cannot_be_disowned(relay: Relay) -> None:
    outside = relay.transceiver(9010)
    outside.send_message(Disown(outside.token()))
    assert relay.counters.link_foreign == 1
    assert len(relay.core.disowned) == 0
    assert Owner(0, 0, 0) != outside.owner
