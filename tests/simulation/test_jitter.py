"""Invariants of the jitter buffer on impaired networks, drawn from seeds."""

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from math import inf
from random import Random
from typing import NamedTuple

import pytest

from antiphon_common.formats import opus_duration
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import MAX_TARGET_DELAY, MIN_TARGET_DELAY, JitterBuffer, JitterFrame
from antiphon_transceiver.audio.delay_tracker import WINDOW
from antiphon_transceiver.audio.jitter_buffer import HEADROOM, TARGET_DELAY_MARGIN

TOC = {10: 0x40, 20: 0x68, 40: 0x50, 60: 0x58}
"""First bytes of SILK and hybrid packets, by their milliseconds."""

TOLERANCE = 0.010
"""Seconds: a clock that drifts by 200 ppm moves the smallest transit by 4 ms in 20 s, a timer may be 5 ms late."""

FORGOTTEN_AFTER = 1.2
"""Seconds of arrivals after which jitter that ended no longer counts: one, and the packets that end its windows."""

LONGEST_GAP = 0.1
"""Seconds between arrivals above which the stream counts as interrupted."""

SEEDS = range(200)


class JitteryNetwork(NamedTuple):
    """The network and the stream of one seed."""

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
    def draw(cls, chance: Random) -> "JitteryNetwork":
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


class JitteredPacket(NamedTuple):
    time: float
    packet: int


class Run:
    """A stream of `seconds` over a network. It records the times of arrivals and releases."""

    def __init__(self, seed: int, seconds: float = 20.0) -> None:
        self.chance = Random(seed)
        self.network = JitteryNetwork.draw(self.chance)
        self.ticks = self.network.milliseconds * 48
        self.first_sequence, self.first_timestamp = self.chance.randrange(1 << 16), self.chance.randrange(1 << 32)
        self.buffer = JitterBuffer()
        self.arrivals: list[JitteredPacket] = []
        self.released: list[tuple[float, JitterFrame]] = []
        self.targets: list[tuple[float, float]] = []
        """What the target was after each arrival."""
        self.restarts: list[float] = []
        self.sent = round(seconds * 1000 / self.network.milliseconds)
        self._carry()
        self._listen()

    def payload(self, index: int) -> bytes:
        """Return a packet that contains its number, with the flag of in-band FEC."""
        return bytes((TOC[self.network.milliseconds], 0x70)) + index.to_bytes(4, "big")

    def media_time(self, index: int) -> float:
        """Return the time at which packet `index` is complete, by its timestamp."""
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
            heapq.heappush(self.arrivals, JitteredPacket(arrives, index))
            if chance.random() < network.duplication:
                heapq.heappush(self.arrivals, JitteredPacket(arrives + chance.uniform(0, 0.1), index))

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
            if not self.restarts or self.buffer.counters.resynchronised >= len(self.restarts):
                self.restarts.append(arrival.time)
            self.targets.append((arrival.time, self.buffer.target_delay))
        self._wait_until(self.arrivals[-1].time + 1)

    def _wait_until(self, time: float) -> None:
        while (timeout := self.buffer.poll_timeout()) < time:
            before = len(self.released)
            self._pop(timeout)
            assert len(self.released) > before or self.buffer.poll_timeout() != timeout, "a timeout that does nothing"

    def targets_between(self, since: float, until: float) -> list[float]:
        """Return the target delays of an interval, including those at both ends."""
        first = max(0, bisect_left(self.targets, (since,)) - 1)
        return [target for _, target in self.targets[first : bisect_right(self.targets, (until, inf))]]

    def transits(self, window: float = WINDOW) -> Iterator[tuple[float, int, float, float]]:
        """Yield time, packet and transit time of each arrival, and the smallest recent transit time."""
        lowest = deque[tuple[float, float]]()
        for time, index in self.arrivals:
            transit = time - self.media_time(index)
            while lowest and lowest[-1][1] >= transit:
                lowest.pop()
            lowest.append((time, transit))
            while lowest[0][0] <= time - window:
                lowest.popleft()
            yield time, index, transit, lowest[0][1]

    def knows_jitter(self, now: float) -> bool:
        """Whether enough time has passed since synchronisation to measure jitter."""
        return now > max((at for at in self.restarts if at <= now), default=0.0) + FORGOTTEN_AFTER

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


def test_the_jitter_buffer_keeps_its_invariants_on_any_network(run: Run) -> None:
    assert_positions_follow(run)
    assert_nothing_timely_discarded(run)
    assert_every_packet_accounted_for(run)
    assert_recovered_from_the_next_packet(run)
    assert_delay_stays_at_target(run)
    assert_target_follows_jitter(run)


def assert_positions_follow(run: Run) -> None:
    end = 0
    for _, release in run.released:
        assert release.position >= end
        end = release.position + release.duration


def assert_nothing_timely_discarded(run: Run) -> None:
    received = Counter(
        index_of(release.payload) for _, release in run.released if release.status is FrameStatus.RECEIVED
    )
    assert max(received.values()) == 1
    smallest, seen = float("inf"), set[int]()
    for time, index in run.arrivals:
        transit = time - run.media_time(index)
        smallest = min(smallest, transit)
        if index in seen:
            continue
        seen.add(index)
        target = min(run.targets_between(time - MAX_TARGET_DELAY, time), default=MIN_TARGET_DELAY)
        if transit <= smallest + target - 1e-6 and index >= run.arrivals[0].packet:
            assert received[index] == 1, f"packet {index} came in time"


def assert_every_packet_accounted_for(run: Run) -> None:
    counters = run.buffer.counters
    distinct = {arrival.packet for arrival in run.arrivals}
    received = [index_of(release.payload) for _, release in run.released if release.status is FrameStatus.RECEIVED]
    assert received == sorted(received)
    assert counters.received == len(distinct)
    assert counters.duplicate == len(run.arrivals) - len(distinct)
    assert 0 <= counters.received - counters.late - len(received) <= 64  # what came last may still be suspected
    assert received[-1] - received[0] + 1 == len(received) + counters.lost
    statuses = [release.status for _, release in run.released]
    within = len(statuses) - statuses[::-1].index(
        FrameStatus.RECEIVED
    )  # what is concealed behind the last packet hides no loss
    assert statuses[:within].count(FrameStatus.CONCEALED) == counters.concealed
    assert statuses.count(FrameStatus.RECOVERED) == counters.recovered


def assert_recovered_from_the_next_packet(run: Run) -> None:
    received = {index_of(release.payload) for _, release in run.released if release.status is FrameStatus.RECEIVED}
    for (_, release), (_, following) in zip(run.released, run.released[1:], strict=False):
        if release.status is FrameStatus.RECOVERED:
            assert release.following == following.payload
            assert release.position + release.duration == following.position
            assert release.duration == opus_duration(run.payload(0))
            assert index_of(release.following) - 1 not in received


def assert_delay_stays_at_target(run: Run) -> None:
    """Assert that frames are released within the target delay. Recovered ones may be one frame later."""
    frame = run.ticks / 48_000
    smallest = {index: transit for _, index, _, transit in run.transits()}
    origin = late = 0.0
    for now, release in run.released:
        if release.status is FrameStatus.RECEIVED:
            index = index_of(release.payload)
            origin, late = run.media_time(index) - release.position / 48_000 + smallest[index], 0.0
        elif release.status is FrameStatus.RECOVERED:
            late = frame
        delay = now - release.position / 48_000 - origin
        target = max(run.targets_between(now - 2 * frame, now))
        if run.knows_jitter(now):
            assert delay <= target + late + TOLERANCE, f"{delay * 1000:.0f} ms late at {now:.3f}"


def assert_target_follows_jitter(run: Run) -> None:
    frame = run.ticks / 48_000
    recent, heard, since = list[tuple[float, float]](), 0.0, run.arrivals[0].time
    for (time, _, transit, smallest), (_, target) in zip(run.transits(window=inf), run.targets, strict=True):
        heard, since = heard + min(time - since, LONGEST_GAP), time
        recent = [(at, other) for at, other in recent if at > heard - FORGOTTEN_AFTER] + [(heard, transit)]
        jitter = max(other for _, other in recent) - smallest
        allowed = min(max(frame + jitter * HEADROOM + TARGET_DELAY_MARGIN, MIN_TARGET_DELAY), MAX_TARGET_DELAY)
        if run.knows_jitter(time):
            assert target <= allowed + TOLERANCE
