"""The budget of a call: ordinary calls stay within it, and no work beyond it is admitted."""

from collections.abc import Iterable

import pytest

from antiphon_common import frames
from antiphon_common.json_objects import pack
from antiphon_transceiver.budget import BURST, DEBT, OVER_SECONDS, RATE, Budget, frame_price, price_of

STUN, DTLS, RTP, RTCP = b"\x00\x01", b"\x17\xfe", b"\x80\x6f", b"\x80\xc9"
START = 1000.0

Sent = tuple[float, bytes]


def every(interval: float, seconds: float, datagram: bytes, *, at: float = 0.0) -> list[Sent]:
    """Return datagrams at a constant rate."""
    return [(at + number * interval, datagram) for number in range(round(seconds / interval))]


def at_once(number: int, datagram: bytes, *, at: float = 0.0) -> list[Sent]:
    return [(at, datagram)] * number


def refused(*sent: Iterable[Sent]) -> int:
    budget = Budget()
    for at, datagram in sorted((one for several in sent for one in several), key=lambda one: one[0]):
        budget.admit(datagram, START + at)
    return budget.refused


AUDIO = every(0.01, 60, RTP.ljust(500, b"\0"))
"""100 packets a second, with RED (RFC 2198)."""
FEEDBACK = every(0.05, 60, RTCP.ljust(120, b"\0"))
CHECKS = every(0.05, 60, STUN.ljust(120, b"\0"))
FULL = DTLS.ljust(1200, b"\0")


@pytest.mark.parametrize(
    "peak",
    [
        [],
        at_once(75, RTP.ljust(500, b"\0"), at=30),
        at_once(220, FULL, at=30),
        every(0.002, 20, FULL, at=30),
        at_once(20, FULL),
    ],
    ids=["audio with RED", "audio after a stall", "a message of 256 KiB", "a file", "certificates of 20 KB"],
)
def test_the_peaks_of_ordinary_calls_are_within_the_budget(peak: list[Sent]) -> None:
    assert refused(AUDIO, FEEDBACK, CHECKS, peak) == 0


@pytest.mark.parametrize("datagram", [STUN, DTLS, RTP, RTCP, b"\xff\xff"], ids=bytes.hex)
@pytest.mark.parametrize("size", [20, 200, 1200])
@pytest.mark.parametrize("interval", [0.0, 1e-5, 1 / 8000])
def test_admitted_work_is_limited_to_burst_and_rate(datagram: bytes, size: int, interval: float) -> None:
    budget, datagram = Budget(), datagram.ljust(size, b"\0")
    spent, number = 0.0, 10_000
    for index in range(number):
        if budget.admit(datagram, START + index * interval):
            spent += price_of(datagram)
        assert spent <= BURST + RATE * index * interval + price_of(datagram) / 1000
    assert budget.refused + round(spent / price_of(datagram)) == number


def test_the_budget_refills_up_to_its_maximum() -> None:
    for idle in (1.0, 3600.0):
        budget = Budget()
        for now in (START, START + idle):
            assert sum(budget.admit(FULL, now) for _ in range(10_000)) == int(BURST / price_of(FULL))


def test_a_call_is_exhausted_after_a_long_excess_but_not_after_one_peak() -> None:
    budget, flood = Budget(), RTP.ljust(200, b"\0")
    for index in range(8000 * 5):
        budget.admit(flood, START + index / 8000)
    assert budget.refused
    assert not budget.exhausted
    for index in range(8000 * 5):
        budget.admit(flood, START + OVER_SECONDS + index / 8000)
    assert not budget.exhausted
    for index in range(8000 * 6):
        budget.admit(flood, START + OVER_SECONDS + 5 + index / 8000)
    assert budget.exhausted


def test_debt_is_bounded() -> None:
    budget = Budget()
    assert budget.charge(BURST + DEBT - 1, START)
    assert not budget.admit(RTP, START)
    assert not budget.charge(2, START)
    assert budget.admit(RTP, START + (BURST + DEBT) / RATE)


def test_a_frame_is_charged_by_its_bytes() -> None:
    """The audio of the whole credit, in the format with the most bytes, and a few events are within the budget."""
    budget = Budget()
    audio = frames.Audio(1, bytes(1920), response=1)
    for _ in range(frames.CREDIT_MS // 20):
        assert budget.charge(frame_price(audio), START)
    for _ in range(100):
        assert budget.charge(frame_price(frames.ServerEvent(1, pack({"type": "x"}))), START)
    assert budget.admit(RTP, START)
    assert frame_price(audio) > frame_price(frames.Clear(1, 0))
