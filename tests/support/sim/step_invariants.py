"""The invariants checked after every step of a simulation, under any network, fault and attack."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from operator import gt
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.client.call import AudioReceived
from antiphon_backend.core import CallCore
from antiphon_common.frames import Audio, FrameStatus
from antiphon_relay.disowned import MAX_DISOWNED
from antiphon_relay.forwarder import MAX_OWNERS
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, MAX_ENTRIES
from antiphon_transceiver.backends.call import MAX_WAITING_EVENTS
from antiphon_transceiver.backends.connection import MAX_UNACKNOWLEDGED
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_table import KEPT_ENDED
from antiphon_transceiver.channels import MAX_WAITING_BYTES
from antiphon_transceiver.ice import MAX_GENERATIONS, MAX_PATHS
from antiphon_transceiver.ice.controlling import MAX_CANDIDATES
from antiphon_transceiver.peer_transport import MAX_EARLY_PACKETS
from antiphon_transceiver.sctp import MessageReceived
from antiphon_transceiver.sctp.data_receiver import MAX_HELD_BYTES
from support.sim.actors import Actor, SimulatedClient, SimulatedRelay
from support.sim.key_ledger import KeyLedger
from support.sim.memory_audit import HeldContainer, MemoryAudit
from support.sim.sequenced_events import SEQUENCED_EVENT, SequencedEvents
from support.sim.servers import SimulatedTransceiver
from support.sim.speech_source import read_packet

if TYPE_CHECKING:
    from support.sim.world import World

AUDIT_SECONDS = 5.0
"""Seconds between two searches for containers. The containers found are checked after every step."""

REPLAYED_MS = 20
"""Milliseconds by which the audio of a resumed backend may begin before `resumed_ms`: the length of a packet."""

DEFAULT_BOUND = 256
BOUNDS = {
    ("Forwarder", "_owners"): MAX_OWNERS,
    ("Forwarder", "_owner_of"): MAX_OWNERS,
    ("Forwarder", "_link_sources"): MAX_OWNERS,
    ("DisownedTokens", "_until"): MAX_DISOWNED,
    ("CallTable", "_ended"): KEPT_ENDED,
    ("Playout", "_entries"): MAX_ENTRIES,
    ("LinkKeys", "_verified"): 1 << 16,
    ("BackendConnection", "_unacknowledged"): MAX_UNACKNOWLEDGED,
    ("BackendCall", "_events"): MAX_WAITING_EVENTS,
    ("ControllingAgent", "_pairs"): MAX_CANDIDATES,
    ("IceCredentials", "_generations"): MAX_GENERATIONS,
    ("OutgoingChecks", "_paths"): MAX_PATHS,
    ("PathTable", "states"): MAX_PATHS,
    ("PeerTransport", "_early"): MAX_EARLY_PACKETS,
}
"""Bounds of containers that differ from `DEFAULT_BOUND` in a world of a few calls."""

PER_CALL = frozenset(
    ("Call", "BackendCall", "CallCore", "CallMedia", "AudioStream", "PeerTransport", "SrtpSession", "ControlledAgent")
)
"""Classes without instances once every call has ended."""


class Violation(AssertionError):
    """An invariant does not hold."""


class ContainerBounds:
    """The containers of one actor, and the bound of each. `check` raises `Violation`."""

    def __init__(self, containers: list[HeldContainer]) -> None:
        self._held = containers
        self._containers = [holding.container for holding in containers]
        self._bounds = [BOUNDS.get((holding.owner, holding.attribute), DEFAULT_BOUND) for holding in containers]

    def check(self) -> None:
        """Check all bounds. One expression, because it runs after every step."""
        if any(map(gt, map(len, self._containers), self._bounds)):
            full = zip(self._held, self._bounds, strict=True)
            raise Violation(
                ", ".join(
                    f"{owner}.{attribute} holds {len(container)}"
                    for (owner, attribute, container), bound in full
                    if len(container) > bound
                )
            )


class ReceivedStream:
    """The audio received so far in one direction of a call."""

    def __init__(self) -> None:
        self.packets = 0
        self.last_at = 0.0
        self.next_position = 0
        self.last_number = -1
        self.reader: CallCore | None = None
        """The backend that receives it. Another backend may resume after the loss of one."""
        self.by_sequence: list[tuple[int, int]] = []


class StepInvariants:
    """Checks a world after every step. It maps calls to their clients, which the cores under test cannot.

    The actors report each arrival by a method; `check` runs after every step.
    """

    def __init__(self, world: "World") -> None:
        self.keys = KeyLedger()
        self.up: dict[str, ReceivedStream] = {}
        """Audio received by backends, by call id."""
        self.down: dict[int, ReceivedStream] = {}
        """Audio received by clients, by number."""
        self.events_up: dict[str, SequencedEvents] = {}
        self.events_down: dict[str, SequencedEvents] = {}
        """Sequenced events to backends and from them, by call id."""
        self.hit: dict[str, float] = {}
        """Time at which a call last lost its backend."""
        self._world = world
        self._clients: dict[str, SimulatedClient] = {}
        self._readers: dict[str, CallCore] = {}
        self._calls = 0
        self._running: dict[int, tuple[SimulatedClient, Call]] = {}
        self._audit_at = AUDIT_SECONDS
        self._bounds: dict[Actor, ContainerBounds] = {}

    def next_call(self) -> int:
        self._calls += 1
        return self._calls - 1

    def call_placed(self, client: SimulatedClient, call: Call) -> None:
        """Check a call from now on."""
        self._running[client.number] = client, call
        self.up[client.call_id] = ReceivedStream()
        self.down[client.number] = ReceivedStream()
        self.events_up[client.call_id], self.events_down[client.call_id] = SequencedEvents(), SequencedEvents()
        self._clients[client.call_id] = client

    # Audio

    def client_received_audio(self, client: SimulatedClient, received: AudioReceived) -> None:
        """Check a packet that a client received: it belongs to its call, and its number and sequence number grow."""
        stream = self.down[client.number]
        stream.packets += 1
        stream.last_at = self._world.now
        if not client.numbered:
            return
        payload, repeated = client.codec.read(received)
        number = self._number_of(payload, client)
        if any(self._number_of(earlier, client) >= number for earlier in repeated):
            raise Violation(f"call {client.number} received a redundant block of a later packet")
        packets = stream.by_sequence
        highest = packets[-1][0] if packets else received.sequence
        offset = (received.sequence - highest) & 0xFFFF
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

    def backend_received_audio(self, call: CallCore, frame: Audio) -> None:
        """Check a frame that a backend received: it belongs to its caller, and follows the frame before."""
        call_id = call.started.call_id
        stream = self.up[call_id]
        if stream.reader is not call:
            self._read_on(stream, call, frame)
        if frame.position < stream.next_position:
            raise Violation(f"{call_id}: position {frame.position} after {stream.next_position}")
        stream.next_position = frame.position + 1
        if frame.status != FrameStatus.CONCEALED:
            stream.packets += 1
            stream.last_at = self._world.now
        if not self._clients[call_id].numbered or not frame.data:
            return
        read = read_packet(frame.data)
        if read is None or f"rtc_{read[1]}" != call_id:
            raise Violation(f"{call_id}: audio that its caller never sent: {frame.data[:9].hex()}")
        if read[0] <= stream.last_number:
            raise Violation(f"{call_id}: packet {read[0]} after {stream.last_number}")
        stream.last_number = read[0]

    def _read_on(self, stream: ReceivedStream, call: CallCore, frame: Audio) -> None:
        """Check the first frame that a backend, the first or a resumed one, receives: it begins at `resumed_ms`."""
        stream.reader = call
        stream.next_position, stream.last_number = 0, -1
        begins, resumed = frame.position * 1000 // call.format.rate, call.started.resumed_ms
        if begins < resumed - REPLAYED_MS:
            raise Violation(f"{call.started.call_id}: audio of {begins} ms, resumed at {resumed}")

    def _number_of(self, packet: bytes, client: SimulatedClient) -> int:
        """Return the number of a packet for a client."""
        read = read_packet(packet)
        if read is None or read[1] & 0x7FFFFFFF != client.number:
            raise Violation(f"call {client.number} received audio that was not sent to it: {packet[:9].hex()}")
        return read[0]

    # Events

    def client_received_message(self, client: SimulatedClient, message: MessageReceived) -> None:
        """Check a message that a client received."""
        try:
            event = msgspec.json.decode(message.data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Violation(f"{client.call_id} received a message that is no event: {error}") from None
        if event["type"] == SEQUENCED_EVENT:
            self._check_event(self.events_down[client.call_id], event, f"to {client.call_id}")
        elif event["type"] == "error" and self.events_down[client.call_id].sent:
            raise Violation(f"{client.call_id} received an error: {event}")

    def backend_received_event(self, call: CallCore, event: dict[str, Any]) -> None:
        """Check an event that a backend received."""
        call_id = call.started.call_id
        events = self.events_up[call_id]
        if self._readers.setdefault(call_id, call) is not call:
            self._readers[call_id] = call
            events.resume()
        self._check_event(events, event, f"from {call_id}")

    def backend_lost(self, call_ids: Iterable[str]) -> None:
        """Record that some calls lost their backend connection, with all events in flight."""
        for call_id in call_ids:
            self.hit[call_id] = self._world.now
            self.events_up[call_id].excuse()
            self.events_down[call_id].excuse()

    def _check_event(self, events: SequencedEvents, event: dict[str, Any], which: str) -> None:
        if violation := events.receive(event):
            raise Violation(f"{which}: {violation}")

    # After every step

    def check(self, touched: Iterable[Actor]) -> None:
        """Check every actor that was touched in this step. Raises `Violation`."""
        if self.keys.violations:
            raise Violation(self.keys.violations[0])
        for actor in touched:
            if actor in self._bounds:
                self._bounds[actor].check()
            if isinstance(actor, SimulatedRelay):
                self._check_relay(actor)
            elif isinstance(actor, SimulatedTransceiver):
                self._check_transceiver(actor)
        if self._world.now >= self._audit_at:
            self._audit_at = self._world.now + AUDIT_SECONDS
            self.audit_memory()

    def _check_transceiver(self, there: SimulatedTransceiver) -> None:
        """Check that a transceiver's calls stay within bounds, and that no call owns the path of another's client."""
        paths, address = there.router.paths, there.encoded_address
        for client, call in list(self._running.values()):
            if client.home == address:
                self._check_call(client, call)
            if client.at_home:
                owner = paths.lookup(client.key)
                if owner is not None and owner is not call and paths.is_confirmed(client.key, owner):
                    raise Violation(f"{call.id}: a transceiver gave {client.address} to {owner.id}")

    def _check_call(self, client: SimulatedClient, call: Call) -> None:
        if call.last_status is not None:
            del self._running[client.number]
            return
        buffered_ms, agent = call.stream.playout.buffered_ms, call.agent
        if buffered_ms > MAX_BUFFERED_MS:
            raise Violation(f"{call.id} holds {buffered_ms} ms of audio")
        if len(call.routes) > MAX_PATHS + 1:
            raise Violation(f"{call.id} has {len(call.routes)} routes")
        channels = call.channels
        if channels is not None:
            held = channels.endpoint.association.receiver.reassembler.size
            if held > MAX_HELD_BYTES or channels.waiting_bytes > MAX_WAITING_BYTES:
                raise Violation(f"{call.id} holds {held} bytes of chunks and {channels.waiting_bytes} of events")
        selected = agent.selected
        if selected is not None and selected not in client.paths and agent.is_validated(selected):
            raise Violation(f"{call.id} selected {selected}, a path that its client never had")

    def _check_relay(self, relay: SimulatedRelay) -> None:
        """Check that the flow of each client belongs to its call, even if others send from its address."""
        core = relay.core
        if core.link_outbox or relay.ingress.outbox:
            raise Violation("a relay's outbox was not drained")
        if core.counters.no_route:
            raise Violation("a relay accepted a token that was never minted")
        for client, call in self._running.values():
            flow = core.flows.flow(client.key) if client.at_home else None
            if flow is not None and flow.confirmed and flow.owner != client.home and relay.alive:
                raise Violation(f"{call.id}: a relay gave {client.address} to another transceiver")

    def audit_memory(self) -> Counter[str]:
        """Find and check every container of every core. Return the number of objects by class name."""
        world, objects = self._world, Counter[str]()
        cores: dict[Actor, list[object]] = {relay: [relay.core] for relay in world.relays}
        for there in world.transceivers:
            cores[there] = [there.router, there.selector]
            for backend in there.backends:
                cores[backend] = [backend.connection, backend.session]
        for actor, roots in cores.items():
            audit = MemoryAudit(roots)
            self._bounds[actor] = held = ContainerBounds(audit.containers)
            held.check()
            objects.update(audit.objects)
        return objects

    # At the end

    @property
    def running(self) -> list[int]:
        """The numbers of the calls that have not ended."""
        return [number for number, (_, call) in self._running.items() if call.last_status is None]

    def remaining_state(self) -> str:
        """Return a description of the state that ended calls still hold, or an empty string."""
        world = self._world
        backends = [backend for there in world.transceivers for backend in there.backends]
        held = {
            "calls": sum(len(there.router) for there in world.transceivers),
            "paths": sum(len(there.router.paths) for there in world.transceivers),
            "calls of a connection": sum(backend.connection.calls for backend in backends),
            "calls of a backend": sum(backend.session.calls for backend in backends),
            "flows": sum(len(relay.core.flows) for relay in world.relays if relay.alive),
        }
        held |= {kind: count for kind, count in self.audit_memory().items() if kind in PER_CALL}
        return ", ".join(f"{count} {kind}" for kind, count in held.items() if count)
