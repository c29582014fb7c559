"""What must always hold, whatever the network, the faults and the attackers do. Looked at after every step."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from operator import gt
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.client.call import AudioReceived
from antiphon_backend.core import CallCore
from antiphon_common.frames import Audio, Origin
from antiphon_relay.disowned import MAX_DISOWNED
from antiphon_relay.forwarder import MAX_OWNERS
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, MAX_ENTRIES
from antiphon_transceiver.backends.call import MAX_WAITING_EVENTS
from antiphon_transceiver.backends.link import MAX_UNHEARD
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_table import KEPT_ENDED
from antiphon_transceiver.channels import MAX_WAITING_BYTES
from antiphon_transceiver.ice.paths import MAX_PATHS
from antiphon_transceiver.sctp import MessageReceived
from antiphon_transceiver.sctp.data_receiver import MAX_HELD_BYTES
from support.sim.actors import Actor, Client, Relay
from support.sim.key_ledger import KeyLedger
from support.sim.memory_audit import Holding, Sweep
from support.sim.sequenced_events import LETTER, Mail
from support.sim.servers import Transceiver
from support.sim.speech_source import read_packet

if TYPE_CHECKING:
    from support.sim.world import World

SWEEP_SECONDS = 5.0
"""Between two searches for containers; those found are looked at after every step."""

REPLAYED_MS = 20
"""How much earlier than a resumed backend is told its audio may begin: packets are as long."""

DEFAULT_BOUND = 256
BOUNDS = {
    ("Forwarder", "_owners"): MAX_OWNERS,
    ("Forwarder", "_owner_of"): MAX_OWNERS,
    ("Forwarder", "_link_sources"): MAX_OWNERS,
    ("DisownedTokens", "_until"): MAX_DISOWNED,
    ("CallTable", "_ended"): KEPT_ENDED,
    ("Playout", "_entries"): MAX_ENTRIES,
    ("LinkKeys", "_verified"): 1 << 16,
    ("BackendLink", "_unheard"): MAX_UNHEARD,
    ("BackendCall", "_events"): MAX_WAITING_EVENTS,
    ("ControllingAgent", "_pairs"): 32,
    ("PathTable", "states"): MAX_PATHS,
}
"""Of containers that may hold more, or must hold less, than `DEFAULT_BOUND` in a world of a few calls."""

PER_CALL = frozenset(("Session", "Call", "BackendCall", "CallCore", "AudioStream", "SrtpSession", "ControlledAgent"))
"""What nothing may hold once every call is over."""


class Violation(AssertionError):
    """Something does not hold that must."""


class Held:
    """The containers of one actor, and how much each may hold."""

    def __init__(self, holdings: list[Holding]) -> None:
        self._holdings = holdings
        self._containers = [holding.container for holding in holdings]
        self._bounds = [BOUNDS.get((holding.owner, holding.attribute), DEFAULT_BOUND) for holding in holdings]

    def check(self) -> None:
        """Done after every step, hence in one expression."""
        if any(map(gt, map(len, self._containers), self._bounds)):
            full = zip(self._holdings, self._bounds, strict=True)
            raise Violation(
                ", ".join(
                    f"{owner}.{attribute} holds {len(container)}"
                    for (owner, attribute, container), bound in full
                    if len(container) > bound
                )
            )


class Stream:
    """One direction of a call's audio: what was heard of it so far."""

    def __init__(self) -> None:
        self.packets = 0
        self.last_at = 0.0
        self.next_position = 0
        self.last_number = -1
        self.reader: CallCore | None = None
        """Which backend hears it; another may go on where one was lost."""
        self.by_sequence: list[tuple[int, int]] = []


class Watch:
    """Knows which client made which call and where it is; the cores under test do not."""

    def __init__(self, world: "World") -> None:
        self.keys = KeyLedger()
        self.up: dict[str, Stream] = {}
        """What backends heard, by call id."""
        self.down: dict[int, Stream] = {}
        """What clients heard, by number."""
        self.mail_up: dict[str, Mail] = {}
        self.mail_down: dict[str, Mail] = {}
        """Letters to backends and from them, by call id."""
        self.hit: dict[str, float] = {}
        """When a call last lost its backend."""
        self._world = world
        self._clients: dict[str, Client] = {}
        self._readers: dict[str, CallCore] = {}
        self._calls = 0
        self._running: dict[int, tuple[Client, Call]] = {}
        self._sweep_at = SWEEP_SECONDS
        self._held: dict[Actor, Held] = {}

    def next_call(self) -> int:
        self._calls += 1
        return self._calls - 1

    def placed(self, client: Client, call: Call) -> None:
        """Follow a call from now on."""
        self._running[client.number] = client, call
        self.up[client.call_id] = Stream()
        self.down[client.number] = Stream()
        self.mail_up[client.call_id], self.mail_down[client.call_id] = Mail(), Mail()
        self._clients[client.call_id] = client

    # Audio

    def client_heard(self, client: Client, heard: AudioReceived) -> None:
        """A packet of the server's stream: it says something of this call, later than what came before it in order."""
        stream = self.down[client.number]
        stream.packets += 1
        stream.last_at = self._world.now
        if not client.legible:
            return
        payload, repeated = client.codec.read(heard)
        number = self._number_of(payload, client)
        if any(self._number_of(earlier, client) >= number for earlier in repeated):
            raise Violation(f"call {client.number} is told again what it has yet to hear")
        packets = stream.by_sequence
        highest = packets[-1][0] if packets else heard.sequence
        offset = (heard.sequence - highest) & 0xFFFF
        entry = (highest + offset - (offset >> 15 << 16), number)
        if not packets or entry > packets[-1]:
            packets.append(entry)
            place = len(packets) - 1
        else:
            insort(packets, entry)
            place = packets.index(entry)
        around = packets[max(0, place - 1) : place + 2]
        if any(later[1] <= earlier[1] for earlier, later in pairwise(around)):
            raise Violation(f"call {client.number} is played packets out of order: {around}")

    def backend_heard(self, call: CallCore, frame: Audio) -> None:
        """A frame of the caller's audio: of this caller, and behind the one before it."""
        call_id = call.started.call_id
        stream = self.up[call_id]
        if stream.reader is not call:
            self._read_on(stream, call, frame)
        if frame.position < stream.next_position:
            raise Violation(f"{call_id}: position {frame.position} after {stream.next_position}")
        stream.next_position = frame.position + 1
        if frame.origin != Origin.CONCEALED:
            stream.packets += 1
            stream.last_at = self._world.now
        if not self._clients[call_id].legible or not frame.data:
            return
        read = read_packet(frame.data)
        if read is None or f"rtc_{read[1]}" != call_id:
            raise Violation(f"{call_id}: audio that its caller never said: {frame.data[:9].hex()}")
        if read[0] <= stream.last_number:
            raise Violation(f"{call_id}: packet {read[0]} after {stream.last_number}")
        stream.last_number = read[0]

    def _read_on(self, stream: Stream, call: CallCore, frame: Audio) -> None:
        """A backend, the first or one that resumes, hears a call from where it was told; perhaps some of it again."""
        stream.reader = call
        stream.next_position, stream.last_number = 0, -1
        begins, told = frame.position * 1000 // call.format.rate, call.started.resumed_ms
        if begins < told - REPLAYED_MS:
            raise Violation(f"{call.started.call_id}: audio of {begins} ms, resumed at {told}")

    def _number_of(self, packet: bytes, client: Client) -> int:
        """Return the number of a packet that was said to a client."""
        read = read_packet(packet)
        if read is None or read[1] & 0x7FFFFFFF != client.number:
            raise Violation(f"call {client.number} hears what nobody said to it: {packet[:9].hex()}")
        return read[0]

    # Letters

    def client_read(self, client: Client, message: MessageReceived) -> None:
        """A message that came to a client."""
        try:
            event = msgspec.json.decode(message.data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Violation(f"{client.call_id} reads what is no letter and no event: {error}") from None
        if event["type"] == LETTER:
            self._arrive(self.mail_down[client.call_id], event, f"to {client.call_id}")
        elif event["type"] == "error" and self.mail_down[client.call_id].posted:
            raise Violation(f"{client.call_id} is told of an error: {event}")

    def backend_read(self, call: CallCore, event: dict[str, Any]) -> None:
        """A letter that came to a backend."""
        call_id = call.started.call_id
        mail = self.mail_up[call_id]
        if self._readers.setdefault(call_id, call) is not call:
            self._readers[call_id] = call
            mail.resume()
        self._arrive(mail, event, f"from {call_id}")

    def backend_gone(self, call_ids: Iterable[str]) -> None:
        """The connection of some calls to their backend is gone, with what is on its way there and back."""
        for call_id in call_ids:
            self.hit[call_id] = self._world.now
            self.mail_up[call_id].excuse()
            self.mail_down[call_id].excuse()

    def _arrive(self, mail: Mail, event: dict[str, Any], which: str) -> None:
        if complaint := mail.arrive(event):
            raise Violation(f"{which}: {complaint}")

    # After every step

    def check(self, touched: Iterable[Actor]) -> None:
        """Look at everybody to whom something happened in this step."""
        if self.keys.violations:
            raise Violation(self.keys.violations[0])
        for actor in touched:
            if actor in self._held:
                self._held[actor].check()
            if isinstance(actor, Relay):
                self._check_relay(actor)
            elif isinstance(actor, Transceiver):
                self._check_transceiver(actor)
        if self._world.now >= self._sweep_at:
            self._sweep_at = self._world.now + SWEEP_SECONDS
            self.sweep()

    def _check_transceiver(self, there: Transceiver) -> None:
        """Its calls keep within bounds and at their clients, and none has another's path."""
        paths, address = there.router.paths, there.encoded_address
        for client, call in list(self._running.values()):
            if client.home == address:
                self._check_call(client, call)
            if client.at_home:
                owner = paths.lookup(client.key)
                if owner is not None and owner is not call and paths.is_confirmed(client.key, owner):
                    raise Violation(f"{call.id}: a transceiver gave {client.address} to {owner.id}")

    def _check_call(self, client: Client, call: Call) -> None:
        session = call.session
        if session.ended is not None:
            del self._running[client.number]
            return
        buffered_ms, agent = session.stream.playout.buffered_ms, session.agent
        if buffered_ms > MAX_BUFFERED_MS:
            raise Violation(f"{call.id} holds {buffered_ms} ms of audio")
        if len(call.routes) > MAX_PATHS + 1:
            raise Violation(f"{call.id} has {len(call.routes)} routes")
        channels = session.channels
        if channels is not None:
            held = channels._endpoint.association.receiver.reassembler.size
            if held > MAX_HELD_BYTES or channels._waiting_bytes > MAX_WAITING_BYTES:
                raise Violation(f"{call.id} holds {held} bytes of chunks and {channels._waiting_bytes} of events")
        selected = agent.selected
        if selected is not None and selected not in client.paths and agent.is_validated(selected):
            raise Violation(f"{call.id} was moved to {selected}, where its client never was")

    def _check_relay(self, relay: Relay) -> None:
        """Whoever else claims a client's address, its packets stay its call's."""
        core = relay.core
        if core.link_outbox or relay.ingress.outbox:
            raise Violation("a relay's outbox was not drained")
        if core.counters.no_route:
            raise Violation("a relay read a token that nobody made")
        for client, call in self._running.values():
            flow = core.flows.flow(client.key) if client.at_home else None
            if flow is not None and flow.confirmed and flow.owner != client.home and relay.alive:
                raise Violation(f"{call.id}: a relay gave {client.address} to another transceiver")

    def sweep(self) -> Counter[str]:
        """Find every container of every core; return how many objects there are, by the names of their classes."""
        world, objects = self._world, Counter[str]()
        cores: dict[Actor, list[object]] = {relay: [relay.core] for relay in world.relays}
        for there in world.transceivers:
            cores[there] = [there.router, there.group]
            for backend in there.backends:
                cores[backend] = [backend.link, backend.session]
        for actor, roots in cores.items():
            sweep = Sweep(roots)
            self._held[actor] = held = Held(sweep.holdings)
            held.check()
            objects.update(sweep.objects)
        return objects

    # At the end

    @property
    def running(self) -> list[int]:
        """The numbers of the calls that are not over."""
        return [number for number, (_, call) in self._running.items() if call.session.ended is None]

    def left_over(self) -> str:
        """Say what is still held of calls that are over; nothing, if all is well."""
        world = self._world
        backends = [backend for there in world.transceivers for backend in there.backends]
        held = {
            "calls": sum(len(there.router) for there in world.transceivers),
            "paths": sum(len(there.router.paths) for there in world.transceivers),
            "calls of a link": sum(backend.link.calls for backend in backends),
            "calls of a backend": sum(backend.session.calls for backend in backends),
            "flows": sum(len(relay.core.flows) for relay in world.relays if relay.alive),
        }
        held |= {kind: count for kind, count in self.sweep().items() if kind in PER_CALL}
        return ", ".join(f"{count} {kind}" for kind, count in held.items() if count)
