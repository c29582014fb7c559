"""Carries out in a world what was drawn from a seed."""

from random import Random
from typing import NamedTuple

from antiphon_transceiver.outcome import EndReason
from support.net.impairment import CUT, Change, Impairment
from support.sim.actors import Client
from support.sim.caller_codecs import caller_codec
from support.sim.event_exchange import Correspondence
from support.sim.invariants import judge
from support.sim.key_ledger import traced_keys
from support.sim.off_path_attacker import Forger
from support.sim.scenario_plan import RTP_OPTIONS, CallPlan, ClockJump, Ending, Plan, draw
from support.sim.step_invariants import Violation
from support.sim.world import Rotation, World

FREED_SECONDS = 130.0
"""After the last call everything is freed: a silent peer after 30 s, flows that nobody released after 60."""

BLOCKED = Impairment(blocked=True)


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
        self._forger: Forger | None = None
        if plan.forger_interval is not None:
            self._forger = Forger(self.world, self._chance, plan.forger_interval)

    def run(self) -> None:
        """Raises AssertionError, above all `Violation`, when something does not hold."""
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
        with traced_keys(world.watch.keys):
            world.run(plan.end + 1.0)
            if self._forger is not None:
                self._forger.stop()
            for client in world.clients:
                client.vanish()
            self._wait_until_freed()
        judge(plan, world, self.clients)

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
            return  # its backend is away: the offer would be answered 503
        client = world.call(
            plan.transceiver,
            impairment=BLOCKED if plan.blocked else plan.impairment,
            behaviour=plan.behaviour,
            audio_format=plan.audio_format,
            setup=plan.setup,
            srtp_profiles=(plan.profile,),
            codec=caller_codec(plan.codec),
            options=RTP_OPTIONS[plan.rtp],
            data_channels=plan.letters_every is not None,
        )
        self.clients[client.number] = plan
        if plan.outage_after is not None and not plan.blocked:
            begins = world.now + plan.outage_after
            outage = BLOCKED if plan.outage_blocks else CUT
            changes = Change(begins, outage), Change(begins + plan.outage_seconds, plan.impairment)
            client.uplink.change(changes)
            client.downlink.change(changes)
        if plan.rebinds_after is not None:
            world.later(plan.rebinds_after, self._rebind, client, plan.moves)
        if plan.restarts_after is not None:
            world.later(plan.restarts_after, self._restart, client)
        if plan.letters_every is not None:
            narrow, side = plan.is_narrow, plan.side_channel and not plan.is_narrow
            Correspondence(world, client, self._chance, plan.letters_every, narrow=narrow, side=side)
        world.later(plan.seconds, self._end, client, plan.ending)
        self._talk_once_connected(client)

    def _talk_once_connected(self, client: Client) -> None:
        if client.connected and client.closed is None:
            client.talk()
            self._attack_once_confirmed(client)
        elif client.closed is None and client.present:
            self.world.later(0.02, self._talk_once_connected, client)

    def _rebind(self, client: Client, moves: bool) -> None:
        host = f"203.0.114.{client.number + 1}" if moves else client.address[0]
        client.address = (host, self._chance.randint(1024, 65535))

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
            there.router.end(call, EndReason.HANGUP, "", world.now)
        elif call is not None:
            there.hang_up(client.call_id)
        world.touch(client)
        world.touch(there)

    def _attack_once_confirmed(self, victim: Client) -> None:
        """Before that its address is whoever's it was last heard of, so that strangers lock nobody out."""
        call = self.world.find(victim)
        if call is None:
            return
        agent = call.session.agent
        if agent.selected is None or not agent.is_validated(agent.selected):
            self.world.later(0.02, self._attack_once_confirmed, victim)
            return
        for _ in range(self.plan.attackers):
            self._attack(victim)

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
