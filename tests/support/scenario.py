"""What happens in one simulation: drawn from a seed, carried out in a world, judged at the end."""

from math import sqrt
from random import Random
from typing import Literal, NamedTuple

import msgspec

from antiphon_common.control import Setup
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.switchboard import CallEnded
from support.actors import Client
from support.forger import Forger
from support.impairment import PERFECT, Bursts, Impairment, outage
from support.key_ledger import traced_keys
from support.middleboxes import WallClock
from support.watch import Violation
from support.world import World

Ending = Literal["leave", "vanish", "hang_up", "backend"]
RelayFault = Literal["forgets", "dies"]

SHORTEST, LONGEST = 5.0, 60.0
"""Seconds of a call."""

RECOVERY_SECONDS = 10.0
"""After a fault audio flows again: at the client's next check, which comes within 6 s, and a round trip or two."""

STALL_SECONDS = 1.5
"""The longest silence that is no stall: delay, jitter and a burst of losses."""

FREED_SECONDS = 130.0
"""After the last call everything is freed: a silent peer after 30 s, flows that nobody released after 60."""

SETUP_REASONS = frozenset((EndReason.NO_STUN, EndReason.DTLS_TIMEOUT, EndReason.PEER_SILENT))
GOOD_REASONS: dict[Ending, frozenset[EndReason]] = {
    "leave": frozenset((EndReason.CLOSE_NOTIFY, EndReason.PEER_SILENT)),
    "vanish": frozenset((EndReason.PEER_SILENT,)),
    "hang_up": frozenset((EndReason.HANGUP,)),
    "backend": frozenset((EndReason.BACKEND_ENDED,)),
}
"""A close_notify may be lost, and then the silence ends the call."""


class CallPlan(msgspec.Struct, frozen=True):
    """One call; times in seconds."""

    start: float
    seconds: float
    transceiver: int
    impairment: Impairment
    behaviour: str
    audio_format: str
    setup: Setup
    profile: SrtpProfile
    ending: Ending
    rebinds_after: float | None
    restarts_after: float | None
    """When the client restarts ICE, which costs no audio."""
    outage_after: float | None
    outage_seconds: float


class Plan(msgspec.Struct, frozen=True):
    """One simulation. `relay_fault` befalls the first relay, the backend's that of the first transceiver."""

    seed: int
    relays: int
    transceivers: int
    spray: bool
    forger_interval: float | None
    attackers: int
    relay_fault: RelayFault | None
    relay_fault_at: float
    backend_fault_at: float | None
    clock_jump: float
    calls: tuple[CallPlan, ...]

    @property
    def end(self) -> float:
        return max(call.start + call.seconds for call in self.calls)


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    chance = Random(f"plan {seed}")
    relays, transceivers = chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2))
    calls = tuple(_draw_call(chance, transceivers) for _ in range(chance.choice((1, 1, 2, 3))))
    end = max(call.start + call.seconds for call in calls)
    fault: RelayFault | None = chance.choice((None, None, "forgets", "dies" if relays > 1 else "forgets"))
    return Plan(
        seed=seed,
        relays=relays,
        transceivers=transceivers,
        spray=relays > 1 and chance.random() < 0.2,
        forger_interval=chance.choice((None, 0.05, 0.2)),
        attackers=chance.choice((0, 0, 1, 2)),
        relay_fault=fault,
        relay_fault_at=chance.uniform(1.0, end),
        backend_fault_at=chance.uniform(1.0, end) if chance.random() < 0.1 else None,
        clock_jump=chance.choice((0.0, 0.0, 3600.0, -86400.0)),
        calls=calls,
    )


def _draw_call(chance: Random, transceivers: int) -> CallPlan:
    seconds = SHORTEST + (LONGEST - SHORTEST) * chance.random() ** 4
    pcm = chance.random() < 0.05
    return CallPlan(
        start=chance.uniform(0, 2),
        seconds=seconds,
        transceiver=chance.randrange(transceivers),
        impairment=_draw_network(chance),
        behaviour="loopback" if pcm else chance.choice(("loopback", "loopback", "stories", "silent")),
        audio_format="pcm16/24000" if pcm else "opus",
        setup=chance.choice(("actpass", "actpass", "active", "passive")),
        profile=chance.choice((SrtpProfile.AEAD_AES_128_GCM, *SrtpProfile)),
        ending=chance.choice(("leave", "leave", "vanish", "hang_up", "backend")),
        rebinds_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        restarts_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_seconds=chance.choice((0.3, 1.0, 3.0)),
    )


def _draw_network(chance: Random) -> Impairment:
    """Most networks are good, or bad in one way; some are bad in every way."""
    delay = chance.choice((0.001, 0.01, 0.025, 0.05, 0.15))
    return chance.choice(
        (
            PERFECT,
            Impairment(delay=delay),
            Impairment(delay=delay, loss=chance.choice((0.01, 0.05, 0.1))),
            Impairment(delay=delay, bursts=Bursts.of_mean(chance.choice((0.02, 0.08)), chance.choice((2, 6)))),
            Impairment(delay=delay, jitter=chance.choice((0.01, 0.04, 0.08)), jitter_reorders=chance.random() < 0.5),
            Impairment(delay=delay, reordering=0.1, duplication=0.05),
            Impairment(delay=delay, rate=chance.choice((12_000, 30_000)), backlog=0.1, mtu=1280),
            Impairment(
                delay=delay,
                loss=0.03,
                bursts=Bursts.of_mean(0.03, 3),
                duplication=0.03,
                reordering=0.05,
                jitter=0.03,
                rate=40_000,
                mtu=1200,
            ),
        )
    )


class Outcome(NamedTuple):
    """What came of a simulation. `seconds` is the sum over its calls; `problem` is empty if all is well."""

    seed: int
    calls: int
    seconds: float
    steps: int
    digest: str
    problem: str


def simulate(seed: int) -> Outcome:
    """Carry out the plan of a seed."""
    plan = draw(seed)
    simulation = Simulation(plan)
    problem = ""
    try:
        simulation.run()
    except Exception as error:  # whatever happens in there has a seed, and that is to be told
        problem = f"{type(error).__name__}: {error}"
    seconds = sum(call.seconds for call in plan.calls)
    world = simulation.world
    return Outcome(seed, len(plan.calls), seconds, world.steps, world.digest.hexdigest(), problem)


class Simulation:
    """A plan in a world."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = WallClock(jumps=[(plan.relay_fault_at, plan.clock_jump)])
        self.world = World(
            plan.seed,
            relays=plan.relays,
            transceivers=plan.transceivers,
            spray=plan.spray,
            clock=self.clock,
        )
        self.clients: dict[int, CallPlan] = {}
        self._chance = Random(f"run {plan.seed}")
        self._forger: Forger | None = None
        if plan.forger_interval is not None:
            self._forger = Forger(self.world, self._chance, plan.forger_interval)

    def run(self) -> None:
        """Raises AssertionError, above all `Violation`, when something does not hold."""
        plan, world = self.plan, self.world
        for call in plan.calls:
            world.later(call.start, self._start, call)
        if plan.relay_fault is not None:
            world.later(
                plan.relay_fault_at, world.relays[0].die if plan.relay_fault == "dies" else world.relays[0].forget
            )
        if plan.backend_fault_at is not None:
            world.later(plan.backend_fault_at, world.transceivers[0].lose_backend)
        with traced_keys(world.watch.keys):
            world.run(plan.end + 1.0)
            if self._forger is not None:
                self._forger.stop()
            for client in world.clients:
                client.vanish()
            self._wait_until_freed()
        self._judge()

    # Calls

    def _start(self, plan: CallPlan) -> None:
        world = self.world
        if not world.transceivers[plan.transceiver].serves:
            return  # its backend is away: the offer would be answered 503
        client = world.call(
            plan.transceiver,
            impairment=plan.impairment,
            behaviour=plan.behaviour,
            audio_format=plan.audio_format,
            setup=plan.setup,
            srtp_profiles=(plan.profile,),
        )
        self.clients[client.number] = plan
        if plan.outage_after is not None:
            changes = outage(world.now + plan.outage_after, plan.outage_seconds, plan.impairment)
            client.uplink.change(changes)
            client.downlink.change(changes)
        if plan.rebinds_after is not None:
            world.later(plan.rebinds_after, self._rebind, client)
        if plan.restarts_after is not None:
            world.later(plan.restarts_after, self._restart, client)
        world.later(plan.seconds, self._end, client, plan.ending)
        self._talk_once_connected(client)

    def _talk_once_connected(self, client: Client) -> None:
        if client.connected and client.closed is None:
            client.talk()
            for _ in range(self.plan.attackers):
                self._attack(client)
        elif client.closed is None and client.present:
            self.world.later(0.02, self._talk_once_connected, client)

    def _rebind(self, client: Client) -> None:
        client.address = (client.address[0], self._chance.randint(1024, 65535))

    def _restart(self, client: Client) -> None:
        if client.connected and client.closed is None and client.present and self.world.find(client) is not None:
            self.world.restart_ice(client)

    def _end(self, client: Client, ending: Ending) -> None:
        world = self.world
        client.next_frame = None
        call = world.find(client)
        there = world.transceivers[self.clients[client.number].transceiver]
        if ending == "leave":
            client.core.close(world.now)
        elif ending == "vanish":
            client.vanish()
        elif call is not None and ending == "hang_up":
            there.switchboard.end(call, EndReason.HANGUP, "", world.now)
        elif call is not None:
            there.backend.hang_up(client.call_id)
        world.touch(client)
        world.touch(there)

    def _attack(self, victim: Client) -> None:
        """Make a call in one's own name, and once it is connected send from the victim's address."""
        world = self.world
        transceiver = self._chance.randrange(len(world.transceivers))
        if world.transceivers[transceiver].serves:
            attacker = world.call(transceiver, behaviour="silent")
            world.later(self._chance.choice((0.0, 1.0)), self._spoof, attacker, victim)

    def _spoof(self, attacker: Client, victim: Client) -> None:
        attacker.honest = False
        attacker.address = victim.address
        if attacker.connected and attacker.closed is None:
            attacker.talk()

    # The end

    def _wait_until_freed(self) -> None:
        world, limit = self.world, self.world.now + FREED_SECONDS
        while world.watch.running or (left := world.watch.left_over()):
            if world.now >= limit:
                left = f"calls {world.watch.running}" if world.watch.running else left
                raise Violation(f"{FREED_SECONDS:g} s after the last call there is still {left}")
            world.run(10.0)

    def _judge(self) -> None:
        ends = {
            event.call.id: event
            for there in self.world.transceivers
            for event in there.events
            if isinstance(event, CallEnded)
        }
        for client in self.world.clients:
            plan, end = self.clients.get(client.number), ends[client.call_id]
            if end.error is not None or end.reason is EndReason.BACKEND_ERROR:
                raise Violation(f"{client.call_id} ended by {end.reason}: {end.detail}")
            if plan is not None:
                connected = client.connected and end.call.session.was_connected
                self._judge_end(client, plan, end, connected)
                if connected and client.said and not self.plan.spray and end.reason is not EndReason.BACKEND_LOST:
                    self._judge_audio(client, plan, end.call.session.counters.srtp_early)

    def _judge_end(self, client: Client, plan: CallPlan, end: CallEnded, connected: bool) -> None:
        good = set(GOOD_REASONS[plan.ending])
        if self.plan.backend_fault_at is not None and plan.transceiver == 0:
            good.add(EndReason.BACKEND_LOST)
        if not connected and end.reason is not EndReason.BACKEND_LOST:
            good |= SETUP_REASONS
            if not self.plan.spray and self.plan.relay_fault is None and plan.outage_after is None:
                raise Violation(f"{client.call_id} never connected: {end.reason} {end.detail}")
        if plan.ending == "backend":
            good.add(EndReason.PEER_SILENT)  # what was said is played first, if anybody is there to hear it
        if end.reason not in good:
            raise Violation(f"{client.call_id}, to {plan.ending}, ended by {end.reason}: {end.detail}")

    def _judge_audio(self, client: Client, plan: CallPlan, early: int) -> None:
        """Where nothing broke most of what was said is heard; where something did, it flows again. `early` packets came
        while the end of the handshake was still under way."""
        up, down = self.world.watch.up[client.call_id], self.world.watch.down[client.number]
        ended, troubles, said = plan.start + plan.seconds, self._troubles(plan), len(client.said) - early
        answered = plan.behaviour != "silent"
        if not troubles and said > 0:
            share = _share(plan.impairment, said)
            if up.packets < share * said:
                raise Violation(f"{client.call_id}: {up.packets} of {said} packets heard, not {share:.0%}")
            if answered and down.packets < share**2 * said * 0.8 - 30:
                raise Violation(f"{client.call_id}: {down.packets} packets came, {said} were said")
        if not troubles:
            return
        last = min(up.last_at, down.last_at) if answered else up.last_at
        if max(troubles) < ended - RECOVERY_SECONDS and last < ended - STALL_SECONDS:
            raise Violation(f"{client.call_id}: trouble at {troubles}, and nothing heard since {last:.1f}")

    def _troubles(self, plan: CallPlan) -> list[float]:
        """When that was over which audio may not have survived at once."""
        ended = plan.start + plan.seconds
        troubles = []
        if self.plan.relay_fault is not None and self.plan.relay_fault_at < ended:
            troubles.append(self.plan.relay_fault_at)
        if plan.rebinds_after is not None:
            troubles.append(plan.start + plan.rebinds_after)
        if plan.outage_after is not None:
            troubles.append(plan.start + plan.outage_after + plan.outage_seconds)
        return troubles


def _share(impairment: Impairment, count: int) -> float:
    """Return the share of packets that certainly arrives in time: four standard deviations below the mean."""
    bursts = impairment.bursts
    lost, length = impairment.loss, 1.0
    if bursts is not None:
        lost, length = lost + bursts.enter / (bursts.enter + bursts.leave), 1 / bursts.leave
    late = 0.45 if impairment.jitter > 0.05 else 0.05
    return max(0.0, 1 - lost - late - 4 * sqrt(lost * (2 * length - 1) / count))
