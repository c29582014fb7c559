"""An ICE peer of a `ControlledAgent`, controlled by a test under virtual time."""

import random
from collections.abc import Mapping

from antiphon_common.control import IceParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.stun import AttributeType, Message, MessageClass, success_response
from antiphon_transceiver import ice

SERVER = IceParameters("ServerUfragOf23IceChars", "server-password-of-32-characters")
CLIENT = IceParameters("clnt", "client-password-24-chars")
LAPTOP = Path.of("192.0.2.10", 50000)
PHONE = Path.of("2001:db8::10", 50001)


class Peer:
    """The controlling side. The test calls `check`, `connect` and `advance`.

    On the paths in `reachable` it answers the agent's checks at once. It records what the agent sends and reports with
    its time, except `CheckAccepted`.
    """

    def __init__(self, *, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.agent = ice.ControlledAgent(SERVER, CLIENT, self.random.randbytes)
        self.now = 1000.0
        self.local = CLIENT
        self.remote = SERVER
        self.reachable: set[Path] = set()
        self.sent: list[tuple[float, Transmit]] = []
        self.events: list[tuple[float, ice.IceEvent]] = []

    def request(
        self,
        *,
        use_candidate: bool = False,
        password: str | None = None,
        username: str | None = None,
        attributes: Mapping[int, bytes] = {},
    ) -> bytes:
        """Return a check of a controlling agent."""
        name = username or f"{self.remote.ufrag}:{self.local.ufrag}"
        content: dict[int, bytes] = {AttributeType.USERNAME: name.encode(), AttributeType.ICE_CONTROLLING: b"tiebreak"}
        if use_candidate:
            content[AttributeType.USE_CANDIDATE] = b""
        message = Message(MessageClass.REQUEST, self.random.randbytes(12), content | dict(attributes))
        return message.encode((password or self.remote.password).encode())

    def send(self, datagram: bytes, path: Path) -> list[Message]:
        """Deliver a datagram and return the datagrams that the agent sends at once."""
        before = len(self.sent)
        self.agent.receive_datagram(datagram, path, self.now)
        self.drain()
        return [Message.decode(transmit.data) for _, transmit in self.sent[before:]]

    def check(self, path: Path, *, use_candidate: bool = False) -> Message:
        """Send a check and return its answer, the first datagram that returns."""
        request = self.request(use_candidate=use_candidate)
        answer = self.send(request, path)[0]
        assert answer.transaction_id == Message.decode(request).transaction_id
        return answer

    def connect(self, path: Path) -> None:
        """Check, answer the agent's own check, nominate."""
        self.reachable.add(path)
        self.check(path)
        self.check(path, use_candidate=True)

    def drain(self) -> None:
        """Record what the agent sends and reports, and answer its checks."""
        while True:
            while (event := self.agent.poll_event()) is not None:
                if not isinstance(event, ice.CheckAccepted):
                    self.events.append((self.now, event))
            transmit = self.agent.poll_transmit()
            if transmit is None:
                return
            self.sent.append((self.now, transmit))
            message = Message.decode(transmit.data)
            if message.message_class is MessageClass.REQUEST and transmit.path in self.reachable:
                self.answer(message, transmit.path)

    def answer(self, request: Message, path: Path, *, password: str | None = None) -> None:
        """Answer a check of the agent."""
        response = success_response(request, path.address, path.port).encode((password or self.local.password).encode())
        self.agent.receive_datagram(response, path, self.now)

    def advance(self, until: float) -> None:
        """Let time pass, and handle the agent's timeouts."""
        while (deadline := self.agent.poll_timeout()) <= until:
            self.now = max(self.now, deadline)
            self.agent.handle_timeout(self.now)
            self.drain()
        self.now = until

    def seen(self, *kinds: type[ice.IceEvent]) -> list[ice.IceEvent]:
        """Return the events so far, of the given kinds or all."""
        return [event for _, event in self.events if not kinds or isinstance(event, kinds)]

    def checks_to(self, path: Path) -> list[Message]:
        """Return the agent's own checks to a path."""
        messages = [Message.decode(transmit.data) for _, transmit in self.sent if transmit.path == path]
        return [message for message in messages if message.message_class is MessageClass.REQUEST]

    def bytes_to(self, path: Path) -> int:
        return sum(len(transmit.data) for _, transmit in self.sent if transmit.path == path)
