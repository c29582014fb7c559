"""The relay's packet counters equal those of Chromium."""

from collections import Counter
from collections.abc import Callable

import pytest

from antiphon_common.demux import Protocol
from support.net.packet_capture import packet_capture
from support.peers.browser import TalkPage
from support.processes.services import apart

SECONDS = 12.0
TOLERANCE = 0.01


def test_the_relay_counts_the_same_packets_as_the_caller(new_tab: Callable[[], TalkPage]) -> None:
    """getStats counts RTP. A capture between caller and relay counts STUN, DTLS and RTCP."""
    with packet_capture() as capture, apart(advertise=capture.address) as deployment:
        relay = deployment.media
        capture.forward_to(relay)
        tab = new_tab()
        tab.open(deployment.url)
        tab.talk()
        tab.start_recording()
        tab.recording(SECONDS)
        tab.fall_silent()
        sent = sum(report["packetsSent"] for report in tab.statistics("outbound-rtp"))
        received = sum(report["packetsReceived"] for report in tab.statistics("inbound-rtp"))
        pairs = tab.statistics("candidate-pair")
        metrics = deployment.relay_metrics()
        up, down = Counter(capture.up), Counter(capture.down)
        tab.hang_up()
        tab.page.close()
    relay_received = metrics[f'antiphon_relay_socket_received_total{{socket="{relay}"}}']
    relay_sent = metrics[f'antiphon_relay_socket_sent_total{{socket="{relay}"}}']
    print(f"\nto the relay: {relay_received:.0f} = RTP {sent} + {_others(up)}")
    print(f"from the relay: {relay_sent:.0f} = RTP {received} + {_others(down)}", end="")
    assert sent > SECONDS * 45
    assert received > SECONDS * 45
    assert relay_received == pytest.approx(sent + up.total() - up[Protocol.RTP], rel=TOLERANCE)
    assert relay_sent == pytest.approx(received + down.total() - down[Protocol.RTP], rel=TOLERANCE)
    # The same by the caller's figures alone: RTP, RTCP and DTLS of each pair, and its checks and responses.
    assert relay_received == pytest.approx(_total(pairs, "Sent"), rel=TOLERANCE)
    assert relay_sent == pytest.approx(_total(pairs, "Received"), rel=TOLERANCE)


def _others(counted: "Counter[Protocol]") -> str:
    return " + ".join(f"{kind.name} {count}" for kind, count in counted.items() if kind != Protocol.RTP)


def _total(pairs: list[dict[str, int]], way: str) -> int:
    return sum(pair[f"{what}{way}"] for pair in pairs for what in ("packets", "requests", "responses"))
