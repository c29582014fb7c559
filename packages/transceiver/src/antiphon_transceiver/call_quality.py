"""Counts the minutes of calls, and the minutes with a gap: a side received no audio although there was some for it.

Nothing is measured per packet. The calls are sampled once a second, and gaps are found in their own counters.
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
"""Packets that a caller sends in that time, one each 20 ms. In silence it may send fewer; that is no gap."""


class MonitoredCall(Protocol):
    """A call, as far as it is sampled."""

    @property
    def state(self) -> str: ...

    stream: AudioStream


class CallQualityCounters:
    """Minutes count when they begin; one with several gaps counts once."""

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
    """Finds gaps in calls. `sample` each call every `SAMPLE_SECONDS`.

    A gap is one of three: `GAP_PACKETS` of the caller's packets lost between two samples, a silence within a response,
    or a disconnected caller. A muted caller that sends nothing has no gap.
    """

    def __init__(self) -> None:
        self.counters = CallQualityCounters()
        self._minutes: WeakKeyDictionary[MonitoredCall, _Minute] = WeakKeyDictionary()
        """The running minute of each call that has been connected."""

    def sample(self, call: MonitoredCall, now: float) -> None:
        """Note what happened in a call since the last sample."""
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
