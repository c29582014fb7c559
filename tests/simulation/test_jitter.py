"""The jitter buffer on bad networks, from seeds: what must hold whatever the network does."""

import heapq
from collections import Counter
from random import Random
from typing import NamedTuple

import pytest

from antiphon_common.formats import opus_duration
from antiphon_common.frames import Origin
from antiphon_transceiver.audio import DEFAULT_TARGET, JitterBuffer, Release

TOC = {10: 0x40, 20: 0x68, 40: 0x50, 60: 0x58}
"""First bytes of SILK and hybrid packets, by their milliseconds."""

TOLERANCE = 0.010
"""Seconds: a clock that drifts by 200 ppm moves the smallest transit by 4 ms in 20 s, a timer may be 5 ms late."""

SETTLED = 0.002

SEEDS = range(200)


class Network(NamedTuple):
    """What one seed draws."""

    milliseconds: int
    loss: float
    burst: float
    mean_burst: float
    jitter: float
    reordering: float
    duplication: float
    stall: float
    drift: float

    @classmethod
    def draw(cls, chance: Random) -> "Network":
        return cls(
            milliseconds=chance.choice((10, 20, 20, 20, 40, 60)),
            loss=chance.choice((0, 0.01, 0.05, 0.2)),
            burst=chance.choice((0, 0.005, 0.02)),
            mean_burst=chance.uniform(2, 15),
            jitter=chance.choice((0, 0.005, 0.02, 0.04, 0.08)),
            reordering=chance.choice((0, 0, 0.05)),
            duplication=chance.choice((0, 0, 0.02)),
            stall=chance.choice((0, 0, 0.003)),
            drift=chance.choice((0, -200e-6, 200e-6)),
        )


class Arrival(NamedTuple):
    time: float
    packet: int


class Run:
    """A stream of `seconds` over a network; afterwards, what came when and what was released when."""

    def __init__(self, seed: int, seconds: float = 20.0) -> None:
        self.chance = Random(seed)
        self.network = Network.draw(self.chance)
        self.ticks = self.network.milliseconds * 48
        self.first_sequence, self.first_timestamp = self.chance.randrange(1 << 16), self.chance.randrange(1 << 32)
        self.buffer = JitterBuffer()
        self.arrivals: list[Arrival] = []
        self.released: list[tuple[float, Release]] = []
        self.sent = round(seconds * 1000 / self.network.milliseconds)
        self._carry()
        self._listen()

    def payload(self, index: int) -> bytes:
        """A packet that says which it is, with the flag of in-band FEC."""
        return bytes((TOC[self.network.milliseconds], 0x70)) + index.to_bytes(4, "big")

    def media_time(self, index: int) -> float:
        """When packet `index` is ready, by its timestamp."""
        return index * self.ticks / 48_000

    def _carry(self) -> None:
        network, chance = self.network, self.chance
        bursting, stalled_until, newest = False, 0.0, 0.0
        for index in range(self.sent):
            now = 1000 + self.media_time(index) * (1 + network.drift)
            bursting = chance.random() < (1 - 1 / network.mean_burst if bursting else network.burst)
            if chance.random() < network.stall:
                stalled_until = now + chance.uniform(0.05, 1.5)
            arrives = max(now, stalled_until) + 0.03 + chance.uniform(0, network.jitter)
            if chance.random() < network.reordering:
                arrives += chance.uniform(0, 0.05)
            else:
                arrives = newest = max(arrives, newest)
            if bursting or chance.random() < network.loss:
                continue
            heapq.heappush(self.arrivals, Arrival(arrives, index))
            if chance.random() < network.duplication:
                heapq.heappush(self.arrivals, Arrival(arrives + chance.uniform(0, 0.1), index))

    def _listen(self) -> None:
        self.arrivals.sort()
        for arrival in self.arrivals:
            self._wait_until(arrival.time)
            sequence, timestamp = (
                self.first_sequence + arrival.packet,
                self.first_timestamp + arrival.packet * self.ticks,
            )
            self.buffer.push(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self.payload(arrival.packet), arrival.time)
            self._pop(arrival.time)
        self._wait_until(self.arrivals[-1].time + 1)

    def _wait_until(self, time: float) -> None:
        while (timeout := self.buffer.poll_timeout()) is not None and timeout < time:
            before = len(self.released)
            self._pop(timeout)
            assert len(self.released) > before or self.buffer.poll_timeout() != timeout, "a timeout that does nothing"

    def _pop(self, now: float) -> None:
        while (release := self.buffer.pop(now)) is not None:
            self.released.append((now, release))


def index_of(payload: bytes | None) -> int:
    assert payload is not None
    return int.from_bytes(payload[2:6], "big")


@pytest.fixture(params=SEEDS)
def run(request: pytest.FixtureRequest) -> Run:
    seed: int = request.param
    run = Run(seed)
    print(f"seed {seed}: {run.network}")
    return run


def test_any_network(run: Run) -> None:
    assert_positions_follow(run)
    assert_nothing_timely_discarded(run)
    assert_every_packet_accounted_for(run)
    assert_recovered_from_the_next_packet(run)
    if run.network.jitter < DEFAULT_TARGET:
        assert_delay_stays_at_target(run)


def assert_positions_follow(run: Run) -> None:
    end = 0
    for _, release in run.released:
        assert release.position >= end
        end = release.position + release.duration


def assert_nothing_timely_discarded(run: Run) -> None:
    received = Counter(index_of(release.payload) for _, release in run.released if release.origin is Origin.RECEIVED)
    assert max(received.values()) == 1
    smallest, seen = float("inf"), set[int]()
    for time, index in run.arrivals:
        transit = time - run.media_time(index)
        smallest = min(smallest, transit)
        if index in seen:
            continue
        seen.add(index)
        if transit <= smallest + DEFAULT_TARGET - 1e-6 and index >= run.arrivals[0].packet:
            assert received[index] == 1, f"packet {index} came in time"


def assert_every_packet_accounted_for(run: Run) -> None:
    counters = run.buffer.counters
    distinct = {arrival.packet for arrival in run.arrivals}
    received = [index_of(release.payload) for _, release in run.released if release.origin is Origin.RECEIVED]
    assert received == sorted(received)
    assert counters.received == len(distinct)
    assert counters.duplicate == len(run.arrivals) - len(distinct)
    assert 0 <= counters.received - counters.late - len(received) <= 64  # what came last may still be suspected
    assert received[-1] - received[0] + 1 == len(received) + counters.lost
    origins = Counter(release.origin for _, release in run.released)
    assert origins[Origin.CONCEALED] == counters.concealed
    assert origins[Origin.RECOVERED] == counters.recovered


def assert_recovered_from_the_next_packet(run: Run) -> None:
    received = {index_of(release.payload) for _, release in run.released if release.origin is Origin.RECEIVED}
    for (_, release), (_, following) in zip(run.released, run.released[1:], strict=False):
        if release.origin is Origin.RECOVERED:
            assert release.payload == following.payload
            assert release.position + release.duration == following.position
            assert release.duration == opus_duration(run.payload(0))
            assert index_of(release.payload) - 1 not in received


def assert_delay_stays_at_target(run: Run) -> None:
    """Nothing is released later than the target after its time, so that a consumer that plays what it gets, at once or
    after what came before, is never later either. It begins when the smallest transit has shown itself."""
    transits = [(time, time - run.media_time(index)) for time, index in run.arrivals]
    smallest = min(transit for _, transit in transits)
    settled = next(time for time, transit in transits if transit < smallest + SETTLED)
    playing_until = origin = 0.0
    for now, release in run.released:
        if release.origin is Origin.RECEIVED:
            origin = run.media_time(index_of(release.payload)) - release.position / 48_000 + smallest
        if now < settled:
            continue
        plays_at = max(now, playing_until)
        playing_until = plays_at + release.duration / 48_000
        delay = plays_at - release.position / 48_000 - origin
        assert delay <= DEFAULT_TARGET + TOLERANCE, f"{delay * 1000:.0f} ms late at {now:.3f}"
