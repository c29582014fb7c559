"""Every target and state of the search, with its bound."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cost import (
    backend_states,
    call_states,
    decoder_states,
    dtls_states,
    http_states,
    media_states,
    redis_states,
    sctp_states,
    transport_states,
)
from cost.bounds import BOUNDS, Bound
from cost.search import Ready


class State(NamedTuple):
    """A core in a state, or a decoder. `prepare` constructs it."""

    target: str
    name: str
    bound: Bound
    prepare: Callable[[], Ready]

    @property
    def slug(self) -> str:
        """A name for files."""
        return f"{self.target}/{self.name}".replace(",", "").replace(" ", "-").replace("/", ".")


KINDS = {
    "audio": "decoder of audio",
    "rtcp": "decoder of RTCP",
    "frames": "backend",
    **dict.fromkeys(("sdp", "answer"), "description"),
    **dict.fromkeys(("session_object", "control", "event"), "object"),
}
"""Of decoders, those with a bound of their own."""


def _states() -> Iterator[State]:
    for name, prepare in decoder_states.STATES.items():
        yield State("decoder", name, BOUNDS[KINDS.get(name, "decoder")], prepare)
    for target, states in (
        ("ice", transport_states.ICE_STATES),
        ("dtls", dtls_states.STATES),
        ("sctp", sctp_states.STATES),
        ("rtcp", media_states.RTCP_STATES),
        ("rtp", media_states.RTP_STATES),
        ("call", call_states.STATES),
        ("relay", transport_states.RELAY_STATES | redis_states.CACHE_STATES),
        ("registry", redis_states.REGISTRY_STATES),
        ("transceiver", transport_states.STATES),
        ("backend", backend_states.STATES),
        ("http", http_states.HTTP_STATES),
        ("websocket", http_states.WEBSOCKET_STATES),
    ):
        for name, prepare in states.items():
            bound = BOUNDS.get(f"{target}, {name}") or BOUNDS[target]
            yield State(target, name, bound, prepare)


STATES = tuple(_states())
