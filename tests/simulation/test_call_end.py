"""The close alerts of a session and its caller, with losses."""

from math import inf

import pytest

from antiphon.client.call import ClientCallEvent, ClientClosed
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.events import CallEvent, Terminated
from antiphon_transceiver.outcome import EndReason
from support.sim.call_pair import CallPair
from support.sim.memory_network import MemoryNetwork, Station


def lose_sent(
    station: Station[ClientCallEvent] | Station[CallEvent],
    network: MemoryNetwork[ClientCallEvent, CallEvent],
    end: float,
) -> None:
    """Lose everything that a station sends until `end`."""
    station.rewrite = lambda datagram: [] if network.now < end else [datagram]


@pytest.mark.parametrize("outage", [0.0, 0.05, 0.29, 0.69])
def test_the_caller_receives_close_notify_within_a_second_when_alerts_are_lost(outage: float) -> None:
    pair = CallPair().connect()
    network, ended_at = pair.network, pair.network.now
    lose_sent(network.right, network, ended_at + outage)
    pair.call.end(EndReason.HANGUP, "", ended_at)
    assert network.run(lambda: pair.client.closed is not None, limit=ended_at + 1.0)
    assert pair.client.closed == ClientClosed("DTLS: close_notify ")
    network.run(limit=ended_at + 60.0)
    assert pair.call.poll_timeout() == inf


@pytest.mark.parametrize("outage", [0.0, 0.05, 0.29, 0.69])
def test_the_session_receives_close_notify_within_a_second_when_alerts_are_lost(outage: float) -> None:
    pair = CallPair().connect()
    network, left_at = pair.network, pair.network.now
    lose_sent(network.left, network, left_at + outage)
    pair.client.close(left_at)
    assert network.run(lambda: pair.call.ended is not None, limit=left_at + 1.0)
    assert pair.call.ended == Terminated(EndReason.CLOSE_NOTIFY, "")


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_caller_with_another_certificate_receives_an_alert_within_a_second(lost: int) -> None:
    pair = CallPair(presents="another")
    alerts: list[bytes] = []

    def lose_alerts(datagram: bytes) -> list[bytes]:
        alerts.extend([datagram] if datagram[0] == ContentType.ALERT else [])
        return [] if datagram[0] == ContentType.ALERT and len(alerts) <= lost else [datagram]

    pair.network.right.rewrite = lose_alerts
    assert pair.network.run(lambda: pair.call.ended is not None, limit=5.0)
    assert pair.call.ended is not None
    assert pair.call.ended.reason is EndReason.CERTIFICATE_MISMATCH
    assert pair.network.run(lambda: pair.client.closed is not None, limit=pair.network.now + 1.0)
