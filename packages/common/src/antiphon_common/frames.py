"""The frames between a transceiver and an inference backend: docs/reference/backend-protocol.md is their specification.

One WebSocket message is a msgpack array of frames; a frame is an array whose first element is its tag. Fields are only
ever appended. `call` is a u32 that the transceiver chooses, unique on its connection.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated

import msgspec

from antiphon_common import json_objects
from antiphon_common.errors import DecodeError

VERSION = 1

MAX_MESSAGE_SIZE = 1 << 20
"""Bytes of the longest WebSocket message; a longer one closes the connection with 1009."""

CREDIT_MS = 4000
"""Audio a backend may be ahead of the caller's ear: its first credit, and the most that is ever kept for playing."""

MAX_EVENT_SIZE = 1 << 18
"""Bytes of the longest frame with an event: what a data channel's message may have. One caller's events must not make a
message that closes the connection for all."""

MAX_STARTED_SIZE = 1 << 18
"""Bytes of a `Started` frame. One caller's session must not make a message that closes the connection for all."""

MAX_CONTROL_SIZE = 1 << 14
"""Bytes of a frame that has neither audio, nor an event, nor a session: two texts of 1,000 characters fit."""

MAX_FRAMES = 4096
"""Frames of one message. One of 64 KiB, as senders make them, has at most 2,730: a frame of audio takes 24 bytes."""

MAX_STEP_ELEMENTS = 2048
"""Elements of a message that is nested too deeply for msgspec that are passed over in one step: about 0.3 ms."""

MAX_AUDIO_MS = 1000
"""The longest stretch of audio in one frame, so that a frame never holds more than a part of the credit."""

Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Uint63 = Annotated[int, msgspec.Meta(ge=0)]


class FrameStatus(IntEnum):
    """How a stretch of the caller's audio came to be."""

    RECEIVED = 0
    RECOVERED = 1
    CONCEALED = 2


class Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Any frame."""


class BackendHello(Frame, frozen=True, tag=1):
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
    session: msgspec.Raw = json_objects.EMPTY
    metadata: msgspec.Raw = json_objects.EMPTY
    resumed_ms: Uint32 = 0


class Accepted(Frame, frozen=True, tag=3):
    """The backend accepts the call."""

    call: Uint32


class Refused(Frame, frozen=True, tag=4):
    """The backend refuses the call; no other frame about it follows."""

    call: Uint32
    code: str
    message: str = ""


class Ended(Frame, frozen=True, tag=5):
    """The call is over; the last frame about it from the side that sends it."""

    call: Uint32
    reason: str = ""


class Audio(Frame, frozen=True, tag=6):
    """20 ms of audio, or what one Opus packet holds. To the backend `position` is the index of its first sample since
    the call began, and `status` is how it was obtained. From the backend `response` names the response it belongs to.
    PCM is 16-bit little-endian mono."""

    call: Uint32
    data: bytes
    position: Uint63 = 0
    status: Uint32 = FrameStatus.RECEIVED
    response: Uint32 = 0


class Credit(Frame, frozen=True, tag=7):
    """The backend may send this many more milliseconds of audio for the call."""

    call: Uint32
    milliseconds: Uint32


class Clear(Frame, frozen=True, tag=8):
    """Drop what has not been played yet of a response and of those before it; answered by `Interrupted`. Response 0 is
    all audio sent on the connections before this one."""

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


class BackendDrain(Frame, frozen=True, tag=13):
    """The backend takes no new calls on this connection."""


class Ping(Frame, frozen=True, tag=14):
    """Answered at once by a `Pong` with the same number."""

    number: Uint32


class Pong(Frame, frozen=True, tag=15):
    """The answer to the `Ping` of that number."""

    number: Uint32


class ClientEvent(Frame, frozen=True, tag=16):
    """An event of the Realtime API from the caller's data channel: a JSON object, as a msgpack map, still encoded."""

    call: Uint32
    event: msgspec.Raw


class ServerEvent(Frame, frozen=True, tag=17):
    """An event of the Realtime API for the caller's data channel: a JSON object, as a msgpack map, still encoded."""

    call: Uint32
    event: msgspec.Raw


RESERVED_TAGS = {
    18: "speech started",
    19: "speech stopped",
    20: "turn predicted",
    21: "turn resumed",
    22: "turn committed",
    23: "transcript",
}
"""Tags that later versions define; until then they are skipped like any unknown tag."""

AnyFrame = (
    BackendHello
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
    | BackendDrain
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
    """A frame with a defined tag that does not decode, or is too long. `call` is the call it was about, None where that
    is unreadable."""

    call: int | None
    detail: str


class TooManyFrames(DecodeError):
    """A message of more than `MAX_FRAMES` frames."""


_CALL_TAGS = frozenset((*range(2, 13), 16, 17))
_CONNECTION_TAGS = frozenset((1, 13, 14, 15))
_MAX_SIZE = {Started: MAX_STARTED_SIZE, ClientEvent: MAX_EVENT_SIZE, ServerEvent: MAX_EVENT_SIZE}

_encoder = msgspec.msgpack.Encoder()
_batch = msgspec.msgpack.Decoder(list[msgspec.Raw])
_frame: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)
_metadata = msgspec.msgpack.Decoder(dict[str, str])


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
    """Return what one WebSocket message carries: a frame, a `BadFrame`, or None for an unknown tag.

    Raises DecodeError when the message as a whole is no array of frames.
    """
    return iter([decode_frame(raw) for raw in split(message) if raw is not None])


def split(message: bytes) -> Iterable[msgspec.Raw | None]:
    """Return the frames of a message, each still encoded; None marks a pause where much was passed over.

    Raises DecodeError when the message as a whole is no array of frames, `TooManyFrames` before anything is built; the
    former also while its result is iterated over.
    """
    width = {0xDC: 2, 0xDD: 4}.get(message[0], 0) if message else 0
    if width:
        count = int.from_bytes(message[1 : 1 + width], "big")
    elif message and 0x90 <= message[0] < 0xA0:
        count = message[0] & 15
    else:
        raise DecodeError("not an array of frames")
    if count > MAX_FRAMES:
        raise TooManyFrames(f"a message of {count} frames, {MAX_FRAMES} is the most")
    try:
        return _batch.decode(message)
    except RecursionError:
        return _walk(message, 1 + width, count)
    except json_objects.MALFORMED as error:
        raise DecodeError(f"not an array of frames: {error}") from None


def decode_frame(raw: msgspec.Raw) -> AnyFrame | BadFrame | None:
    """Decode one frame of a message: a frame, a `BadFrame`, or None for an unknown tag."""
    try:
        frame = _frame.decode(raw)
    except json_objects.MALFORMED as error:
        return _explain(raw, str(error))
    kind = type(frame)
    if kind is Audio:
        return frame
    size, most = len(memoryview(raw)), _MAX_SIZE.get(kind, MAX_CONTROL_SIZE)
    if size > most:
        return BadFrame(getattr(frame, "call", None), f"a frame of {size} bytes, {most} is the most")
    try:
        _validate_objects(frame)
    except json_objects.MALFORMED as error:
        return _explain(raw, str(error))
    return frame


def _validate_objects(frame: AnyFrame) -> None:
    match frame:
        case ClientEvent() | ServerEvent():
            json_objects.validate(frame.event)
        case Started():
            json_objects.validate(frame.session)
            json_objects.validate(frame.metadata)
            _metadata.decode(frame.metadata)


def _walk(message: bytes, start: int, count: int) -> Iterator[msgspec.Raw | None]:
    """Find the frames of a message that msgspec cannot pass over, since one of them is nested too deeply."""
    view = memoryview(message)
    for _ in range(count):
        end = yield from json_objects.walk(view, MAX_STEP_ELEMENTS, start)
        yield msgspec.Raw(message[start:end])
        start = end
    if start != len(message):
        raise DecodeError("bytes behind an array of frames")


def _explain(raw: msgspec.Raw, detail: str) -> BadFrame | None:
    """Find out what a frame was about that cannot be decoded."""
    tag, call = _head(bytes(memoryview(raw)[:_HEAD_BYTES]))
    if tag in _CALL_TAGS:
        return BadFrame(call, detail)
    return BadFrame(None, detail) if tag is None or tag in _CONNECTION_TAGS else None


_HEAD_BYTES = 5 + 9 + 9
"""An array's header and two integers, each in its longest encoding."""


def _head(data: bytes) -> tuple[int | None, int | None]:
    """Return the first two elements of an array, each None where there is no integer."""
    if 0x91 <= data[0] < 0xA0:
        position = 1
    elif data[0] in (0xDC, 0xDD):
        position = 3 if data[0] == 0xDC else 5
    else:
        return None, None
    tag, position = _integer(data, position)
    return tag, None if tag is None else _integer(data, position)[0]


def _integer(data: bytes, position: int) -> tuple[int | None, int]:
    """Return the integer at a position, None for anything else, and where the next element begins."""
    first = data[position] if position < len(data) else 0xC1
    if first < 0x80:
        return first, position + 1
    if 0xCC <= first <= 0xD3:
        end = position + 1 + (1 << (first & 3))
        return int.from_bytes(data[position + 1 : end], "big", signed=first >= 0xD0), end
    return (first - 256, position + 1) if first >= 0xE0 else (None, position)
