"""What must always hold, whatever the network, the faults and the attackers do. Looked at after every step."""

from bisect import insort
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from antiphon.client.call import AudioReceived
from antiphon_backend.core import CallCore
from antiphon_common.frames import Audio, Origin
from antiphon_relay.forwarder import MAX_OWNERS
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, MAX_ENTRIES
from antiphon_transceiver.call import Call
from antiphon_transceiver.ice.paths import MAX_PATHS
from antiphon_transceiver.switchboard import KEPT_ENDED
from support.actors import Actor, Backend, Client, Relay, Transceiver
from support.key_ledger import KeyLedger
from support.sweep import Sweep
from support.voice import read_packet

if TYPE_CHECKING:
    from support.world import World

SWEEP_SECONDS = 5.0

DEFAULT_BOUND = 256
BOUNDS = {
    ("Forwarder", "_owners"): MAX_OWNERS,
    ("Forwarder", "_owner_of"): MAX_OWNERS,
    ("Forwarder", "_transceivers"): MAX_OWNERS,
    ("Switchboard", "_ended"): KEPT_ENDED,
    ("Playout", "_entries"): MAX_ENTRIES,
    ("LinkKeys", "_verified"): 1 << 16,
    ("ControllingAgent", "_pairs"): 32,
    ("PathTable", "_states"): MAX_PATHS,
}
"""Of containers that may hold more, or must hold less, than `DEFAULT_BOUND` in a world of a few calls."""

PER_CALL = frozenset(("Session", "Call", "BackendCall", "CallCore", "AudioStream", "SrtpSession", "IceAgent"))
"""What nothing may hold once every call is over."""


class Violation(AssertionError):
    """Something does not hold that must."""


class Stream:
    """One direction of a call's audio: what was heard of it so far."""

    def __init__(self) -> None:
        self.packets = 0
        self.last_at = 0.0
        self.next_position = 0
        self.last_number = -1
        self.by_sequence: list[tuple[int, int]] = []


class Watch:
    """Knows which client made which call and where it is; the cores under test do not."""

    def __init__(self, world: "World") -> None:
        self.keys = KeyLedger()
        self.up: dict[str, Stream] = {}
        """What backends heard, by call id."""
        self.down: dict[int, Stream] = {}
        """What clients heard, by number."""
        self._world = world
        self._calls = 0
        self._running: dict[int, tuple[Client, Call]] = {}
        self._sweep_at = SWEEP_SECONDS

    def next_call(self) -> int:
        self._calls += 1
        return self._calls - 1

    def placed(self, client: Client, call: Call) -> None:
        """Follow a call from now on."""
        self._running[client.number] = client, call
        self.up[client.call_id] = Stream()
        self.down[client.number] = Stream()

    # Audio

    def client_heard(self, client: Client, heard: AudioReceived) -> None:
        """A packet of the server's stream: it says something of this call, later than what came before it in order."""
        stream = self.down[client.number]
        stream.packets += 1
        stream.last_at = self._world.now
        if not client.legible:
            return
        read = read_packet(heard.payload)
        if read is None or read[1] & 0x7FFFFFFF != client.number:
            raise Violation(f"call {client.number} hears what nobody said to it: {heard.payload[:9].hex()}")
        packets = stream.by_sequence
        highest = packets[-1][0] if packets else heard.sequence
        offset = (heard.sequence - highest) & 0xFFFF
        entry = (highest + offset - (offset >> 15 << 16), read[0])
        if not packets or entry > packets[-1]:
            packets.append(entry)
            place = len(packets) - 1
        else:
            insort(packets, entry)
            place = packets.index(entry)
        around = packets[max(0, place - 1) : place + 2]
        if any(later[1] <= earlier[1] for earlier, later in pairwise(around)):
            raise Violation(f"call {client.number} is played packets out of order: {around}")

    def backend_heard(self, backend: Backend, call: CallCore, frame: Audio) -> None:
        """A frame of the caller's audio: of this caller, and behind the one before it."""
        stream = self.up[call.started.call_id]
        if frame.position < stream.next_position:
            raise Violation(f"{call.started.call_id}: position {frame.position} after {stream.next_position}")
        stream.next_position = frame.position + 1
        if frame.origin != Origin.RECEIVED:
            return
        stream.packets += 1
        stream.last_at = self._world.now
        if call.format.name != "opus":
            return
        read = read_packet(frame.data)
        if read is None or f"rtc_{read[1]}" != call.started.call_id:
            raise Violation(f"{call.started.call_id}: audio that its caller never said: {frame.data[:9].hex()}")
        if read[0] <= stream.last_number:
            raise Violation(f"{call.started.call_id}: packet {read[0]} after {stream.last_number}")
        stream.last_number = read[0]

    # After every step

    def check(self, touched: Iterable[Actor]) -> None:
        """Look at everybody to whom something happened in this step."""
        if self.keys.violations:
            raise Violation(self.keys.violations[0])
        for actor in touched:
            if isinstance(actor, Relay):
                self._check_relay(actor)
            elif isinstance(actor, Transceiver):
                self._check_transceiver(actor)
        if self._world.now >= self._sweep_at:
            self._sweep_at = self._world.now + SWEEP_SECONDS
            self.sweep()

    def _check_transceiver(self, there: Transceiver) -> None:
        """Its calls keep within bounds and at their clients, and none has another's path."""
        paths, address = there.switchboard.paths, there.encoded_address
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

    def sweep(self) -> Sweep:
        """Look at every container of every core."""
        world = self._world
        cores: list[object] = [relay.core for relay in world.relays]
        for there in world.transceivers:
            cores += [there.switchboard, there.link, there.backend.session]
        sweep = Sweep(cores)
        for owner, attribute, size in sweep.holdings:
            if size > BOUNDS.get((owner, attribute), DEFAULT_BOUND):
                raise Violation(f"{owner}.{attribute} holds {size}")
        return sweep

    # At the end

    @property
    def running(self) -> list[int]:
        """The numbers of the calls that are not over."""
        return [number for number, (_, call) in self._running.items() if call.session.ended is None]

    def left_over(self) -> str:
        """Say what is still held of calls that are over; nothing, if all is well."""
        world = self._world
        held = {
            "calls": sum(len(there.switchboard) for there in world.transceivers),
            "paths": sum(len(there.switchboard.paths) for there in world.transceivers),
            "calls of a link": sum(there.link.calls for there in world.transceivers),
            "calls of a backend": sum(there.backend.session.calls for there in world.transceivers),
            "flows": sum(len(relay.core.flows) for relay in world.relays if relay.alive),
        }
        held |= {kind: count for kind, count in self.sweep().objects.items() if kind in PER_CALL}
        return ", ".join(f"{count} {kind}" for kind, count in held.items() if count)
