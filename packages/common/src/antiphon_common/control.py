"""The control API between signaling and transceivers: JSON over HTTP, with the control key as Bearer token.

| request | body | answer |
|---|---|---|
| `POST /calls` | `CallRequest` | 201 `CallAccepted`; 503 and Retry-After when full or draining; 422 `Failure` |
| `GET /calls` | | 200 `CallList`, for signaling servers that apply limits |
| `GET /calls/{id}?tenant=T` | | 200 `CallStatus`; with `&wait=SECONDS` when the call ends, or after that time |
| `PATCH /calls/{id}?tenant=T` | `IceUpdate` | 200 `CallAccepted` (restart), 204 (candidates); 412 stale; 429 too many |
| `DELETE /calls/{id}?tenant=T` | | 204 |
| `GET /link` | | 200 `LinkInfo`, which identifies a transceiver |
| `GET /load` | | 200 `Load`, for placement |
| `POST /drain` | | 200 `Load`: no new calls; live ones end after `--drain` seconds, or `?seconds=S` |
| `DELETE /drain` | | 200 `Load`: new calls again; 409 if the process is about to end |
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
"""Values of `a=setup` (RFC 4145 §4), which selects the DTLS roles (RFC 5763 §5)."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
"""Directions of a media section (RFC 8866 §6.7)."""

T = TypeVar("T")


class Fingerprint(msgspec.Struct, frozen=True):
    """A certificate's digest (RFC 8122 §5): a hash name in lower case, and upper-case hex with colons."""

    algorithm: str
    value: str


class Codec(msgspec.Struct, frozen=True):
    """A negotiated audio codec: `opus`, `pcmu` or `pcma`. `CallRequest` carries it.

    `parameters` are those of the peer's `a=fmtp` line. `redundancy` is the payload type of RED (RFC 2198), or None.
    """

    name: str
    payload_type: int
    clock_rate: int
    channels: int = 1
    parameters: dict[str, str] = {}
    redundancy: int | None = None


class HeaderExtension(msgspec.Struct, frozen=True):
    """A negotiated RTP header extension (RFC 8285). `CallRequest` carries it."""

    id: int
    uri: str


class IceParameters(msgspec.Struct, frozen=True):
    """One side's ICE credentials (RFC 8839 §5.4). The password is never part of a check."""

    ufrag: str
    password: str


class SctpParameters(msgspec.Struct, frozen=True):
    """One side's SCTP parameters (RFC 8841): its `a=sctp-port`, and the largest message that it accepts, in bytes.

    A `max_message_size` of 0 means no limit.
    """

    port: int
    max_message_size: int


class EventPolicy(msgspec.Struct, frozen=True):
    """What the caller may send over its data channel. Sidebands may send everything.

    `allowed_events` are types of client events; None allows all. `locked_fields` are fields of the session object that
    no `session.update` of the caller may contain.
    """

    allowed_events: tuple[str, ...] | None = None
    locked_fields: tuple[str, ...] = ()


class CallRequest(msgspec.Struct, frozen=True):
    """A negotiated offer, with which signaling asks a transceiver for a call.

    `setup` is the offered DTLS role (RFC 5763 §5). `direction` is the caller's. `feedback` has values of `a=rtcp-fb`.
    With `reduced_size_rtcp`, feedback may be sent without a report (RFC 5506). `sctp` is None without data channels.
    `session` is the session object of the Realtime API; its `model` names the backend. `data_channel` is the id of a
    channel that the client negotiated itself (RFC 8832 §4), on which no DCEP message opens it; None without.
    """

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
    data_channel: int | None = None
    policy: EventPolicy = EventPolicy()


class CallAccepted(msgspec.Struct, frozen=True):
    """The transceiver's parameters for the answer. `sctp` is None without data channels."""

    ice: IceParameters
    setup: Literal["active", "passive"]
    fingerprint: Fingerprint
    ssrc: int
    cname: str
    sctp: SctpParameters | None = None


ANY_GENERATION = "*"
"""The generation of an update that applies to any current ufrag."""


class IceUpdate(msgspec.Struct, frozen=True):
    """A change of a running call's ICE. With credentials it restarts ICE (RFC 8445 §9).

    Without, the client has trickled candidates, which a lite agent ignores. `generation` is our ufrag as the client has
    it, or "*".
    """

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
    """The load of a transceiver: running calls, and their maximum. While it is `draining` it accepts no calls."""

    calls: int
    capacity: int
    draining: bool = False


class PreviousOwner(msgspec.Struct, frozen=True):
    """The previous owner of calls that a transceiver claims: its cluster, and its numeric link address."""

    cluster: int
    host: str
    port: int


class Failure(msgspec.Struct, frozen=True):
    """The reason of a refused request. `code` is one word for programs, `message` a sentence for people."""

    code: str
    message: str


def decode(body: bytes, kind: type[T]) -> T:
    """Read a message of the class `kind`.

    Raises:
        DecodeError: the bytes are no such message.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None


def authorization(keys: DerivedKeys, unix_now: float) -> str:
    """Return the `Authorization` header of a request: the control key in base64url as Bearer token (RFC 6750)."""
    return _bearer(keys.minting(unix_now)[1])


def is_authorized(keys: DerivedKeys, header: str, unix_now: float) -> bool:
    """Return True if an `Authorization` header has a control key that is accepted now. Takes constant time."""
    accepted = (keys.accepting(key_id, unix_now) for key_id in range(MAX_KEY_ID + 1))
    given = header.encode()
    return any([hmac.compare_digest(_bearer(key).encode(), given) for key in accepted if key is not None])  # noqa: C419


def _bearer(key: bytes) -> str:
    return "Bearer " + base64.urlsafe_b64encode(key).decode("ascii")
