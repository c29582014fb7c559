"""One session and its caller, nothing between them but a network: what the two must tell each other."""

from random import Random

import pytest

from antiphon.client.call import ClientCall, Closed, Connected
from antiphon.client.call import Event as ClientEvent
from antiphon_common.control import CallAccepted, IceParameters
from antiphon_signaling.sdp import read_offer, write_answer
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.ice import ice_password, ice_ufrag
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.session import Ended, Event, Session
from support.dtls_peers import certificate
from support.impairment import Impairment
from support.memory_network import MemoryNetwork, Station

FAR_AWAY = Impairment(delay=0.025)


class Pair:
    """A caller (left) and the session that answers it (right), connecting."""

    def __init__(self, seed: int = 0, impairment: Impairment = FAR_AWAY, *, presents: str = "client") -> None:
        """`presents` names the certificate that the caller shows, be it announced or not."""
        random = Random(seed).randbytes
        self.client = ClientCall(certificate("client"), random, 0.0)
        offer = read_offer(self.client.offer().encode())
        request = offer.call_request("rtc_1", "tenant", {})
        local = IceParameters(ice_ufrag(random), ice_password(random))
        stream = AudioStream(request.codec, "opus", "cname", random, 0.0)
        self.session = Session(request, local, certificate("server"), stream, random, 0.0)
        fingerprint = certificate("server").fingerprint()
        accepted = CallAccepted(local, self.session.setup, fingerprint, stream.ssrc, "cname")
        self.network: MemoryNetwork[ClientEvent, Event] = MemoryNetwork(
            self.client, self.session, impairment, seed=seed
        )
        self.client.certificate = certificate(presents)
        path = self.network.right.path
        answer = write_answer(offer, accepted, [(path.host, path.port)], 1)
        self.client.accept(answer.encode().decode(), 0.0)

    def connect(self) -> "Pair":
        assert self.network.run(lambda: any(isinstance(e, Connected) for e in self.network.left.events), limit=5.0)
        self.network.run(limit=self.network.now + 0.2)
        return self


def deafen(
    station: Station[ClientEvent] | Station[Event], network: MemoryNetwork[ClientEvent, Event], end: float
) -> None:
    """Lose everything that a station sends until `end`."""
    station.rewrite = lambda datagram: [] if network.now < end else [datagram]


@pytest.mark.parametrize("outage", [0.0, 0.05, 0.29, 0.69])
def test_a_caller_learns_within_a_second_that_the_call_was_ended(outage: float) -> None:
    pair = Pair().connect()
    network, ended_at = pair.network, pair.network.now
    deafen(network.right, network, ended_at + outage)
    pair.session.close(EndReason.HANGUP, "", ended_at)
    assert network.run(lambda: pair.client.closed is not None, limit=ended_at + 1.0)
    assert pair.client.closed == Closed("DTLS: close_notify ")
    network.run(limit=ended_at + 60.0)
    assert pair.session.poll_timeout() is None


@pytest.mark.parametrize("outage", [0.0, 0.05, 0.29, 0.69])
def test_a_session_learns_within_a_second_that_its_caller_left(outage: float) -> None:
    pair = Pair().connect()
    network, left_at = pair.network, pair.network.now
    deafen(network.left, network, left_at + outage)
    pair.client.close(left_at)
    assert network.run(lambda: pair.session.ended is not None, limit=left_at + 1.0)
    assert pair.session.ended == Ended(EndReason.CLOSE_NOTIFY, "")


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_caller_learns_within_a_second_that_its_certificate_was_refused(lost: int) -> None:
    pair = Pair(presents="another")
    alerts: list[bytes] = []

    def lose_alerts(datagram: bytes) -> list[bytes]:
        alerts.extend([datagram] if datagram[0] == ContentType.ALERT else [])
        return [] if datagram[0] == ContentType.ALERT and len(alerts) <= lost else [datagram]

    pair.network.right.rewrite = lose_alerts
    assert pair.network.run(lambda: pair.session.ended is not None, limit=5.0)
    assert pair.session.ended is not None
    assert pair.session.ended.reason is EndReason.CERTIFICATE_MISMATCH
    assert pair.network.run(lambda: pair.client.closed is not None, limit=pair.network.now + 1.0)
