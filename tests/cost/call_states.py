"""A whole call, with the datagrams of its caller as inputs, signed and encrypted.

An input is a letter for the protocol, and the plaintext. The call passes it to its cores.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, ClassVar

from antiphon_common.rtp_extensions import AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.budget import EVENT
from antiphon_transceiver.rtp import RtpOptions
from cost import work
from cost.bounds import UNITS_PER_MICROSECOND
from cost.drive import drain
from cost.grammars import Grammar, RtcpPackets, SctpChunks, StunAttributes, Whole
from cost.media_states import StreamListener
from cost.sctp_states import HostilePeer, encode, usual
from cost.search import Ready
from cost.transport_states import requests, signed
from support.sim.call_pair import CallPair

STUN, RTP, RTCP, CHANNELS = b"S", b"T", b"C", b"D"
OPTIONS = RtpOptions({MID: 1, AUDIO_LEVEL: 2, TRANSPORT_SEQUENCE: 4}, "0", ("nack", "transport-cc"), reduced_size=True)


class ByProtocol:
    """The grammar that an input's first letter names."""

    GRAMMARS: ClassVar[dict[bytes, Grammar]] = {
        STUN: StunAttributes(),
        RTP: Whole(),
        RTCP: RtcpPackets(),
        CHANNELS: SctpChunks(),
    }

    def split(self, data: bytes) -> list[bytes]:
        return [data[:1], *self.GRAMMARS.get(data[:1], Whole()).split(data[1:])]

    def join(self, elements: Sequence[bytes]) -> bytes:
        letter = elements[0][:1] if elements else b""
        return letter + self.GRAMMARS.get(letter, Whole()).join(elements[1:])

    def name(self, element: bytes) -> str:
        return f"element {element[:2].hex()}"


def _call(talks: float) -> Callable[[], Ready]:
    def prepare() -> Ready:
        pair = CallPair(options=OPTIONS, data_channels=True).connect()
        pair.client.send_message("{}")
        pair.talk(talks)
        network, client, call = pair.network, pair.client, pair.call
        now, path = network.now, network.left.path
        caller: Any = client
        peer = HostilePeer(call.channels, now)
        numbers = count(1_000_000)

        def protect(data: bytes) -> bytes:
            letter, content = data[:1], data[1:]
            if letter == STUN:
                return signed(content, pair.accepted.ice.password.encode())
            if letter == RTP and len(content) >= 12:
                return bytes(caller.transport.srtp.protect_rtp(content[:2] + next(sequences) + content[4:]))
            if letter == RTCP and len(content) >= 8:
                return bytes(caller.transport.srtp.protect_rtcp(content))
            if letter == CHANNELS:
                caller.transport.dtls.records.next_sequence[1] = next(numbers)
                caller.transport.dtls.send_application_data(peer.packet(content))
                return bytes(caller.transport.dtls.poll_transmit().data)
            return data

        sequences = (number.to_bytes(2, "big") for number in count(30_000))

        def receive(data: bytes) -> None:
            pair.backend.events.clear()
            call.receive_datagram(data, path, now)
            work.paid(round(EVENT.base * UNITS_PER_MICROSECOND) * len(pair.backend.events))
            drain(call, now)

        listener = StreamListener()
        listener.stream = call.stream
        username = f"{pair.accepted.ice.ufrag}:{client.ice_parameters.ufrag}".encode()
        attribute = b"\0\6" + len(username).to_bytes(2, "big") + username + bytes(-len(username) % 4)
        checks = [one.replace(b"\0\6\0\x0clocal:remote", attribute) for one in requests()]
        seeds = [STUN + check for check in checks]
        seeds += [RTP + one for one in listener.seeds() if not 192 <= one[1] < 224]
        seeds += [RTCP + one for one in listener.rtcp_seeds()]
        seeds += [CHANNELS + encode(one) for one in usual(peer)]
        return Ready(receive, seeds, ByProtocol(), limit=1140, numbers=(peer.tsn, peer.sent_tsn), wrap=protect)

    return prepare


STATES: dict[str, Callable[[], Ready]] = {"connected": _call(0.0), "talking": _call(3.0)}
