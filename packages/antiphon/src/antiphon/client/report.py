"""The report of `antiphon load` as text."""

from collections import Counter
from collections.abc import Iterable

import msgspec


class CallReport(msgspec.Struct):
    """The results of one call. `LoadGenerator` fills it in during the call.

    Times are in seconds from the offer; None for what did not happen. `echo_delays` is empty unless the server returns
    packets unchanged (backend `loopback`, audio `opus`).
    """

    answered_after: float | None = None
    connected_after: float | None = None
    first_audio_after: float | None = None
    failure: str | None = None
    sent: int = 0
    received: int = 0
    lost: int = 0
    jitter: float = 0.0
    round_trip: float | None = None
    echo_delays: list[float] = msgspec.field(default_factory=list)


class LoadReport(msgspec.Struct, frozen=True):
    """The results of a run. `run_load` returns it, and `format_report` makes it text.

    The calls sent speech for `seconds`. `busy` is the share of one processor that this client used meanwhile.
    """

    calls: list[CallReport]
    seconds: float
    busy: float


def format_report(report: LoadReport) -> str:
    """Return the report as a few lines for people."""
    calls = report.calls
    good = [call for call in calls if call.failure is None]
    sent, received = sum(call.sent for call in good), sum(call.received for call in good)
    delays = [delay for call in good for delay in call.echo_delays]
    lines = [
        f"calls          {len(good)} of {len(calls)} good",
        f"offer→answer   {_spread(call.answered_after for call in calls)}",
        f"offer→DTLS     {_spread(call.connected_after for call in calls)}",
        f"offer→audio    {_spread(call.first_audio_after for call in calls)}",
        f"round trip     {_spread(call.round_trip for call in good)}  (RTCP)",
        f"echo delay     {_spread(delays)}  (packets that came back untouched)",
        f"jitter         {_spread(call.jitter for call in good)}",
        f"packets        {sent} sent, {received} received ({received / sent:.2%}), "
        f"{sum(call.lost for call in good)} lost on the way back"
        if sent
        else "packets        none sent",
        f"this client    {report.busy:.0%} of a processor for {report.seconds:.1f} s"
        + ("; too busy to be trusted: use fewer calls" if report.busy > 0.85 else ""),
    ]
    if sent and not received:
        lines.append("backend        sent nothing: echo waits for a pause; antiphon_backend.loopback does not")
    failures = Counter(call.failure for call in calls if call.failure is not None)
    lines += [f"failed         {count} × {reason}" for reason, count in failures.most_common()]
    return "\n".join(lines)


def _spread(seconds: Iterable[float | None]) -> str:
    """Return median, 99th percentile and maximum in milliseconds."""
    known = sorted(value for value in seconds if value is not None)
    if not known:
        return "–"
    middle, high = known[len(known) // 2], known[min(len(known) - 1, len(known) * 99 // 100)]
    return f"p50 {middle * 1000:.1f}  p99 {high * 1000:.1f}  max {known[-1] * 1000:.1f} ms"
