"""What signaling and a transceiver say to each other: JSON over HTTP, Bearer authenticated with the control key.

| request | body | answer |
|---|---|---|
| `POST /calls` | `CallRequest` | 201 `CallAccepted`; 503 and Retry-After when full or draining; 422 `Failure` |
| `GET /calls` | | 200 `CallList`, for signaling servers that limit what callers have |
| `GET /calls/{id}?tenant=T` | | 200 `CallStatus`; with `&wait=SECONDS` once the call ended, or after that time |
| `PATCH /calls/{id}?tenant=T` | `IceUpdate` | 200 `CallAccepted` (restart), 204 (candidates); 412 stale; 429 too many |
| `DELETE /calls/{id}?tenant=T` | | 204 |
| `GET /link` | | 200 `LinkInfo`, for relays, and to know a transceiver by |
| `GET /load` | | 200 `Load`, for placement |
| `POST /drain` | | 200 `Load`: no new calls; live ones end after `--drain` seconds, or `?seconds=S` |
| `DELETE /drain` | | 200 `Load`: new calls again; 409 when the process is about to end |
| `POST /moved` | `PreviousOwner` | 204: relays redirect calls whose tokens name that transceiver to this one |
| `DELETE /moved?cluster=C&host=H&port=P` | | 204: the redirect ends a minute later; 404 if there is none |
"""

import base64
import hmac
from typing import Any, Literal, TypeVar

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.keys import MAX_KEY_ID, DerivedKeys

Setup = Literal["actpass", "active", "passive"]
"""Values of `a=setup` (RFC 4145 §4): who begins the DTLS handshake (RFC 5763 §5)."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
"""Directions of a media section (RFC 8866 §6.7)."""

T = TypeVar("T")


class Fingerprint(msgspec.Struct, frozen=True):
    """A certificate's digest (RFC 8122 §5): a hash name in lower case, and upper-case hex with colons."""

    algorithm: str
    value: str


class Codec(msgspec.Struct, frozen=True):
    """An audio codec as negotiated: `opus`, `pcmu` or `pcma`. `parameters` are those of its `a=fmtp` line, as the peer
    gave them; `redundancy` is the payload type of RED over it (RFC 2198), None where that was not negotiated."""

    name: str
    payload_type: int
    clock_rate: int
    channels: int = 1
    parameters: dict[str, str] = {}
    redundancy: int | None = None


class HeaderExtension(msgspec.Struct, frozen=True):
    """An RTP header extension that both sides speak (RFC 8285)."""

    id: int
    uri: str


class IceParameters(msgspec.Struct, frozen=True):
    """One side's ICE credentials (RFC 8839 §5.4). The password never goes over the network of the call."""

    ufrag: str
    password: str


class SctpParameters(msgspec.Struct, frozen=True):
    """What one side says of data channels (RFC 8841): its `a=sctp-port`, and the bytes of the longest message that it
    takes, 0 for any."""

    port: int
    max_message_size: int


class CallRequest(msgspec.Struct, frozen=True):
    """An offer, negotiated. `setup` is the DTLS role the offer leaves us to choose from (RFC 5763 §5), `direction`
    is the caller's, `feedback` are values of `a=rtcp-fb`; with `reduced_size_rtcp` feedback may travel without a report
    (RFC 5506). `sctp` is None where no data channels were offered. `session` is the session object of the Realtime API;
    its `model` names the backend."""

    call_id: str
    tenant: str
    ice: IceParameters
    setup: Setup
    fingerprints: tuple[Fingerprint, ...]
    codec: Codec
    mid: str = ""
    direction: Direction = "sendrecv"
    extensions: tuple[HeaderExtension, ...] = ()
    feedback: tuple[str, ...] = ()
    reduced_size_rtcp: bool = False
    sctp: SctpParameters | None = None
    session: dict[str, Any] = {}
    metadata: dict[str, str] = {}


class CallAccepted(msgspec.Struct, frozen=True):
    """What the answer carries of the transceiver's side; `sctp` is None where it takes no data channels."""

    ice: IceParameters
    setup: Literal["active", "passive"]
    fingerprint: Fingerprint
    ssrc: int
    cname: str
    sctp: SctpParameters | None = None


ANY_GENERATION = "*"
"""What an update may name instead of a ufrag, where it does not matter which one is current."""


class IceUpdate(msgspec.Struct, frozen=True):
    """What a client says of ICE while its call runs: new credentials restart it (RFC 8445 §9); without them there were
    candidates, which a lite agent has no use for. `generation` is our ufrag that the client goes by, or "*"."""

    generation: str
    ice: IceParameters | None = None


class CallStatus(msgspec.Struct, frozen=True):
    """A running or recently ended call. `state` is `new`, `connecting`, `connected`, `disconnected` or `ended`, and
    `reason` is set once it ended; docs/reference/signaling.md has the `statistics`."""

    call_id: str
    state: str
    reason: str | None = None
    statistics: dict[str, Any] = {}


class CallList(msgspec.Struct, frozen=True):
    """The ids of the running calls: those that have never been connected, and the others."""

    connecting: tuple[str, ...]
    connected: tuple[str, ...]


class LinkInfo(msgspec.Struct, frozen=True):
    """A transceiver's link addresses as `host:port`, and the cluster in its route tokens."""

    cluster: int
    addresses: tuple[str, ...]


class Load(msgspec.Struct, frozen=True):
    """How busy a transceiver is: calls at this moment, and at most; while it is `draining` it takes no more."""

    calls: int
    capacity: int
    draining: bool = False


class PreviousOwner(msgspec.Struct, frozen=True):
    """The transceiver that had the calls before: its cluster, and its link address with a numeric host."""

    cluster: int
    host: str
    port: int


class Failure(msgspec.Struct, frozen=True):
    """Why a request was refused; `code` is one word for programs, `message` a sentence for people."""

    code: str
    message: str


def decode(body: bytes, kind: type[T]) -> T:
    """Read a message of one of these kinds; raise DecodeError for bytes that are none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None


def authorization(keys: DerivedKeys, unix_now: float) -> str:
    """Return the `Authorization` header of a request: the control key in base64url as Bearer token (RFC 6750)."""
    return _bearer(keys.minting(unix_now)[1])


def is_authorized(keys: DerivedKeys, header: str, unix_now: float) -> bool:
    """Tell whether an `Authorization` header carries any control key accepted now, in constant time."""
    accepted = (keys.accepting(key_id, unix_now) for key_id in range(MAX_KEY_ID + 1))
    given = header.encode()
    return any([hmac.compare_digest(_bearer(key).encode(), given) for key in accepted if key is not None])  # noqa: C419


def _bearer(key: bytes) -> str:
    return "Bearer " + base64.urlsafe_b64encode(key).decode("ascii")
