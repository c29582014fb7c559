"""The handshake of DTLS 1.2 as two tables: the state after each message that a state accepts.

    client                                  server
    ClientHello                    ───▶                          flight 1
                                   ◀───     HelloVerifyRequest   flight 2, as client only
    ClientHello with the cookie    ───▶                          flight 3
                                   ◀───     ServerHello          flight 4
                                            Certificate
                                            ServerKeyExchange
                                            CertificateRequest
                                            ServerHelloDone
    Certificate                    ───▶                          flight 5
    ClientKeyExchange
    CertificateVerify
    ChangeCipherSpec, Finished
                                   ◀───     ChangeCipherSpec     flight 6
                                            Finished

Both sides must send a certificate (RFC 5763 §5), and sessions are not resumed. A message that the peer's role never
sends is dropped. Any other message that is not in the table is answered with unexpected_message. ChangeCipherSpec is in
no table: the epoch of each record has the same meaning, also when datagrams arrive out of order.
"""

from collections.abc import Mapping
from enum import Enum, auto

from antiphon_transceiver.dtls.messages import HandshakeType


class HandshakeState(Enum):
    """The state of a handshake, named for the message that it waits for. `CLIENT` and `SERVER` have the transitions."""

    WAIT_CLIENT_HELLO = auto()
    WAIT_SERVER_HELLO = auto()
    WAIT_VERIFIED_SERVER_HELLO = auto()
    WAIT_CERTIFICATE = auto()
    WAIT_SERVER_KEY_EXCHANGE = auto()
    WAIT_CERTIFICATE_REQUEST = auto()
    WAIT_SERVER_HELLO_DONE = auto()
    WAIT_CLIENT_KEY_EXCHANGE = auto()
    WAIT_CERTIFICATE_VERIFY = auto()
    WAIT_FINISHED = auto()
    CONNECTED = auto()


Transitions = Mapping[tuple[HandshakeState, int], HandshakeState]

CLIENT: Transitions = {
    (HandshakeState.WAIT_SERVER_HELLO, HandshakeType.HELLO_VERIFY_REQUEST): HandshakeState.WAIT_VERIFIED_SERVER_HELLO,
    (HandshakeState.WAIT_SERVER_HELLO, HandshakeType.SERVER_HELLO): HandshakeState.WAIT_CERTIFICATE,
    (HandshakeState.WAIT_VERIFIED_SERVER_HELLO, HandshakeType.SERVER_HELLO): HandshakeState.WAIT_CERTIFICATE,
    (HandshakeState.WAIT_CERTIFICATE, HandshakeType.CERTIFICATE): HandshakeState.WAIT_SERVER_KEY_EXCHANGE,
    (
        HandshakeState.WAIT_SERVER_KEY_EXCHANGE,
        HandshakeType.SERVER_KEY_EXCHANGE,
    ): HandshakeState.WAIT_CERTIFICATE_REQUEST,
    (HandshakeState.WAIT_CERTIFICATE_REQUEST, HandshakeType.CERTIFICATE_REQUEST): HandshakeState.WAIT_SERVER_HELLO_DONE,
    (HandshakeState.WAIT_SERVER_HELLO_DONE, HandshakeType.SERVER_HELLO_DONE): HandshakeState.WAIT_FINISHED,
    (HandshakeState.WAIT_FINISHED, HandshakeType.FINISHED): HandshakeState.CONNECTED,
}

SERVER: Transitions = {
    (HandshakeState.WAIT_CLIENT_HELLO, HandshakeType.CLIENT_HELLO): HandshakeState.WAIT_CERTIFICATE,
    (HandshakeState.WAIT_CERTIFICATE, HandshakeType.CERTIFICATE): HandshakeState.WAIT_CLIENT_KEY_EXCHANGE,
    (
        HandshakeState.WAIT_CLIENT_KEY_EXCHANGE,
        HandshakeType.CLIENT_KEY_EXCHANGE,
    ): HandshakeState.WAIT_CERTIFICATE_VERIFY,
    (HandshakeState.WAIT_CERTIFICATE_VERIFY, HandshakeType.CERTIFICATE_VERIFY): HandshakeState.WAIT_FINISHED,
    (HandshakeState.WAIT_FINISHED, HandshakeType.FINISHED): HandshakeState.CONNECTED,
}
