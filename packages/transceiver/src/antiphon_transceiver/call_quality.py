"""Counts the minutes of calls, and the minutes with a gap, in which audio did not reach one side.

Nothing is measured per packet. Each call is sampled once a second, and gaps are found in its counters.
"""

from typing import Protocol
from weakref import WeakKeyDictionary

from antiphon_transceiver.media import AudioStream

SAMPLE_SECONDS = 1.0
"""Seconds between two samples of a call."""

MINUTE = 60.0

GAP = 1.0
"""Seconds without audio that count as a gap: longer than a pause in speech."""

GAP_PACKETS = 50
"""Packets that a caller sends in `GAP` seconds, one each 20 ms. Fewer packets in silence are no gap."""


class MonitoredCall(Protocol):
    """The part of a `Call` that `CallQualityMonitor` samples. Tests pass a fake."""

    @property
    def state(self) -> str:
        """The state of the transport, such as `connected` or `disconnected`."""

    stream: AudioStream


class CallQualityCounters:
    """Counters of call minutes, exported as metrics. A minute counts when it begins, one with several gaps counts once.

    `CallQualityMonitor` counts them.
    """

    __slots__ = ("call_minutes", "call_minutes_with_gap")

    def __init__(self) -> None:
        self.call_minutes = 0
        self.call_minutes_with_gap = 0


class _Minute:
    """The running minute of a call."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.gap = False
        self.lost = 0


class CallQualityMonitor:
    """Finds gaps in calls. Call `sample` for each call every `SAMPLE_SECONDS`.

    A gap is one of three: `GAP_PACKETS` lost packets of the caller between two samples, more than `GAP` seconds of
    silence within a response, or a disconnected caller. A muted caller that sends nothing has no gap.
    """

    def __init__(self) -> None:
        self.counters = CallQualityCounters()
        self._minutes: WeakKeyDictionary[MonitoredCall, _Minute] = WeakKeyDictionary()
        """The running minute of each call that has been connected."""

    def sample(self, call: MonitoredCall, now: float) -> None:
        """Count the minute that began and the gap that occurred since the last sample of a call."""
        state = call.state
        if state not in ("connected", "disconnected"):
            return
        minute = self._minutes.get(call)
        if minute is None:
            minute = self._minutes[call] = _Minute(now)
            self.counters.call_minutes += 1
        elif now - minute.began >= MINUTE:
            minute.began += MINUTE
            minute.gap = False
            self.counters.call_minutes += 1
        if self._had_gap(call, minute, state) and not minute.gap:
            minute.gap = True
            self.counters.call_minutes_with_gap += 1

    @staticmethod
    def _had_gap(call: MonitoredCall, minute: _Minute, state: str) -> bool:
        lost = sum(source.packets_lost for source in call.stream.receiver.sources.values())
        newly_lost, minute.lost = lost - minute.lost, lost
        silence = call.stream.playout.take_longest_gap()
        return newly_lost >= GAP_PACKETS or silence > GAP or state == "disconnected"
