import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp.evicted import Reached
from antiphon_transceiver.srtp.gcm import GcmTransform
from antiphon_transceiver.srtp.keys import Keys
from antiphon_transceiver.srtp.streams import MAX_RTCP_INDEX, MAX_RTP_INDEX, ReceiveStream, SendStream

TRANSFORM = GcmTransform(Keys(bytes(16), bytes(12)), Keys(bytes(16), bytes(12)))


def test_the_rollover_counter_increases_with_each_wrap() -> None:
    stream = SendStream(TRANSFORM)
    assert stream.take_rtp(40000) == 40000
    assert stream.take_rtp(65535) == 65535
    assert stream.take_rtp(0) == 0x10000
    assert stream.take_rtp(65534) == 65534  # late, but new
    assert stream.take_rtp(30000) == 0x10000 + 30000
    assert stream.take_rtp(60000) == 0x10000 + 60000
    assert stream.take_rtp(1) == 0x20001


@pytest.mark.parametrize("sequence", [0, 7, 300])
def test_no_index_is_used_twice(sequence: int) -> None:
    stream = SendStream(TRANSFORM)
    for number in (0, 7, 300, 301):
        stream.take_rtp(number)
    with pytest.raises(LocalProtocolError):
        stream.take_rtp(sequence)


def test_a_sequence_number_older_than_the_replay_window_is_refused() -> None:
    stream = SendStream(TRANSFORM)
    stream.take_rtp(1000)
    with pytest.raises(LocalProtocolError):
        stream.take_rtp(800)


def test_no_rtp_index_follows_the_last() -> None:
    stream = SendStream(TRANSFORM, Reached(MAX_RTP_INDEX - 1, -1))
    assert stream.take_rtp(0xFFFF) == MAX_RTP_INDEX
    for sequence in (0, 0xFFFF):
        with pytest.raises(LocalProtocolError):
            stream.take_rtp(sequence)


def test_no_rtcp_index_follows_the_last() -> None:
    stream = SendStream(TRANSFORM, Reached(-1, MAX_RTCP_INDEX - 1))
    assert stream.take_rtcp() == MAX_RTCP_INDEX
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            stream.take_rtcp()


def test_a_receiver_estimates_no_index_beyond_the_last() -> None:
    stream = ReceiveStream(TRANSFORM)
    stream.rtp.accept(MAX_RTP_INDEX)
    assert stream.estimate_rtp(0) is None
    assert stream.estimate_rtp(0xFFFE) == MAX_RTP_INDEX - 1
