"""The sums of all core counters of calls, while calls run and when they end."""

from antiphon_transceiver.core_totals import SOURCES, CoreTotals
from antiphon_transceiver.outcome import EndReason
from support.sim.call_pair import CallPair
from support.sim.world import World


def totals(of: CoreTotals) -> dict[tuple[str, str], int]:
    return {(core, counter): total for core, counter, total in of.items()}


def junk(pair: CallPair, count: int) -> None:
    """Send the call datagrams of no protocol, RTP that is not authentic, and STUN without FINGERPRINT."""
    for data in (b"\xff" * 20, b"\x80\x6f" + bytes(40), bytes(20)):
        for _ in range(count):
            pair.call.receive_datagram(data, pair.network.left.path, pair.network.now)


def test_totals_are_those_of_running_and_ended_calls() -> None:
    sums = CoreTotals()
    pairs = [CallPair(seed, data_channels=True).connect() for seed in range(2)]
    for pair in pairs:
        sums.begin(pair.call)
    assert set(totals(sums).values()) == {0}
    for pair in pairs:
        sums.update(pair.call)
        sums.update(pair.call)
    before = totals(sums)
    assert before["ice", "answered"] == sum(pair.call.agent.counters.answered for pair in pairs) > 0
    junk(pairs[0], 3)
    junk(pairs[1], 4)
    sums.end(pairs[0].call)
    sums.update(pairs[1].call)
    after = totals(sums)
    changed = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert changed["transport", "unknown_protocol"] == 7
    assert changed["srtp", "unauthentic"] == changed["transport", "srtp_failed"] == 7
    assert all(difference > 0 for difference in changed.values())


def test_totals_do_not_decrease_when_a_counter_is_corrected_downwards() -> None:
    sums = CoreTotals()
    pair = CallPair().connect()
    counters = pair.call.stream.uplink.jitter.counters
    sums.begin(pair.call)
    for lost, expected in ((5, 5), (3, 5), (4, 5), (8, 8)):
        counters.lost = lost
        sums.update(pair.call)
        assert totals(sums)["jitter_buffer", "lost"] == expected


def test_counters_of_an_ended_call_are_not_added_again() -> None:
    sums = CoreTotals()
    pair = CallPair().connect()
    sums.begin(pair.call)
    sums.end(pair.call)
    before = totals(sums)
    junk(pair, 1)
    sums.update(pair.call)
    sums.end(pair.call)
    assert totals(sums) == before


def test_a_call_without_keys_and_channels_adds_no_counters_of_them() -> None:
    sums = CoreTotals()
    pair = CallPair()
    sums.begin(pair.call)
    sums.update(pair.call)
    assert all(totals(sums)[source.core, name] == 0 for source in SOURCES for name in source.names)


def test_a_router_adds_the_counters_of_a_call_when_it_ends() -> None:
    world = World()
    client = world.call()
    assert world.run(5, lambda: client.connected)
    call = world.find(client)
    assert call is not None
    router = world.transceivers[0].router
    assert set(totals(router.core_totals).values()) == {0}
    router.end(call, EndReason.HANGUP, "", world.now)
    assert totals(router.core_totals)["ice", "answered"] == call.agent.counters.answered > 0
