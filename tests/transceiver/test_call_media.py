"""The audio of a call on its transport, and the charges for it."""

import struct
from collections import deque
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon_common.control import Codec
from antiphon_transceiver.budget import BURST, CONCEALED_MS, DEBT, Budget
from antiphon_transceiver.call_media import CallMedia
from antiphon_transceiver.media import AudioStream
from support.fakes.recording_backend import RecordingBackend

START = 1000.0
FRAME_SECONDS, SAMPLES = 0.02, 160


def packet(number: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 0, number, SAMPLES * number, 0x1234) + bytes(SAMPLES)


def can_still_pay(budget: Budget, microseconds: float, now: float) -> bool:
    """Return whether the call can be charged that much. It uses up the budget."""
    return budget.charge(microseconds, now)


@pytest.mark.parametrize("more", [-1.0, 1.0])
def test_each_concealed_millisecond_is_charged(more: float) -> None:
    budget, backend = Budget(), RecordingBackend("rtc_1")
    request: Any = SimpleNamespace(direction="sendrecv")
    call_backend: Any = backend
    transport: Any = None
    stream = AudioStream(Codec("pcmu", 0, 8000, 1), "pcm16/24000", "cname", Random(0).randbytes, 0.0)
    media = CallMedia(request, stream, call_backend, transport, deque(), budget, START)
    now = START
    for number in range(5):
        now = START + number * FRAME_SECONDS
        media.receive_rtp(packet(number), now, now)
        media.send_uplink(now)
    assert can_still_pay(budget, 0.0, now), "nothing has been concealed"
    media.receive_rtp(packet(6), now := now + 2 * FRAME_SECONDS, now)
    media.send_uplink(now)
    while len(backend.audio) < 7:
        now = media.uplink_at
        media.send_uplink(now)
    assert sum(len(frame.data) for frame in backend.audio) == 7 * SAMPLES * 6
    left = BURST + DEBT - CONCEALED_MS * 1000 * FRAME_SECONDS
    assert can_still_pay(budget, left + more, now) is (more < 0)
