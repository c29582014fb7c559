"""The frames between a transceiver and an inference backend, as docs/reference/backend-protocol.md specifies them.

A WebSocket message is a msgpack array of frames. A frame is an array whose first element is its tag. New versions only
append fields. `call` is a u32 that the transceiver chooses; it is unique on its connection.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated

import msgspec

from antiphon_common import json_objects
from antiphon_common.errors import DecodeError

VERSION = 1

MAX_MESSAGE_SIZE = 1 << 20
"""Bytes of the longest WebSocket message. A longer one closes the connection with 1009."""

CREDIT_MS = 4000
"""The first credit of a backend, in milliseconds: the most audio that it may send ahead of playout."""

MAX_EVENT_SIZE = 1 << 18
"""Bytes of the longest frame with an event, as for a message of a data channel. No event of one caller can make a
message so long that it closes the connection for all calls."""

MAX_STARTED_SIZE = 1 << 18
"""Bytes of the longest `Started` frame. No session of one caller can make a message so long that it closes the
connection for all calls."""

MAX_CONTROL_SIZE = 1 << 14
"""Bytes of the longest frame without audio, event and session. Two texts of 1,000 characters fit."""

MAX_FRAMES = 4096
"""Largest number of frames in a message. A message of 64 KiB, as senders make them, has at most 2,730 frames of audio,
24 bytes each."""

MAX_STEP_ELEMENTS = 2048
"""Elements that are skipped in one step, in a message that is nested too deeply for msgspec: about 0.3 ms."""

MAX_AUDIO_MS = 1000
"""Longest audio of a frame in milliseconds, so that one frame never takes all of the credit."""

Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Uint63 = Annotated[int, msgspec.Meta(ge=0)]


EVERYONE = 2**32 - 1
"""The recipient of an event that goes to all participants of a call."""

MAX_TRANSCRIPT = 8192
"""Bytes of a transcript in UTF-8: several minutes of speech."""


class FrameStatus(IntEnum):
    """How a frame of the caller's audio was obtained. `Audio` frames to the backend carry it.

    RECOVERED is from redundancy (RED or in-band FEC). CONCEALED replaces a lost packet.
    """

    RECEIVED = 0
    RECOVERED = 1
    CONCEALED = 2


class Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The base class of all frames. `encode` encodes its subclasses."""


class BackendHello(Frame, frozen=True, tag=1):
    """The first frame of a connection. Both sides send it at once. A backend sends it again when its values change.

    `slots` is the number of calls that the backend takes at once, over all its connections. `formats` are the audio
    formats that it accepts, best first: `pcm16/16000`, `pcm16/24000`, `pcm16/48000`, `opus`.
    """

    version: Uint32
    slots: Uint32 = 0
    formats: tuple[str, ...] = ()


class Started(Frame, frozen=True, tag=2):
    """The start of a call. The transceiver sends it, and the backend answers with `Accepted` or `Refused`.

    `format` is that of the audio in both directions. `resumed_ms` is 0, unless the call was on another connection
    before. Then it is the position at which the caller's audio continues, in milliseconds since the call began.
    `transport` is `webrtc`, or `websocket` for a session whose audio travels in events.
    """

    call: Uint32
    call_id: str
    tenant: str
    format: str
    session: msgspec.Raw = json_objects.EMPTY
    metadata: msgspec.Raw = json_objects.EMPTY
    resumed_ms: Uint32 = 0
    transport: str = "webrtc"


class Accepted(Frame, frozen=True, tag=3):
    """The acceptance of a call. The backend sends it in answer to `Started`; audio and the first `Credit` follow."""

    call: Uint32


class Refused(Frame, frozen=True, tag=4):
    """The refusal of a call. The backend sends it in answer to `Started`, as its last frame about the call.

    `code` is one word for programs, such as `full` or `draining`; `message` is a sentence for people.
    """

    call: Uint32
    code: str
    message: str = ""


class Ended(Frame, frozen=True, tag=5):
    """The end of a call. Either side sends it at any time, as its last frame about the call. It is not answered.

    Audio that was not played is dropped. `reason` is one word for programs.
    """

    call: Uint32
    reason: str = ""


class Audio(Frame, frozen=True, tag=6):
    """Audio of a call. Both sides send it: the transceiver one frame for each packet, the backend within its credit.

    PCM is 16-bit little-endian mono; in Opus a frame is one packet. To the backend, `position` is the index of the
    first sample since the call began, and `status` a `FrameStatus`. From the backend, `response` is the response to
    which the audio belongs.
    """

    call: Uint32
    data: bytes
    position: Uint63 = 0
    status: Uint32 = FrameStatus.RECEIVED
    response: Uint32 = 0


class Credit(Frame, frozen=True, tag=7):
    """Credit for the backend's audio, in milliseconds. The transceiver sends it after `Accepted`, and as audio is
    played or dropped.

    The backend may send as much audio as the sum of all credit.
    """

    call: Uint32
    milliseconds: Uint32


class Clear(Frame, frozen=True, tag=8):
    """A request to drop the unplayed audio of a response and of those before it. The backend sends it.

    The transceiver answers with `Interrupted`. Response 0 is all audio from connections before this one.
    """

    call: Uint32
    response: Uint32


class Interrupted(Frame, frozen=True, tag=9):
    """The end of a response that was not played to its end: `heard_ms` milliseconds of it were sent to the caller.

    The transceiver sends it in answer to `Clear`, with `turn` 0, or when that turn interrupts. `at_ms` is the position
    on the call's timeline.
    """

    call: Uint32
    response: Uint32
    heard_ms: Uint32
    turn: Uint32 = 0
    at_ms: Uint32 = 0


class ResponseStarted(Frame, frozen=True, tag=10):
    """The start of a response. The backend sends it before the response's audio.

    `response` is above 0, and above that of any response before it in the call.
    """

    call: Uint32
    response: Uint32


class ResponseEnded(Frame, frozen=True, tag=11):
    """The end of a response's audio. The backend sends it after the last `Audio` of the response."""

    call: Uint32
    response: Uint32


class HangUp(Frame, frozen=True, tag=12):
    """A request to end the call when all audio has been played. The backend sends it.

    The transceiver answers with `Ended` then.
    """

    call: Uint32
    reason: str = ""


class BackendDrain(Frame, frozen=True, tag=13):
    """The announcement that this connection takes no new calls. A backend that is about to stop sends it."""


class Ping(Frame, frozen=True, tag=14):
    """A heartbeat. Both sides send it every second, and answer it at once by a `Pong` with the same number."""

    number: Uint32


class Pong(Frame, frozen=True, tag=15):
    """The answer to a `Ping`. Either side sends it at once, with the number of the `Ping`."""

    number: Uint32


class ClientEvent(Frame, frozen=True, tag=16):
    """An event of the Realtime API from a participant: a JSON object as a msgpack map, still encoded. `source` is 0 for
    the caller, and above for a sideband."""

    call: Uint32
    event: msgspec.Raw
    source: Uint32 = 0


class ServerEvent(Frame, frozen=True, tag=17):
    """An event of the Realtime API for participants: a JSON object, as a msgpack map, still encoded. `recipient` is 0
    for the caller, above for a sideband, or `EVERYONE`."""

    call: Uint32
    event: msgspec.Raw
    recipient: Uint32 = EVERYONE


class SpeechStarted(Frame, frozen=True, tag=18):
    """The caller began to speak. `start_ms` is where the turn's audio begins on the timeline, prefix padding included.
    `response` is the one that was audible then, or 0."""

    call: Uint32
    turn: Uint32
    start_ms: Uint32
    response: Uint32 = 0


class SpeechStopped(Frame, frozen=True, tag=19):
    """The caller has been silent for as long as the settings want. `end_ms` is where that silence was complete."""

    call: Uint32
    turn: Uint32
    end_ms: Uint32


class TurnCommitted(Frame, frozen=True, tag=22):
    """A turn is complete: the caller's audio from `start_ms` to `end_ms` is the backend's to answer."""

    call: Uint32
    turn: Uint32
    start_ms: Uint32
    end_ms: Uint32


class Transcript(Frame, frozen=True, tag=23):
    """The words of a turn as far as the backend recognised them. `final` ends the turn's transcript."""

    call: Uint32
    turn: Uint32
    text: str
    final: bool = True


class IdleTimeout(Frame, frozen=True, tag=24):
    """The caller said nothing for `idle_timeout_ms` after the end of playback, which was at `start_ms`."""

    call: Uint32
    start_ms: Uint32
    end_ms: Uint32


class Playing(Frame, frozen=True, tag=25):
    """The first audio of a response left for the caller at `at_ms` on the timeline."""

    call: Uint32
    response: Uint32
    at_ms: Uint32


class Played(Frame, frozen=True, tag=26):
    """All audio of a response has left for the caller, the last of it at `at_ms` on the timeline."""

    call: Uint32
    response: Uint32
    at_ms: Uint32


class Configure(Frame, frozen=True, tag=27):
    """How the transceiver detects turns from now on, with the names and units of the Realtime API. `mode` is `none`,
    `server_vad`, `semantic_vad` or `full_duplex`, which reports speech and stops nothing; `idle_timeout_ms` 0 is
    never. Until the first of these frames, `mode` is `none`."""

    call: Uint32
    mode: str
    threshold: float = 0.5
    prefix_padding_ms: Uint32 = 300
    silence_duration_ms: Uint32 = 500
    interrupt_response: bool = True
    idle_timeout_ms: Uint32 = 0
    eagerness: str = "auto"


class SidebandAttached(Frame, frozen=True, tag=28):
    """Another participant exchanges events from now on. `source` is above 0 and never used again within the call."""

    call: Uint32
    source: Uint32


class SidebandDetached(Frame, frozen=True, tag=29):
    """A sideband left."""

    call: Uint32
    source: Uint32


RESERVED_TAGS = {20: "turn predicted", 21: "turn resumed"}
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
    | SpeechStarted
    | SpeechStopped
    | TurnCommitted
    | Transcript
    | IdleTimeout
    | Playing
    | Played
    | Configure
    | SidebandAttached
    | SidebandDetached
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
    | SpeechStarted
    | SpeechStopped
    | TurnCommitted
    | Transcript
    | IdleTimeout
    | Playing
    | Played
    | Configure
    | SidebandAttached
    | SidebandDetached
)
"""The frames that are about one call."""


class BadFrame(msgspec.Struct, frozen=True):
    """A frame with a known tag that is malformed or too long. `decode` returns it in place of the frame.

    `call` is the frame's call, or None if it has none or cannot be read.
    """

    call: int | None
    detail: str


class TooManyFrames(DecodeError):
    """A message has more than `MAX_FRAMES` frames. `split` and `decode` raise it."""


_CALL_TAGS = frozenset((*range(2, 13), *range(16, 20), *range(22, 30)))
_CONNECTION_TAGS = frozenset((1, 13, 14, 15))
_MAX_SIZE = {Started: MAX_STARTED_SIZE, ClientEvent: MAX_EVENT_SIZE, ServerEvent: MAX_EVENT_SIZE}

_encoder = msgspec.msgpack.Encoder()
_batch = msgspec.msgpack.Decoder(list[msgspec.Raw])
_frame: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)
_metadata = msgspec.msgpack.Decoder(dict[str, str])


def encode(frames: Iterable[Frame | msgspec.Raw]) -> bytes:
    """Return a WebSocket message of `frames`, in order. A frame may be encoded already."""
    return _encoder.encode(list(frames))


def encode_frame(frame: Frame) -> msgspec.Raw:
    """Encode one frame, for example to measure it. Raises ValueError when it cannot be encoded."""
    try:
        return msgspec.Raw(_encoder.encode(frame))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot be encoded: {error}") from None


def decode(message: bytes) -> Iterator[AnyFrame | BadFrame | None]:
    """Yield a frame for each frame of a WebSocket message: a `BadFrame` if it is malformed, None for an unknown tag.

    Raises DecodeError when the message is no array of frames.
    """
    return iter([decode_frame(raw) for raw in split(message) if raw is not None])


def split(message: bytes) -> Iterable[msgspec.Raw | None]:
    """Return the frames of a message without decoding them.

    A None marks the end of a step through a frame that is nested too deeply. Other tasks may run then.

    Raises:
        TooManyFrames: there are more than `MAX_FRAMES`; nothing was built for them.
        DecodeError: the message is no array of frames. The iteration may raise it too.
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
    """Return one frame of a message, a `BadFrame` if it is malformed, or None for an unknown tag."""
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
    """Yield the frames of a message that msgspec cannot split, since one of them is nested too deeply."""
    view = memoryview(message)
    for _ in range(count):
        end = yield from json_objects.walk(view, MAX_STEP_ELEMENTS, start)
        yield msgspec.Raw(message[start:end])
        start = end
    if start != len(message):
        raise DecodeError("bytes behind an array of frames")


def _explain(raw: msgspec.Raw, detail: str) -> BadFrame | None:
    """Return the `BadFrame` of a frame that cannot be decoded, or None for an unknown tag."""
    tag, call = _head(bytes(memoryview(raw)[:_HEAD_BYTES]))
    if tag in _CALL_TAGS:
        return BadFrame(call, detail)
    return BadFrame(None, detail) if tag is None or tag in _CONNECTION_TAGS else None


_HEAD_BYTES = 5 + 9 + 9
"""Size of an array's header and two integers, each in its longest encoding."""


def _head(data: bytes) -> tuple[int | None, int | None]:
    """Return the first two elements of an array, the tag and the call; None for one that is no integer."""
    if 0x91 <= data[0] < 0xA0:
        position = 1
    elif data[0] in (0xDC, 0xDD):
        position = 3 if data[0] == 0xDC else 5
    else:
        return None, None
    tag, position = _integer(data, position)
    return tag, None if tag is None else _integer(data, position)[0]


def _integer(data: bytes, position: int) -> tuple[int | None, int]:
    """Return the integer at a position, or None for anything else, and where the next element begins."""
    first = data[position] if position < len(data) else 0xC1
    if first < 0x80:
        return first, position + 1
    if 0xCC <= first <= 0xD3:
        end = position + 1 + (1 << (first & 3))
        return int.from_bytes(data[position + 1 : end], "big", signed=first >= 0xD0), end
    return (first - 256, position + 1) if first >= 0xE0 else (None, position)
