"""The frames between a transceiver and an inference backend: docs/reference/backend-protocol.md is their specification.

One WebSocket message is a msgpack array of frames; a frame is an array whose first element is its tag. Fields are only
ever appended. `call` is a u32 that the transceiver chooses, unique on its connection.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated, Any

import msgspec

from antiphon_common.errors import DecodeError

VERSION = 1

MAX_MESSAGE_SIZE = 1 << 20
"""Bytes of the longest WebSocket message; a longer one closes the connection with 1009."""

CREDIT_MS = 4000
"""Audio a backend may be ahead of the caller's ear: its first credit, and the most that is ever kept for playing."""

MAX_EVENT_SIZE = 1 << 18
"""Bytes of the longest frame with an event: what a data channel's message may have. One caller's events must not make a
message that closes the connection for all."""

MAX_AUDIO_MS = 1000
"""The longest stretch of audio in one frame, so that a frame never holds more than a part of the credit."""

Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Uint63 = Annotated[int, msgspec.Meta(ge=0)]


class Origin(IntEnum):
    """How a stretch of the caller's audio came to be."""

    RECEIVED = 0
    RECOVERED = 1
    CONCEALED = 2


class Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Any frame."""


class Hello(Frame, frozen=True, tag=1):
    """The first frame of either side. `slots` and `formats` are the backend's: calls it takes at once over all its
    connections, and the audio it takes, best first (`pcm16/16000`, `pcm16/24000`, `pcm16/48000`, `opus`)."""

    version: Uint32
    slots: Uint32 = 0
    formats: tuple[str, ...] = ()


class Started(Frame, frozen=True, tag=2):
    """A call begins. `format` is what its audio is in, both ways. `resumed_ms` is above zero when the call comes from
    another connection: where in the caller's audio it goes on, in milliseconds since the call began."""

    call: Uint32
    call_id: str
    tenant: str
    format: str
    session: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    resumed_ms: Uint32 = 0


class Accepted(Frame, frozen=True, tag=3):
    """The backend takes the call."""

    call: Uint32


class Refused(Frame, frozen=True, tag=4):
    """The backend does not take the call; nothing more is said of it."""

    call: Uint32
    code: str
    message: str = ""


class Ended(Frame, frozen=True, tag=5):
    """The call is over; the last frame about it from the side that sends it."""

    call: Uint32
    reason: str = ""


class Audio(Frame, frozen=True, tag=6):
    """20 ms of audio, or what one Opus packet holds. To the backend `position` is the index of its first sample since
    the call began, and `origin` says how it came to be. From the backend `response` names the response it belongs to.
    PCM is 16-bit little-endian mono."""

    call: Uint32
    data: bytes
    position: Uint63 = 0
    origin: Uint32 = Origin.RECEIVED
    response: Uint32 = 0


class Credit(Frame, frozen=True, tag=7):
    """The backend may send this many more milliseconds of audio for the call."""

    call: Uint32
    milliseconds: Uint32


class Clear(Frame, frozen=True, tag=8):
    """Drop what has not been played yet of a response and of those before it; answered by `Interrupted`. Response 0 is
    all that was said on the connections before this one."""

    call: Uint32
    response: Uint32


class Interrupted(Frame, frozen=True, tag=9):
    """Playing of a response was cut off after `heard_ms` milliseconds of it had been sent to the caller."""

    call: Uint32
    response: Uint32
    heard_ms: Uint32


class ResponseStarted(Frame, frozen=True, tag=10):
    """Audio of a new response follows. `response` is above 0 and grows within a call."""

    call: Uint32
    response: Uint32


class ResponseEnded(Frame, frozen=True, tag=11):
    """All audio of a response has been sent."""

    call: Uint32
    response: Uint32


class HangUp(Frame, frozen=True, tag=12):
    """The backend ends the call once what it sent has been played."""

    call: Uint32
    reason: str = ""


class Drain(Frame, frozen=True, tag=13):
    """The backend takes no new calls on this connection."""


class Ping(Frame, frozen=True, tag=14):
    """Answered at once by a `Pong` with the same number."""

    number: Uint32


class Pong(Frame, frozen=True, tag=15):
    """The answer to the `Ping` of that number."""

    number: Uint32


class ClientEvent(Frame, frozen=True, tag=16):
    """An event of the Realtime API from the caller's data channel: a JSON object, as a msgpack map."""

    call: Uint32
    event: dict[str, Any]


class ServerEvent(Frame, frozen=True, tag=17):
    """An event of the Realtime API for the caller's data channel: a JSON object, as a msgpack map."""

    call: Uint32
    event: dict[str, Any]


RESERVED_TAGS = {
    18: "speech started",
    19: "speech stopped",
    20: "turn predicted",
    21: "turn resumed",
    22: "turn committed",
    23: "transcript",
}
"""Tags that later versions give a meaning; until then they are skipped like any unknown tag."""

AnyFrame = (
    Hello
    | Started
    | Accepted
    | Refused
    | Ended
    | Audio
    | Credit
    | Clear
    | Interrupted
    | ResponseStarted
    | ResponseEnded
    | HangUp
    | Drain
    | Ping
    | Pong
    | ClientEvent
    | ServerEvent
)


AnyCallFrame = (
    Started
    | Accepted
    | Refused
    | Ended
    | Audio
    | Credit
    | Clear
    | Interrupted
    | ResponseStarted
    | ResponseEnded
    | HangUp
    | ClientEvent
    | ServerEvent
)
"""The frames that are about one call."""


class BadFrame(msgspec.Struct, frozen=True):
    """A frame with a known tag that does not decode, or is too long. `call` is the call it was about, None where that
    is unreadable."""

    call: int | None
    detail: str


class _Head(msgspec.Struct, array_like=True, gc=False):
    tag: int
    call: Any = None


_CALL_TAGS = frozenset((*range(2, 13), 16, 17))
_CONNECTION_TAGS = frozenset((1, 13, 14, 15))
_EVENTS = (ClientEvent, ServerEvent)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises over bad bytes: besides its own error those of text and of nesting."""


def _refuse_extension(code: int, data: memoryview) -> None:
    raise msgspec.ValidationError(f"an extension of msgpack, number {code}")


_encoder = msgspec.msgpack.Encoder()
_batch = msgspec.msgpack.Decoder(list[msgspec.Raw])
_frame: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame, ext_hook=_refuse_extension)
_head = msgspec.msgpack.Decoder(_Head)


def encode(frames: Iterable[Frame | msgspec.Raw]) -> bytes:
    """Return one WebSocket message that carries `frames` in order; a frame may have been encoded before."""
    return _encoder.encode(list(frames))


def encode_frame(frame: Frame) -> msgspec.Raw:
    """Encode one frame by itself, to learn its size or that it cannot be encoded. Raises ValueError."""
    try:
        return msgspec.Raw(_encoder.encode(frame))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot be encoded: {error}") from None


def decode(message: bytes) -> Iterator[AnyFrame | BadFrame | None]:
    """Yield what one WebSocket message carries: a frame, a `BadFrame`, or None for an unknown tag.

    Raises DecodeError when the message as a whole is no array of frames.
    """
    try:
        batch = _batch.decode(message)
    except _MALFORMED as error:
        raise DecodeError(f"not an array of frames: {error}") from None
    return map(_decode_frame, batch)


def _decode_frame(raw: msgspec.Raw) -> AnyFrame | BadFrame | None:
    try:
        frame = _frame.decode(raw)
    except _MALFORMED as error:
        return _explain(raw, str(error))
    if isinstance(frame, _EVENTS) and len(memoryview(raw)) > MAX_EVENT_SIZE:
        return BadFrame(frame.call, f"an event of {len(memoryview(raw))} bytes, {MAX_EVENT_SIZE} is the most")
    return frame


def _explain(raw: msgspec.Raw, detail: str) -> BadFrame | None:
    try:
        head = _head.decode(raw)
    except _MALFORMED:
        return BadFrame(None, detail)
    if head.tag in _CALL_TAGS:
        return BadFrame(head.call if type(head.call) is int else None, detail)
    return BadFrame(None, detail) if head.tag in _CONNECTION_TAGS else None
