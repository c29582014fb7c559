"""Floods of a million packets each at half the rate that the relay sustains: what callers, tables and strangers notice.

Needs gcc, and the right to send from addresses that are not one's own (CAP_NET_RAW).
"""

import pytest
import trio

from antiphon_common.control import IceParameters
from antiphon_transceiver.ice.paths import MAX_PATHS
from support.floods.packet_flood import STRANGERS, Address, Flood, Sources, checks, junk, rtp_packets
from support.floods.setup import LIVE_CALLS, TRANSCEIVERS, Battlefield
from support.floods.spoofed_flood import HEADING, Outcome, fight, telephone

PACKETS = 1_000_000
TOLERATED_LOSS = 0.01
TOLERATED_LOSS_OF_ONE = 0.05
"""A flood lasts some ten seconds: this is a stretch in which no caller would lose the thread."""
TOLERATED_GROWTH = 8 << 20
"""Bytes: caches of headers and tokens that fill up to their bounds, and the allocator's habits."""
AMPLIFICATION = 3
CALLS_BESIDE = 6
"""The two of the attacker, one from an address of the flood, a new one, and those that have just been hung up."""

CONTROL_SECONDS = 5.0

CALLS_IN_A_ROW = 11

MANY = Sources(STRANGERS, addresses=50_000, ports=4)
FEW = Sources(STRANGERS, addresses=500, ports=4)
"""Few enough that each is answered more than once."""
ONE_OF_THEM: Address = ("127.64.0.7", 20000)


async def test_the_calls_are_well_without_a_flood(field: Battlefield) -> None:
    """Where this fails, the machine is too busy with other things for what follows to mean anything."""
    before = field.live.figures()
    await trio.sleep(CONTROL_SECONDS)
    after = field.live.figures()
    lost = 1 - (sum(after.received) - sum(before.received)) / (sum(after.sent) - sum(before.sent))
    print(f"\nwithout a flood the calls lose {lost:.2%}")
    assert lost <= TOLERATED_LOSS


async def test_junk(field: Battlefield) -> None:
    async with telephone(field) as phone:
        outcome = await fight(field, phone, "junk", Flood(MANY, junk(1)), PACKETS, real=ONE_OF_THEM)
        assert_unharmed(field, outcome)
    assert outcome.stranger_bytes == 0


async def test_wrong_message_integrity(field: Battlefield) -> None:
    async with telephone(field) as phone:
        _, live_ufrag = field.live.who[0]
        attacker = await phone.connect_to(field.transceiver_of(live_ufrag))
        wrong = [
            request
            for number, ufrag in enumerate((live_ufrag, attacker.ice.ufrag))
            for request in checks(number, IceParameters(ufrag, "wrong" * 5), "them")
        ]
        outcome = await fight(field, phone, "wrong MESSAGE-INTEGRITY", Flood(MANY, wrong), PACKETS, real=ONE_OF_THEM)
        assert_unharmed(field, outcome)
    assert outcome.stranger_bytes == 0


@pytest.mark.parametrize("same", [True, False], ids=["same transceiver", "other transceiver"])
@pytest.mark.parametrize("spoofed", ["a live client", "no call"])
async def test_valid_checks_for_the_attackers_own_calls(field: Battlefield, *, same: bool, spoofed: str) -> None:
    """One of the attacker's calls is connected, the other is left to the spoofed addresses from its first check on."""
    port, ufrag = field.live.who[0]
    victims = field.transceiver_of(ufrag)
    ports = {field.transceiver_of(ufrag) for _, ufrag in field.live.who}
    transceiver = victims if same else (ports - {victims}).pop()
    sources = Sources("127.0.0.1", port=port) if spoofed == "a live client" else FEW
    async with telephone(field) as phone:
        connected = await phone.connect_to(transceiver)
        begun, _ = await phone.offer_to(transceiver)
        valid = [
            request
            for number, caller in enumerate((connected, begun))
            for request in checks(number, caller.ice, caller.core.offer().partition("ice-ufrag:")[2].split()[0])
        ]
        name = f"valid checks, {'same' if same else 'other'} transceiver, from {spoofed}"
        real = ONE_OF_THEM if sources is FEW else None
        outcome = await fight(field, phone, name, Flood(sources, valid), PACKETS, real=real)
        assert_unharmed(field, outcome)


async def test_media_in_the_name_of_the_attackers_own_call(field: Battlefield) -> None:
    """What has a flow is forwarded without a look inside: it must not become the flood of a transceiver."""
    async with telephone(field) as phone:
        attacker = await phone.connect_to(field.transceiver_of(field.live.who[0][1]))
        host, port = attacker.driven.socket.getsockname()
        outcome = await fight(
            field, phone, "media of the attacker's own call", Flood(Sources(host, port=port), rtp_packets(1)), PACKETS
        )
        assert_unharmed(field, outcome)


async def test_calls_in_a_row_from_one_port_reach_two_transceivers(field: Battlefield) -> None:
    """Placement is by chance: one in a thousand such rows would stay with one transceiver."""
    reached = set()
    address: Address = ("127.0.0.1", 0)
    async with telephone(field) as phone:
        for _ in range(CALLS_IN_A_ROW):
            caller = await phone.call(address)
            assert caller.received
            reached.add(field.transceiver_of(caller.ice.ufrag))
            address = caller.driven.socket.getsockname()
            caller.hang_up()
            if len(reached) == TRANSCEIVERS:
                return
    assert len(reached) == TRANSCEIVERS


def assert_unharmed(field: Battlefield, outcome: Outcome) -> None:
    print("\n" + HEADING + "\n" + outcome.row())
    field.table.append(outcome.row())
    gauges = outcome.watch.gauges
    calls = LIVE_CALLS + CALLS_BESIDE
    assert outcome.alive == LIVE_CALLS
    assert outcome.lost <= TOLERATED_LOSS
    assert outcome.worst_lost <= TOLERATED_LOSS_OF_ONE
    assert outcome.foreign == 0
    assert gauges["antiphon_relay_confirmed_flows"] <= calls
    assert gauges["antiphon_transceiver_paths"] <= MAX_PATHS * gauges["antiphon_calls"]
    assert gauges["antiphon_relay_flows"] <= TRANSCEIVERS * MAX_PATHS * gauges["antiphon_calls"]
    assert outcome.watch.growth <= TOLERATED_GROWTH
    assert outcome.amplification <= AMPLIFICATION
    assert all(call.received for call in outcome.new_calls), "a new call did not connect"
    assert {field.transceiver_of(call.ice.ufrag) for call in outcome.new_calls} == {
        field.transceiver_of(ufrag) for _, ufrag in field.live.who
    }
