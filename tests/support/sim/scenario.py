"""Runs the scenario of a seed in a world, and checks its invariants."""

from random import Random
from typing import NamedTuple

from antiphon_transceiver.outcome import EndReason
from support.net.impairment import CUT, Change, Impairment
from support.sim.actors import SimulatedClient
from support.sim.caller_codecs import caller_codec
from support.sim.event_exchange import EventExchange
from support.sim.invariants import check_outcome
from support.sim.key_ledger import tracing_keys
from support.sim.off_path_attacker import OffPathAttacker
from support.sim.scenario_plan import RTP_OPTIONS, CallPlan, ClockJump, Ending, ScenarioPlan, draw_plan
from support.sim.step_invariants import Violation
from support.sim.world import Rotation, World

FREED_SECONDS = 130.0
"""Seconds after the last call within which all state is freed: silent peers after 30 s, unreleased flows after 60 s."""

BLOCKED = Impairment(blocked=True)


class SimulationOutcome(NamedTuple):
    """The outcome of a simulation. `seconds` is the sum over its calls. `problem` is empty if all invariants hold."""

    seed: int
    calls: int
    seconds: float
    steps: int
    digest: str
    problem: str


def simulate(seed: int) -> SimulationOutcome:
    """Run the scenario of a seed. Errors are reported in the outcome, not raised."""
    plan = draw_plan(seed)
    simulation = Simulation(plan)
    problem = ""
    try:
        simulation.run()
    except Exception as error:  # reported with its seed
        problem = f"{type(error).__name__}: {error}"
    seconds = sum(call.seconds for call in plan.calls)
    world = simulation.world
    return SimulationOutcome(seed, len(plan.calls), seconds, world.steps, world.digest.hexdigest(), problem)


class Simulation:
    """A scenario plan and the world that it runs in. Call `run`."""

    def __init__(self, plan: ScenarioPlan) -> None:
        self.plan = plan
        self.world = World(
            plan.seed,
            relays=plan.relays,
            transceivers=plan.transceivers,
            backends=plan.backends,
            spray=plan.spray,
            rotation=None if plan.mints_at is None else Rotation(plan.mints_at, plan.retires_at),
        )
        self.clients: dict[int, CallPlan] = {}
        self._chance = Random(f"run {plan.seed}")
        self._attacker: OffPathAttacker | None = None
        if plan.attacker_interval is not None:
            self._attacker = OffPathAttacker(self.world, self._chance, plan.attacker_interval)

    def run(self) -> None:
        """Run the whole plan. Raises `Violation`, or another AssertionError, when an invariant does not hold."""
        plan, world = self.plan, self.world
        for call in plan.calls:
            world.later(call.start, self._start, call)
        for jump in plan.clock_jumps:
            world.later(jump.at, self._set_clock, jump)
        if plan.relay_fault is not None:
            world.later(plan.relay_fault_at, self._break_relay)
        if plan.backend_fault is not None:
            backend = world.transceivers[0].backends[0]
            fault = backend.die if plan.backend_fault == "dies" else backend.hang
            world.later(plan.backend_fault_at, fault, plan.backend_away)
        with tracing_keys(world.invariants.keys):
            world.run(plan.end + 1.0)
            if self._attacker is not None:
                self._attacker.stop()
            for client in world.clients:
                client.vanish()
            self._wait_until_freed()
        check_outcome(plan, world, self.clients)

    def _break_relay(self) -> None:
        relay = self.world.relays[0]
        if self.plan.relay_fault == "dies":
            relay.die()
        else:
            relay.set_clock(self.plan.clock_jump)
            relay.forget()

    def _set_clock(self, jump: ClockJump) -> None:
        if jump.machine == "relay":
            self.world.relays[jump.index].set_clock(jump.seconds)
        elif jump.machine == "transceiver":
            self.world.transceivers[jump.index].set_clock(jump.seconds)
        else:
            for client in self.world.clients:
                if self.clients.get(client.number) is self.plan.calls[jump.index]:
                    client.set_clock(jump.seconds)

    # Calls

    def _start(self, plan: CallPlan) -> None:
        world = self.world
        if not world.transceivers[plan.transceiver].serves:
            return  # its backend is away: the offer would be rejected with 503
        client = world.call(
            plan.transceiver,
            impairment=BLOCKED if plan.blocked else plan.impairment,
            behaviour=plan.behaviour,
            audio_format=plan.audio_format,
            setup=plan.setup,
            srtp_profiles=(plan.profile,),
            codec=caller_codec(plan.codec),
            options=RTP_OPTIONS[plan.rtp],
            data_channels=plan.event_interval is not None,
        )
        self.clients[client.number] = plan
        if plan.outage_after is not None and not plan.blocked:
            begins = world.now + plan.outage_after
            outage = BLOCKED if plan.outage_blocks else CUT
            changes = Change(begins, outage), Change(begins + plan.outage_seconds, plan.impairment)
            client.uplink.change(changes)
            client.downlink.change(changes)
        if plan.rebinds_after is not None:
            world.later(plan.rebinds_after, self._rebind, client, plan.changes_address)
        if plan.restarts_after is not None:
            world.later(plan.restarts_after, self._restart, client)
        if plan.event_interval is not None:
            narrow, side = plan.is_narrow, plan.side_channel and not plan.is_narrow
            EventExchange(world, client, self._chance, plan.event_interval, narrow=narrow, side=side)
        world.later(plan.seconds, self._end, client, plan.ending)
        self._talk_when_connected(client)

    def _talk_when_connected(self, client: SimulatedClient) -> None:
        if client.connected and client.closed is None:
            client.talk()
            self._spoof_once_validated(client)
        elif client.closed is None and client.present:
            self.world.later(0.02, self._talk_when_connected, client)

    def _rebind(self, client: SimulatedClient, moves: bool) -> None:
        host = f"203.0.114.{client.number + 1}" if moves else client.address[0]
        client.address = (host, self._chance.randint(1024, 65535))

    def _restart(self, client: SimulatedClient) -> None:
        if client.connected and client.closed is None and client.present and self.world.find(client) is not None:
            self.world.restart_ice(client)

    def _end(self, client: SimulatedClient, ending: Ending) -> None:
        world = self.world
        client.next_frame = None
        call = world.find(client)
        there = world.transceivers[self.clients[client.number].transceiver]
        if ending == "leave":
            client.core.close(world.now)
        elif ending == "vanish":
            client.vanish()
        elif call is not None and ending == "hang_up":
            there.router.end(call, EndReason.HANGUP, "", world.now)
        elif call is not None:
            there.hang_up(client.call_id)
        world.touch(client)
        world.touch(there)

    def _spoof_once_validated(self, victim: SimulatedClient) -> None:
        """Start calls that spoof the victim's address once its path is validated: before, any source may own it."""
        call = self.world.find(victim)
        if call is None:
            return
        agent = call.agent
        if agent.selected is None or not agent.is_validated(agent.selected):
            self.world.later(0.02, self._spoof_once_validated, victim)
            return
        for _ in range(self.plan.spoofing_callers):
            self._call_and_spoof(victim)

    def _call_and_spoof(self, victim: SimulatedClient) -> None:
        """Make a call that sends from the victim's address once it is connected."""
        world = self.world
        transceiver = self._chance.randrange(len(world.transceivers))
        if world.transceivers[transceiver].serves:
            attacker = world.call(transceiver, behaviour="silent")
            world.later(self._chance.choice((0.0, 1.0)), self._spoof, attacker, victim)

    def _spoof(self, attacker: SimulatedClient, victim: SimulatedClient) -> None:
        attacker.honest = False
        attacker.address = victim.address
        if attacker.connected and attacker.closed is None:
            attacker.talk()

    # The end

    def _wait_until_freed(self) -> None:
        world, limit = self.world, self.world.now + FREED_SECONDS
        while world.invariants.running or (left := world.invariants.remaining_state()):
            if world.now >= limit:
                left = f"calls {world.invariants.running}" if world.invariants.running else left
                raise Violation(f"{FREED_SECONDS:g} s after the last call there is still {left}")
            world.run(10.0)
