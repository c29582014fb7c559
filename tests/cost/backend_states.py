"""Connections between transceivers and backends, with messages of either side as inputs."""

from collections.abc import Callable

import msgspec

from antiphon_backend.core import CallOffered, Slots, TransceiverConnection
from antiphon_common import frames
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.json_objects import EMPTY
from antiphon_transceiver.backends.call import BackendCounters
from antiphon_transceiver.backends.connection import BackendConnection
from cost import work
from cost.decoder_states import batches
from cost.drive import drain, take_all
from cost.grammars import Whole
from cost.search import Ready

LONGEST = 1 << 20
CALLS = 200


def _greeted() -> BackendConnection:
    link = BackendConnection(BackendCounters(), 0.0)
    link.receive_message(frames.encode([frames.BackendHello(frames.VERSION, CALLS, ("opus",))]), 0.0)
    return link


def _link() -> BackendConnection:
    link = _greeted()
    audio_format = link.choose_format("opus")
    assert audio_format is not None
    for number in range(CALLS):
        link.open(audio_format, f"call{number}", "tenant", {}, {}, 0.0)
    take_all(link.poll_transmit)
    return link


def greeted() -> Ready:
    return _ready(_greeted(), [])


def calls_offered() -> Ready:
    return _ready(_link(), [frames.encode([frames.Accepted(number) for number in range(1, CALLS + 1)])])


def calls_accepted() -> Ready:
    link = _link()
    link.receive_message(frames.encode([frames.Accepted(number) for number in range(1, CALLS + 1)]), 0.0)
    take_all(link.poll_event)
    responses = frames.encode([frames.ResponseStarted(number, 1) for number in range(1, CALLS + 1)])
    event = frames.encode(
        [
            frames.ServerEvent(number, msgspec.Raw(msgspec.msgpack.encode({"type": "a"})))
            for number in range(1, CALLS + 1)
        ]
    )
    clears = frames.encode([frames.Clear(1, 1)] * 50_000)
    audio = frames.encode([frames.Audio(1, b"\xf8x", response=1)] * 50_000)
    started = frames.encode([frames.ResponseStarted(1, number) for number in range(1, 50_000)])
    return _ready(link, [responses, event, clears, audio, started])


def _ready(link: BackendConnection, seeds: list[bytes]) -> Ready:
    def receive(data: bytes) -> None:
        for _ in link.receive_in_steps(data, 1.0):
            take_all(link.poll_event)
            work.step()
        take_all(link.poll_transmit)

    return Ready(receive, [*seeds, *batches(LONGEST - 100)], Whole(), LONGEST, memory=True)


def backend_of_calls() -> Ready:
    """The backend's end, with messages of a transceiver."""
    session = TransceiverConnection(Slots(CALLS), ("opus",), ConnectionCounters(), 0.0)
    session.receive_message(frames.encode([frames.BackendHello(frames.VERSION, 4, ("opus",))]), 0.0)
    offered = [frames.Started(number, f"call{number}", "tenant", "opus", EMPTY, EMPTY, 0) for number in range(1, CALLS)]
    session.receive_message(frames.encode(offered), 0.0)

    def answer() -> None:
        while (event := session.poll_event()) is not None:
            if isinstance(event, CallOffered):
                event.call.accept()

    answer()

    def receive(data: bytes) -> None:
        for _ in session.receive_in_steps(data, 1.0):
            answer()
            work.step()
        drain(session, 1.0)

    audio = frames.encode([frames.Audio(1, b"\xf8x", number) for number in range(30_000)])
    return Ready(receive, [audio, *batches(LONGEST - 100)], Whole(), LONGEST, memory=True)


STATES: dict[str, Callable[[], Ready]] = {
    "link, greeted": greeted,
    "link, calls offered": calls_offered,
    "link, calls accepted": calls_accepted,
    "backend, calls": backend_of_calls,
}
