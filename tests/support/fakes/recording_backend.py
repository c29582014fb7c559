"""A backend's half of a call that records what the call sends."""

from collections.abc import Mapping
from typing import Any

import msgspec

from antiphon_common.frames import FrameStatus
from antiphon_common.json_objects import unpack
from antiphon_transceiver.audio import UplinkFrame


class RecordingBackend:
    """A substitute for a `BackendCall` with the format `opus`. Tests read what it has recorded."""

    format = "opus"

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.audio: list[UplinkFrame] = []
        self.events: list[dict[str, Any]] = []
        self.errors: list[Mapping[str, Any]] = []
        """Error events about what it sent itself."""
        self.granted_ms = 0
        self.ended: str | None = None

    def send_audio(self, data: bytes, position: int, status: FrameStatus) -> None:
        self.audio.append(UplinkFrame(data, position, status))

    def send_event(self, event: msgspec.Raw | Mapping[str, Any]) -> None:
        if isinstance(event, msgspec.Raw):
            self.events.append(unpack(event))
        else:
            self.errors.append(event)

    def grant(self, milliseconds: int) -> None:
        self.granted_ms += milliseconds

    def interrupted(self, response: int, played_ms: int) -> None:
        pass

    def end(self, reason: str) -> None:
        self.ended = reason
