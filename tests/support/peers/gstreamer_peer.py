"""A caller made of GStreamer's webrtcbin: `gstreamer_peer.py URL SECONDS LENGTH...`, run by Debian's Python.

Its certificate is RSA-2048. It sends a tone and counts the audio packets that come back. It sends an event of each
LENGTH in bytes over the data channel, which must come back unchanged. It prints one line of JSON.
"""

import json
import sys
import time
import urllib.request
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # type: ignore[import-not-found]  # noqa: E402

PIPELINE = """
webrtcbin name=peer bundle-policy=max-bundle
audiotestsrc is-live=true wave=sine freq=440 ! audio/x-raw,rate=48000,channels=1 ! opusenc ! rtpopuspay pt=96 !
application/x-rtp,media=audio,encoding-name=OPUS,payload=96 ! peer.
"""
CONNECT_SECONDS = 15


def event(length: int) -> str:
    """Return a JSON object of `length` bytes."""
    empty = '{"type":"test","text":""}'
    return empty[:-2] + "x" * (length - len(empty)) + empty[-2:]


class GStreamerCaller:
    """One call of GStreamer. `run` makes it and prints its result."""

    def __init__(self, url: str, seconds: float, lengths: list[int]) -> None:
        self.loop = GLib.MainLoop()
        self.result: dict[str, Any] = {"received": 0, "sizes": [], "state": "new", "error": ""}
        self._url = url
        self._seconds = seconds
        self._texts = [event(length) for length in lengths]
        self._pipeline = Gst.parse_launch(PIPELINE)
        self._peer = self._pipeline.get_by_name("peer")
        self._peer.connect("pad-added", self._listen)
        self._peer.connect("on-negotiation-needed", self._offer)
        self._peer.connect("notify::connection-state", self._follow)
        self._channel: Any = None
        self._began = 0.0

    def run(self) -> None:
        self._pipeline.set_state(Gst.State.READY)
        self._channel = self._peer.emit("create-data-channel", "oai-events", None)
        self._channel.connect("on-open", self._channel_opened)
        self._channel.connect("on-message-string", self._message_received)
        self._pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(CONNECT_SECONDS, self._give_up)
        self.loop.run()
        self._pipeline.set_state(Gst.State.NULL)
        print(json.dumps(self.result), flush=True)

    def _offer(self, peer: Any) -> None:
        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered, None))

    def _offered(self, promise: Any, _: Any) -> None:
        reply = promise.get_reply()  # the offer lives as long as it does
        offer = reply.get_value("offer")
        self._peer.emit("set-local-description", offer, None)
        request = urllib.request.Request(
            f"{self._url}/v1/realtime/calls",
            offer.sdp.as_text().encode(),
            {"Content-Type": "application/sdp"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            self._end(f"HTTP {error.code}: {error.read().decode()}")
            return
        _, sdp = GstSdp.SDPMessage.new()
        GstSdp.sdp_message_parse_buffer(text, sdp)
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp)
        self._peer.emit("set-remote-description", answer, None)

    def _follow(self, peer: Any, _: Any) -> None:
        self.result["state"] = peer.get_property("connection-state").value_nick
        if self.result["state"] == "connected":
            GLib.timeout_add(int(self._seconds * 1000), self._end, "")

    def _listen(self, peer: Any, pad: Any) -> None:
        sink = Gst.ElementFactory.make("fakesink", None)
        sink.set_property("sync", False)
        self._pipeline.add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))
        pad.add_probe(Gst.PadProbeType.BUFFER, self._count)

    def _count(self, pad: Any, info: Any) -> Any:
        self.result["received"] += 1
        return Gst.PadProbeReturn.OK

    def _channel_opened(self, channel: Any) -> None:
        self._began = time.monotonic()
        for text in self._texts:
            channel.emit("send-string", text)

    def _message_received(self, channel: Any, text: str) -> None:
        sizes = self.result["sizes"]
        if text != self._texts[len(sizes)]:
            self._end(f"event {len(sizes)} came back as {len(text)} other bytes")
        sizes.append(len(text))
        self.result["exchange"] = time.monotonic() - self._began

    def _give_up(self) -> bool:
        if self.result["state"] != "connected":
            self._end(f"not connected after {CONNECT_SECONDS} s")
        return False

    def _end(self, error: str) -> bool:
        self.result["error"] = error
        self.loop.quit()
        return False


if __name__ == "__main__":
    Gst.init(None)
    GStreamerCaller(sys.argv[1], float(sys.argv[2]), list(map(int, sys.argv[3:]))).run()
