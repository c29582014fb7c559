"""Floods of a million packets from spoofed sources at half the rate that the relay sustains.

Live calls, tables and backscatter stay within limits. Needs gcc and CAP_NET_RAW.
"""

import pytest
import trio

from antiphon_common.control import IceParameters
from antiphon_transceiver.ice.paths import MAX_PATHS
from support.floods.packet_flood import SPOOFED_NETWORK, Address, Flood, SpoofedSources, checks, junk, rtp_packets
from support.floods.setup import LIVE_CALLS, TRANSCEIVERS, FloodSetup
from support.floods.spoofed_flood import HEADING, FloodOutcome, call_factory, run_spoofed_flood

PACKETS = 1_000_000
TOLERATED_LOSS = 0.01
TOLERATED_LOSS_OF_ONE = 0.05
"""Share that one call may lose: half a second of a flood of about ten seconds."""
TOLERATED_GROWTH = 8 << 20
"""Bytes of memory growth: caches of headers and tokens that fill to their bounds, and memory the allocator keeps."""
AMPLIFICATION = 3
CALLS_BESIDE = 6
"""Two calls of the attacker, one from an address of the flood, a new one, and those that ended a moment ago."""

CONTROL_SECONDS = 5.0

CALLS_IN_A_ROW = 11

MANY = SpoofedSources(SPOOFED_NETWORK, addresses=50_000, ports=4)
FEW = SpoofedSources(SPOOFED_NETWORK, addresses=500, ports=4)
"""Few enough that each address receives several responses."""
ONE_OF_THEM: Address = ("127.64.0.7", 20000)


async def test_live_calls_lose_nothing_without_a_flood(setup: FloodSetup) -> None:
    """The control. When it fails, the machine is too busy for the other measurements."""
    before = setup.live.figures()
    await trio.sleep(CONTROL_SECONDS)
    after = setup.live.figures()
    lost = 1 - (sum(after.received) - sum(before.received)) / (sum(after.sent) - sum(before.sent))
    print(f"\nwithout a flood the calls lose {lost:.2%}")
    assert lost <= TOLERATED_LOSS


async def test_junk_from_spoofed_sources_does_not_harm_live_calls(setup: FloodSetup) -> None:
    async with call_factory(setup) as factory:
        outcome = await run_spoofed_flood(setup, factory, "junk", Flood(MANY, junk(1)), PACKETS, real=ONE_OF_THEM)
        assert_unharmed(setup, outcome)
    assert outcome.backscatter_bytes == 0


async def test_checks_with_wrong_message_integrity_do_not_harm_live_calls(setup: FloodSetup) -> None:
    async with call_factory(setup) as factory:
        _, live_ufrag = setup.live.callers[0]
        attacker = await factory.connect_to(setup.transceiver_of(live_ufrag))
        wrong = [
            request
            for number, ufrag in enumerate((live_ufrag, attacker.ice.ufrag))
            for request in checks(number, IceParameters(ufrag, "wrong" * 5), "them")
        ]
        outcome = await run_spoofed_flood(
            setup, factory, "wrong MESSAGE-INTEGRITY", Flood(MANY, wrong), PACKETS, real=ONE_OF_THEM
        )
        assert_unharmed(setup, outcome)
    assert outcome.backscatter_bytes == 0


@pytest.mark.parametrize("same", [True, False], ids=["same transceiver", "other transceiver"])
@pytest.mark.parametrize("spoofed", ["a live client", "no call"])
async def test_valid_checks_from_spoofed_sources_do_not_harm_live_calls(
    setup: FloodSetup, *, same: bool, spoofed: str
) -> None:
    """One of the attacker's calls is connected. The other receives checks from spoofed addresses only."""
    port, ufrag = setup.live.callers[0]
    victims = setup.transceiver_of(ufrag)
    ports = {setup.transceiver_of(ufrag) for _, ufrag in setup.live.callers}
    transceiver = victims if same else (ports - {victims}).pop()
    sources = SpoofedSources("127.0.0.1", port=port) if spoofed == "a live client" else FEW
    async with call_factory(setup) as factory:
        connected = await factory.connect_to(transceiver)
        begun, _ = await factory.offer_to(transceiver)
        valid = [
            request
            for number, caller in enumerate((connected, begun))
            for request in checks(number, caller.ice, caller.core.offer().partition("ice-ufrag:")[2].split()[0])
        ]
        name = f"valid checks, {'same' if same else 'other'} transceiver, from {spoofed}"
        real = ONE_OF_THEM if sources is FEW else None
        outcome = await run_spoofed_flood(setup, factory, name, Flood(sources, valid), PACKETS, real=real)
        assert_unharmed(setup, outcome)


async def test_media_from_the_spoofed_source_of_a_connected_call_does_not_harm_live_calls(setup: FloodSetup) -> None:
    """The relay forwards packets of a confirmed flow without authenticating them, but limits their rate."""
    async with call_factory(setup) as factory:
        attacker = await factory.connect_to(setup.transceiver_of(setup.live.callers[0][1]))
        host, port = attacker.driven.socket.getsockname()
        outcome = await run_spoofed_flood(
            setup,
            factory,
            "media of the attacker's own call",
            Flood(SpoofedSources(host, port=port), rtp_packets(1)),
            PACKETS,
        )
        assert_unharmed(setup, outcome)


async def test_calls_in_a_row_from_one_port_reach_two_transceivers(setup: FloodSetup) -> None:
    """Placement is random: one of a thousand such series would reach one transceiver only."""
    reached = set()
    address: Address = ("127.0.0.1", 0)
    async with call_factory(setup) as factory:
        for _ in range(CALLS_IN_A_ROW):
            caller = await factory.call(address)
            assert caller.received
            reached.add(setup.transceiver_of(caller.ice.ufrag))
            address = caller.driven.socket.getsockname()
            caller.hang_up()
            if len(reached) == TRANSCEIVERS:
                return
    assert len(reached) == TRANSCEIVERS


def assert_unharmed(setup: FloodSetup, outcome: FloodOutcome) -> None:
    print("\n" + HEADING + "\n" + outcome.row())
    setup.spoofed_rows.append(outcome.row())
    gauges = outcome.monitor.gauges
    calls = LIVE_CALLS + CALLS_BESIDE
    assert outcome.alive == LIVE_CALLS
    assert outcome.lost <= TOLERATED_LOSS
    assert outcome.worst_lost <= TOLERATED_LOSS_OF_ONE
    assert outcome.foreign == 0
    assert gauges["antiphon_relay_confirmed_flows"] <= calls
    assert gauges["antiphon_transceiver_paths"] <= MAX_PATHS * gauges["antiphon_calls"]
    assert gauges["antiphon_relay_flows"] <= TRANSCEIVERS * MAX_PATHS * gauges["antiphon_calls"]
    assert outcome.monitor.growth <= TOLERATED_GROWTH
    assert outcome.amplification <= AMPLIFICATION
    assert all(call.received for call in outcome.new_calls), "a new call did not connect"
    assert {setup.transceiver_of(call.ice.ufrag) for call in outcome.new_calls} == {
        setup.transceiver_of(ufrag) for _, ufrag in setup.live.callers
    }
