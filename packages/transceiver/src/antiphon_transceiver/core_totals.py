"""The counters of the protocol cores of all calls of a process, added up."""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from antiphon_common.metrics import counter_names
from antiphon_transceiver.audio import JitterCounters
from antiphon_transceiver.call import Call
from antiphon_transceiver.channels import ChannelCounters
from antiphon_transceiver.dtls import DtlsCounters
from antiphon_transceiver.ice import ControlledAgentCounters
from antiphon_transceiver.media import MediaCounters
from antiphon_transceiver.peer_transport import TransportCounters
from antiphon_transceiver.rtcp.reporter import ReporterCounters
from antiphon_transceiver.sctp import AssociationCounters, DataChannelCounters
from antiphon_transceiver.sctp.data_receiver import DataReceiverCounters
from antiphon_transceiver.sctp.data_sender import DataSenderCounters
from antiphon_transceiver.srtp import SrtpCounters


class CounterSource(NamedTuple):
    """The counters of one core of a call: their names, and a function that finds them. `SOURCES` lists all of them.

    `find` returns None while the call does not have the core. `kind` is the class of the counters, or None where the
    core itself has them.
    """

    core: str
    kind: type | None
    names: tuple[str, ...]
    find: Callable[[Call], object | None]


def _source(core: str, kind: type, find: Callable[[Call], object | None]) -> CounterSource:
    """Return the source of all counters of a class."""
    return CounterSource(core, kind, tuple(counter_names(kind())), find)


SOURCES = (
    _source("ice", ControlledAgentCounters, lambda call: call.agent.counters),
    _source("transport", TransportCounters, lambda call: call.transport.counters),
    _source("dtls", DtlsCounters, lambda call: call.transport.dtls.counters),
    _source("srtp", SrtpCounters, lambda call: call.transport.srtp and call.transport.srtp.counters),
    _source("sctp", AssociationCounters, lambda call: call.channels and call.channels.endpoint.association.counters),
    _source(
        "sctp_sender",
        DataSenderCounters,
        lambda call: call.channels and call.channels.endpoint.association.sender.counters,
    ),
    _source(
        "sctp_receiver",
        DataReceiverCounters,
        lambda call: call.channels and call.channels.endpoint.association.receiver.counters,
    ),
    _source("data_channels", DataChannelCounters, lambda call: call.channels and call.channels.endpoint.counters),
    _source("events", ChannelCounters, lambda call: call.channels and call.channels.counters),
    _source("media", MediaCounters, lambda call: call.stream.counters),
    _source("rtcp", ReporterCounters, lambda call: call.stream.reporter.counters),
    _source("jitter_buffer", JitterCounters, lambda call: call.stream.uplink.jitter.counters),
    CounterSource("rtp_receiver", None, ("requested", "recovered", "unreported"), lambda call: call.stream.receiver),
    CounterSource("rtp_sender", None, ("resent", "refused"), lambda call: call.stream.sender),
    CounterSource("playout", None, ("skipped", "discarded_ms"), lambda call: call.stream.playout),
    CounterSource("call", None, ("undelivered",), lambda call: call.caller),
)
"""The counters of a call, by core."""

_KEYS = [(source.core, name) for source in SOURCES for name in source.names]


def _reader(source: CounterSource) -> Callable[[Call], tuple[int, ...]]:
    read: Callable[[Any], Any] = attrgetter(*source.names)
    zeros = (0,) * len(source.names)
    find = source.find
    if len(source.names) == 1:
        return lambda call: zeros if (counters := find(call)) is None else (read(counters),)
    return lambda call: zeros if (counters := find(call)) is None else read(counters)


_READERS = [_reader(source) for source in SOURCES]


class CoreTotals:
    """The sums of the counters of all calls of a process, including calls that have ended.

    Call `begin` and `end` for each call, and `update` from time to time in between. An update adds what the call has
    counted since the last one, so packets cost nothing.
    """

    def __init__(self) -> None:
        self._totals = [0] * len(_KEYS)
        self._counted: dict[Call, list[int]] = {}
        """The counters of each running call that `_totals` contains."""

    def begin(self, call: Call) -> None:
        """Add a call. The caller must `end` it."""
        self._counted[call] = [0] * len(_KEYS)

    def update(self, call: Call) -> None:
        """Add what a call has counted since the last update. This has no effect after the call's end."""
        before = self._counted.get(call)
        if before is not None:
            values = [value for read in _READERS for value in read(call)]
            now = list(map(max, values, before))  # the jitter buffer corrects some of its counters downwards
            self._totals = [total + new - old for total, new, old in zip(self._totals, now, before, strict=True)]
            self._counted[call] = now

    def end(self, call: Call) -> None:
        """Add what a call has counted since the last update, and remove the call."""
        self.update(call)
        self._counted.pop(call, None)

    def items(self) -> Iterator[tuple[str, str, int]]:
        """Yield core, counter and total of each."""
        for (core, name), total in zip(_KEYS, self._totals, strict=True):
            yield core, name, total
