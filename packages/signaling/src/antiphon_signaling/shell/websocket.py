"""The WebSocket API, `/v1/signaling`: one call over one connection. docs/reference/signaling.md specifies it."""

import logging
from typing import Any
from urllib.parse import parse_qs

import h11
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from antiphon_common.errors import DecodeError
from antiphon_common.json_objects import check_json
from antiphon_common.shell.supervise import Drain
from antiphon_signaling.authentication import Authenticator, Caller, joined
from antiphon_signaling.refusals import RefusedError
from antiphon_signaling.shell.calls import Answered, Calls, check_session

PATH = "/v1/signaling"
SUBPROTOCOL = "antiphon"
KEY_SUBPROTOCOL = "antiphon-key."
"""Prefix of an API key among the subprotocols. In browsers a page cannot set a header."""
MAX_HOST = 255
"""Bytes of the Host header: a domain name. The library decodes IDNA in time that grows with the square of the
length."""
MAX_MESSAGE = 192 * 1024
"""Bytes of a message: an offer, and a session object with long instructions."""
MAX_QUEUED = 4
RECEIVE_BYTES = 1024
"""Bytes read before other tasks run. They can contain 170 frames, and the library takes 7 µs for each."""
HANDSHAKE_SECONDS = 10.0
OFFER_SECONDS = 60.0
"""Seconds that a connection may be without a call."""
PING_SECONDS = 20.0
CLOSE_SECONDS = 2.0
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
"""Close codes (RFC 6455 §7.4.1)."""
MAX_ERRORS = 100
"""Refused messages after which a connection is closed."""

logger = logging.getLogger(__name__)


class ClientMessage(msgspec.Struct, frozen=True):
    """Any message of a client, as decoded. Offers have `sdp` and `session`, restarts `sdp`."""

    type: str
    sdp: str = ""
    session: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(ClientMessage)


class SignalingSocket:
    """Serves the WebSocket API. The listener calls `serve` for each upgrade request."""

    def __init__(self, calls: Calls, authenticator: Authenticator, drain: Drain) -> None:
        self._calls = calls
        self._authenticator = authenticator
        self._drain = drain

    async def serve(self, stream: trio.abc.Stream, head: h11.Request, peer: str) -> None:
        """Serve one connection to its end. Its first bytes are a WebSocket request; `peer` is the numeric source
        address."""
        if any(name == b"host" and len(value) > MAX_HOST for name, value in head.headers):
            logger.info("websocket refused", extra={"peer": peer, "reason": "the Host header is too long"})
            return
        try:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(HANDSHAKE_SECONDS):
                    request = await wrap_server_stream(nursery, stream, MAX_QUEUED, MAX_MESSAGE, RECEIVE_BYTES)
                    conversation = await self._accept(request, head, peer)
                    if conversation is not None:
                        nursery.start_soon(conversation.run, nursery)
                        return
                nursery.cancel_scope.cancel()
        except* UnicodeError:
            pass  # the library's reader raises it over a header that is not UTF-8

    async def _accept(self, request: WebSocketRequest, head: h11.Request, peer: str) -> "_Conversation | None":
        """Accept a request. Return None if it was refused, or if the client has disconnected."""
        headers = joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        proposed = request.proposed_subprotocols
        key = next((name.removeprefix(KEY_SUBPROTOCOL) for name in proposed if name.startswith(KEY_SUBPROTOCOL)), None)
        path, _, query = request.path.partition("?")
        try:
            if path != PATH:
                await _reject(request, RefusedError(404, "not_found", f"there is no WebSocket here, but at {PATH}"))
                return None
            try:
                caller = self._authenticator.identify(headers, peer, key)
            except RefusedError as error:
                logger.info("websocket refused", extra={"peer": peer, "code": error.code, "reason": error.message})
                await _reject(request, error)
                return None
            connection = await request.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in proposed else None)
        except ConnectionClosed:
            return None
        model = parse_qs(query).get("model", [None])[0]
        return _Conversation(self._calls, connection, caller, peer, model, self._drain)


async def _reject(request: WebSocketRequest, error: RefusedError) -> None:
    headers = {"Content-Type": "application/json", **error.headers}
    extra = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await request.reject(error.status, extra_headers=extra, body=error.body())


class _Conversation:
    """One accepted connection: offers until one is answered, then the call until its end. `run` serves it."""

    def __init__(
        self,
        calls: Calls,
        connection: WebSocketConnection,
        caller: Caller,
        peer: str,
        model: str | None,
        drain: Drain,
    ) -> None:
        self._calls = calls
        self._connection = connection
        self._caller = caller
        self._peer = peer
        self._model = model
        self._drain = drain
        self._call: Answered | None = None
        self._errors = 0

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve the connection, then cancel `nursery`, which also holds its reader."""
        try:
            nursery.start_soon(self._keep_alive, nursery.cancel_scope)
            nursery.start_soon(self._leave)
            with trio.move_on_after(OFFER_SECONDS):
                while self._call is None:
                    await self._receive()
            if self._call is not None:
                nursery.start_soon(self._watch, self._call)
                while True:
                    await self._receive()
        except ConnectionClosed:
            pass
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._connection.aclose()
            nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        text = await self._connection.get_message()
        try:
            await self._handle(_decode(text))
        except RefusedError as refusal:
            await self._refuse(refusal)

    async def _refuse(self, refusal: RefusedError) -> None:
        """Send an error. After MAX_ERRORS the connection is closed, since each costs an answer."""
        message: dict[str, Any] = {"type": "error", "error": refusal.error}
        if (retry_after := refusal.headers.get("Retry-After")) is not None:
            message["retry_after"] = int(retry_after)
        await self._send(message)
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            await self._connection.aclose(POLICY_VIOLATION, "too many errors")

    async def _handle(self, message: ClientMessage) -> None:
        if message.type == "offer" and self._call is None:
            with self._calls.attempt(self._peer), self._calls.admit(self._caller) as setup:
                session = check_session(message.session, self._model)
                call = await self._calls.start(setup, self._caller.tenant, message.sdp.encode(), session)
            self._call = call
            await self._send({"type": "answer", "call_id": call.call_id, "sdp": call.sdp.decode()})
        elif message.type == "offer":
            raise RefusedError(409, "call_exists", "this connection has its call: open another one", param="type")
        elif message.type not in ("hangup", "restart", "trickle"):
            raise RefusedError(400, "unknown_type", "type is offer, trickle, restart or hangup", param="type")
        elif self._call is None:
            raise RefusedError(409, "no_call", f"there is no call to {message.type}", param="type")
        elif message.type == "restart":
            restarted = await self._calls.restart(self._caller, self._call.call_id, message.sdp.encode())
            await self._send({"type": "answer", "call_id": self._call.call_id, "sdp": restarted.sdp.decode()})
        elif message.type == "hangup":
            await self._calls.end(self._caller, self._call.call_id)
        # A trickled candidate has no effect: a lite agent answers to the source of each check.

    async def _watch(self, call: Answered) -> None:
        """Report the end of the call to the client, then close."""
        reason = await self._calls.wait_ended(self._caller.tenant, call)
        try:
            await self._send({"type": "ended", "call_id": call.call_id, "reason": reason})
            with trio.move_on_after(CLOSE_SECONDS):
                await self._connection.aclose()
        except ConnectionClosed:
            pass

    async def _leave(self) -> None:
        """Report to the client that the server is about to stop. Its call outlives the connection."""
        await self._drain.wait()
        try:
            await self._send({"type": "draining"})
            if self._call is not None and self._drain.deadline is not None:
                await trio.sleep_until(self._drain.deadline - CLOSE_SECONDS)
            with trio.move_on_after(CLOSE_SECONDS):
                await self._connection.aclose(GOING_AWAY)
        except ConnectionClosed:
            pass

    async def _keep_alive(self, scope: trio.CancelScope) -> None:
        """Send pings, which keep NATs and proxies open too. A client that does not answer is disconnected."""
        try:
            while True:
                await trio.sleep(PING_SECONDS)
                with trio.fail_after(PING_SECONDS):
                    await self._connection.ping()
        except trio.TooSlowError:
            scope.cancel()
        except ConnectionClosed:
            pass

    async def _send(self, message: dict[str, Any]) -> None:
        await self._connection.send_message(msgspec.json.encode(message).decode())


def _decode(text: str | bytes) -> ClientMessage:
    try:
        check_json(text.encode() if isinstance(text, str) else text)
        return _decoder.decode(text)
    except (msgspec.DecodeError, DecodeError, RecursionError, UnicodeError) as error:
        raise RefusedError(400, "invalid_message", f"not a message of this protocol: {error}") from None
