"""The limits of a session that arrives over the control API, against the service itself."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
import trio

from antiphon_common import frames
from antiphon_common.control import CallRequest, Codec, Fingerprint, IceParameters, authorization
from antiphon_common.json_objects import MAX_ELEMENTS, MAX_NESTING, unpack
from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, Backend, SharedSettings, TransceiverSettings
from antiphon_transceiver.shell.service import serve_transceiver
from support.fakes.backend import fake_backend

HELLO = frames.BackendHello(frames.VERSION, 8, ("pcm16/24000",))


def offer(call_id: str, session: dict[str, Any]) -> bytes:
    ice, print_ = IceParameters("abcd", "p" * 22), Fingerprint("sha-256", ":".join(["AB"] * 32))
    return msgspec.json.encode(
        CallRequest(call_id, "acme", ice, "actpass", (print_,), Codec("opus", 111, 48000, 2), session=session)
    )


@asynccontextmanager
async def transceiver(backend: str) -> AsyncIterator[httpx.AsyncClient]:
    anywhere, keys = Address("127.0.0.1", 0), KeyRing.generate(os.urandom)
    settings = TransceiverSettings(link=anywhere, control=anywhere, backend=(Backend("echo", backend),))
    async with trio.open_nursery() as nursery:
        ports = await nursery.start(partial(serve_transceiver, settings, SharedSettings(), keys))
        headers = {"Authorization": authorization(keys.control, time.time())}
        async with httpx.AsyncClient(base_url=ports.control_url, headers=headers) as client:
            yield client
        nursery.cancel_scope.cancel()


def nested(levels: int) -> dict[str, Any]:
    return {"inner": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize("session", [{"tools": [0] * MAX_ELEMENTS}, nested(MAX_NESTING + 1)], ids=["wide", "deep"])
async def test_a_session_with_too_many_elements_or_levels_is_refused_with_the_limit(session: dict[str, Any]) -> None:
    async with fake_backend(HELLO) as backend, transceiver(backend.url) as client:
        answer = await client.post("/calls", content=offer("rtc_1", session))
        assert answer.status_code == 422
        assert answer.json()["code"] == "session_too_large"
        assert str(MAX_ELEMENTS) in answer.text or str(MAX_NESTING) in answer.text
        fine = {"tools": [{"type": "function", "name": f"tool {number}"} for number in range(128)]}
        assert (await client.post("/calls", content=offer("rtc_2", fine))).status_code == 201
        [started] = await backend.receive(frames.Started)
        assert (started.call_id, unpack(started.session)) == ("rtc_2", fine)
