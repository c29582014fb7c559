"""The uplink with any packets of a caller, from seeds. Every drain ends, every frame advances, and the audio does not
exceed real time."""

from math import inf
from random import Random

import pytest

from antiphon_common.formats import FORMATS, AudioFormat
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import G711, OPUS, JitterBuffer, PayloadKind, UplinkAudio, UplinkFrame
from antiphon_transceiver.audio.jitter_buffer import MAX_BURST, MAX_CONCEALED, MAX_SPEED
from antiphon_transceiver.rtp import RedundantBlock
from antiphon_transceiver.rtp.red import MAX_REDUNDANT_BLOCKS

SHORTEST = 120
"""Ticks that a concealed stretch lasts at least."""

RELEASES = 2 + MAX_CONCEALED // SHORTEST + 1
"""Releases that a packet, or one that it repeats, brings at most: itself, what its FEC holds, and what is concealed."""

BEYOND = 2.5
"""Seconds of audio that the last packet taken may bring: what it repeats, what is concealed, and a frame begun."""

PACKETS = 400


class PacedCaller:
    """A caller that sends packets of any size, with any numbers, at any time, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self.chance = Random(seed)
        self.codec = self.chance.choice(("opus", "opus", "pcmu", "pcma"))
        self.sizes = [self._draw_size() for _ in range(self.chance.randint(1, 4))]
        self.step = self.chance.choice((0, 1, 20, 120, 159, 160, 480, 959, 960, 1920, self.chance.getrandbits(32)))
        self.spread = self.chance.choice((0, 0, 1, 100, 1 << 31))
        self.loss = self.chance.choice((0, 0.05, 0.5, 0.9))
        self.reordering = self.chance.choice((0, 0.1, 0.5))
        self.gap = self.chance.choice((0.0, 0.0003, 0.0025, 0.02, 0.02, 0.1, 1.0))
        self.repeats = self.chance.random() < 0.4
        self.strange = self.chance.choice((0, 0, 0.05, 0.5))
        """Share of packets of another payload type, of padding, of nonsense, and of new sources."""
        self.now = self.chance.uniform(0, 1e6)
        self._sequence, self._timestamp = self.chance.getrandbits(16), self.chance.getrandbits(32)

    def send(self, uplink: UplinkAudio) -> int:
        """Let one packet arrive. Return the number of its payloads."""
        chance = self.chance
        self.now += chance.expovariate(1 / self.gap) if self.gap else 0.0
        while chance.random() < self.loss:
            self._sequence, self._timestamp = self._sequence + 1, self._timestamp + self.step
        self._sequence, self._timestamp = self._sequence + 1, self._timestamp + self.step
        sequence = self._sequence + (chance.randint(-300, 300) if chance.random() < self.reordering else 0)
        timestamp = self._timestamp + chance.randint(-self.spread, self.spread)
        if chance.random() < self.strange:
            self._stray(uplink, sequence)
        repeated = []
        if self.repeats:
            repeated = [
                RedundantBlock(chance.getrandbits(14), self.payload())
                for _ in range(chance.randint(0, MAX_REDUNDANT_BLOCKS))
            ]
        uplink.receive(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self.payload(), self.now, repeated)
        return 1 + len(repeated)

    def payload(self) -> bytes:
        size = self.chance.choice(self.sizes)
        if self.codec == "opus" and self.chance.random() < 0.9:
            toc = self.chance.getrandbits(8) & 0xFC | self.chance.choice((0, 0, 1, 3))
            return bytes((toc, self.chance.randint(1, 48))) + self.chance.randbytes(size % 100)
        return self.chance.randbytes(size)

    def _draw_size(self) -> int:
        return self.chance.choice((1, 2, 3, 7, 19, 20, 21, 83, 160, 240, 959, 960, self.chance.randint(1, 1000)))

    def _stray(self, uplink: UplinkAudio, sequence: int) -> None:
        match self.chance.randrange(4):
            case 0:
                uplink.skip(sequence & 0xFFFF)
            case 1:
                uplink.receive(sequence & 0xFFFF, 0, b"", self.now)
            case 2:
                uplink.receive(sequence & 0xFFFF, 0, self.chance.randbytes(1400), self.now)
            case _:
                uplink.restart()
                self._sequence, self._timestamp = self.chance.getrandbits(16), self.chance.getrandbits(32)


class PacedBackend:
    """A backend that takes frames until none is left, and checks each."""

    def __init__(self, uplink: UplinkAudio, format: str) -> None:
        self.uplink = uplink
        self.format = AudioFormat.parse(format)
        self.frames = 0
        self.allowed = 0
        self.ticks = 0
        """How long all frames last, 48 kHz."""
        self._end = 0

    def drain(self, now: float) -> None:
        while (frame := self.uplink.poll(now)) is not None:
            self._take(frame)

    def wait_until(self, time: float) -> None:
        """Poll at each timeout until then. Each yields a frame or a later timeout."""
        while (due := self.uplink.poll_timeout()) < time:
            before = self.frames
            self.drain(due)
            assert self.frames > before or self.uplink.poll_timeout() != due, "a timeout in vain"

    def _take(self, frame: UplinkFrame) -> None:
        self.frames += 1
        assert self.frames <= self.allowed, "more frames than any packet brings"
        assert frame.position >= self._end, "a frame begins before the end of the last"
        if frame.data:
            ticks = self.format.duration(frame.data)
            assert ticks >= SHORTEST or frame.status is FrameStatus.RECEIVED
        else:
            assert self.format.name == "opus"
            assert frame.status is not FrameStatus.RECEIVED
            ticks = SHORTEST
        self.ticks += ticks
        self._end = frame.position + ticks * self.format.rate // 48_000


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(60))
def test_every_drain_ends_and_every_frame_advances(seed: int, format: str) -> None:
    caller = PacedCaller(seed)
    uplink = UplinkAudio(format, caller.codec)
    backend, began = PacedBackend(uplink, format), caller.now
    for _ in range(PACKETS if format == "opus" else PACKETS // 4):
        backend.wait_until(caller.now)
        payloads = caller.send(uplink)
        backend.allowed += 2 * RELEASES * payloads
        backend.drain(caller.now)
        assert backend.ticks / 48_000 <= MAX_SPEED * (caller.now - began + MAX_BURST) + BEYOND
    backend.wait_until(caller.now + 10)
    backend.drain(caller.now + 10)
    assert uplink.poll_timeout() == inf, "a stream that ended still has a timeout"


@pytest.mark.parametrize("kind", [OPUS, G711])
@pytest.mark.parametrize("samples", [*range(1, 24), 83, 959, 960])
def test_each_frame_has_a_packet_or_the_longest_possible_concealment(samples: int, kind: PayloadKind) -> None:
    buffer = JitterBuffer(kind)
    payload, ticks = (bytes(samples), 6 * samples) if kind is G711 else (b"\xe0" + bytes(samples), 120)
    released, end = 0, 0
    for index in [0, 1, 2, 5, 6, 40, 41]:
        now = 10 + index * ticks / 48_000
        buffer.push(index, index * ticks // kind.clock_ticks, payload, now)
        for instant in (now, now + 0.2):
            while (release := buffer.pop(instant)) is not None:
                released += 1
                assert released <= 7 * RELEASES
                assert release.position >= end
                assert release.payload is not None or release.duration >= SHORTEST
                end = release.position + release.duration


@pytest.mark.parametrize("speed", [2, 10, 60, 1000])
def test_audio_sent_faster_than_real_time_is_dropped(speed: int) -> None:
    """20 s of audio are sent at `speed` times real time. A burst and the audio of the time passed get through,
    contiguously. The rest is counted. Audio at normal speed is received again at once."""
    uplink = UplinkAudio("opus")
    frames = []

    def send(index: int, now: float) -> None:
        uplink.receive(index, index * 960, b"\xf8" + index.to_bytes(4, "big"), now)
        while (frame := uplink.poll(now)) is not None:
            frames.append(frame)

    for index in range(1000):
        send(index, 100 + index * 0.02 / speed)
    allowed = MAX_SPEED * (20 / speed + MAX_BURST)
    assert len(frames) * 0.02 == pytest.approx(min(20, allowed), abs=0.05)
    assert [frame.position for frame in frames] == [index * 960 for index in range(len(frames))]
    assert uplink.statistics()["excess"] == 1000 - len(frames)
    assert uplink.statistics()["concealed"] == uplink.statistics()["lost"] == 0
    before = len(frames)
    for index in range(1000, 1100):
        send(index, 200 + index * 0.02)
    assert sum(bool(frame.data) for frame in frames[before:]) == 100


@pytest.mark.parametrize("stall", [0.2, 0.9, 1.9])
def test_audio_that_a_stalled_network_delayed_at_the_start_is_not_dropped(stall: float) -> None:
    uplink, received = UplinkAudio("opus"), 0
    for index in range(200):
        now = 100 + max(index * 0.02, stall)
        uplink.receive(index, index * 960, b"\xf8" + index.to_bytes(4, "big"), now)
        while (frame := uplink.poll(now)) is not None:
            received += bool(frame.data)
    assert received == 200
    assert uplink.statistics()["excess"] == 0


def test_redundant_blocks_count_as_audio() -> None:
    """Each packet skips eight sequence numbers and contains their audio: nine times its own."""
    uplink, frames = UplinkAudio("opus"), 0
    payload = b"\xf8" + bytes(4)
    for index in range(0, 9000, 9):
        now = 100 + index / 9 * 0.02
        repeated = [RedundantBlock(960 * ago, payload) for ago in range(8, 0, -1)]
        uplink.receive(index, index * 960, payload, now, repeated)
        while uplink.poll(now) is not None:
            frames += 1
    assert frames * 0.02 <= MAX_SPEED * (20 + MAX_BURST) + BEYOND
