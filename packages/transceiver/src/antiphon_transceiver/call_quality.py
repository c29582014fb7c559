"""Counts the minutes of calls, and those in which one side heard nothing for a while although there was audio for it.

Nothing is measured per packet: who looks at the calls once a second finds gaps in what they count anyway.
"""

from typing import Protocol
from weakref import WeakKeyDictionary

from antiphon_transceiver.media import AudioStream

LOOK_SECONDS = 1.0
"""How often calls are looked at."""

MINUTE = 60.0

GAP = 1.0
"""Seconds without audio that make a minute a bad one: nobody takes that for a pause."""

GAP_PACKETS = 50
"""As many packets as a caller sends in that time: most send one each 20 ms. In silence they may send fewer, and a gap
there is none."""


class Watched(Protocol):
    """A session, as far as it is looked at."""

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
    """`look` at each session every `LOOK_SECONDS`.

    A gap is: `GAP_PACKETS` of the caller's packets lost between two looks, a silence within a response, or a peer that
    is gone without a word. A caller who sends nothing because it is muted has none.
    """

    def __init__(self) -> None:
        self.counters = CallQualityCounters()
        self._minutes: WeakKeyDictionary[Watched, _Minute] = WeakKeyDictionary()
        """Of the sessions that have been connected; one that is gone leaves nothing."""

    def look(self, session: Watched, now: float) -> None:
        """Take note of what happened in a session since the last look."""
        state = session.state
        if state not in ("connected", "disconnected"):
            return
        minute = self._minutes.get(session)
        if minute is None:
            minute = self._minutes[session] = _Minute(now)
            self.counters.call_minutes += 1
        elif now - minute.began >= MINUTE:
            minute.began += MINUTE
            minute.gap = False
            self.counters.call_minutes += 1
        if self._had_gap(session, minute, state) and not minute.gap:
            minute.gap = True
            self.counters.call_minutes_with_gap += 1

    @staticmethod
    def _had_gap(session: Watched, minute: _Minute, state: str) -> bool:
        lost = sum(source.packets_lost for source in session.stream.receiver.sources.values())
        newly_lost, minute.lost = lost - minute.lost, lost
        silence = session.stream.playout.take_longest_gap()
        return newly_lost >= GAP_PACKETS or silence > GAP or state == "disconnected"
