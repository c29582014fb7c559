"""The invariants checked after a simulation: how each call ended, and that its audio and events arrived."""

from collections.abc import Mapping
from math import sqrt

from antiphon.client.call import ClientConnected
from antiphon_transceiver.backends.call import RESUME_SECONDS
from antiphon_transceiver.call_router import CallEnded
from antiphon_transceiver.outcome import EndReason
from support.net.impairment import Impairment
from support.sim.actors import SimulatedClient
from support.sim.scenario_plan import CallPlan, Ending, ScenarioPlan
from support.sim.step_invariants import Violation
from support.sim.world import World

RECOVERY_SECONDS = 10.0
"""Seconds within which audio resumes after a fault: the client's next check, within 6 s, and some round trips."""

STALL_SECONDS = 1.5
"""Longest gap, in seconds, that delay, jitter and burst losses explain."""

SETUP_REASONS = frozenset((EndReason.NO_STUN, EndReason.DTLS_TIMEOUT, EndReason.PEER_SILENT))
GOOD_REASONS: dict[Ending, frozenset[EndReason]] = {
    "leave": frozenset((EndReason.CLOSE_NOTIFY, EndReason.PEER_SILENT)),
    "vanish": frozenset((EndReason.PEER_SILENT,)),
    "hang_up": frozenset((EndReason.HANGUP,)),
    "backend": frozenset((EndReason.BACKEND_ENDED, EndReason.PEER_SILENT)),
}
"""Accepted end reasons for each ending. A close_notify may be lost, and then expired consent ends the call. A backend's
audio is played before its hang-up takes effect, and the client may vanish meanwhile."""


def check_outcome(plan: ScenarioPlan, world: World, calls: Mapping[int, CallPlan]) -> None:
    """Check all calls. `calls` are those of the plan, by the numbers of their clients.

    Raises `Violation` when an invariant does not hold.
    """
    ends = {
        event.call.id: event for there in world.transceivers for event in there.events if isinstance(event, CallEnded)
    }
    half_connected = 0
    for client in world.clients:
        end = ends[client.call_id]
        if end.error is not None or end.reason is EndReason.BACKEND_ERROR:
            raise Violation(f"{client.call_id} ended by {end.reason}: {end.detail}")
        half_connected += client.connected != end.call.connected
        if client.number in calls:
            _CallCheck(plan, world, calls[client.number], client, end).check()
    if world.invariants.keys.unpaired != 2 * half_connected:
        raise Violation(f"{world.invariants.keys.unpaired} keys of one side alone, in {half_connected} calls")


class _CallCheck:
    """Checks one call of the plan. `check` raises `Violation`."""

    def __init__(
        self, plan: ScenarioPlan, world: World, call: CallPlan, client: SimulatedClient, end: CallEnded
    ) -> None:
        self._plan = plan
        self._world = world
        self._call = call
        self._client = client
        self._end = end
        self._ended = call.start + call.seconds
        self._recoveries = self._recovery_times()

    def check(self) -> None:
        client, end = self._client, self._end
        connected = client.connected and end.call.connected
        self._check_end(connected=connected)
        if too_long := client.uplink.too_long + client.downlink.too_long:
            raise Violation(f"{client.call_id}: {too_long} datagrams were longer than its path takes")
        if connected and not self._plan.spray and end.reason is not EndReason.BACKEND_LOST:
            if client.sent:
                self._check_audio(len(client.sent) - end.call.transport.counters.srtp_early)
            if not self._call.is_saturated:
                self._check_events()

    def _check_end(self, *, connected: bool) -> None:
        plan, call, client, end = self._plan, self._call, self._client, self._end
        good = set(GOOD_REASONS[call.ending])
        if client.call_id in self._world.invariants.hit and plan.backends == 1 and plan.backend_away > RESUME_SECONDS:
            good.add(EndReason.BACKEND_LOST)
        if not connected:
            good |= SETUP_REASONS
            if plan.attacker_interval is not None:
                good.add(EndReason.BAD_CREDENTIALS)  # only the attacker's checks arrived
            excused = plan.spray or plan.relay_fault is not None or call.outage_after is not None or call.blocked
            if not excused and end.reason is not EndReason.BACKEND_LOST:
                raise Violation(f"{client.call_id} never connected: {end.reason} {end.detail}")
        elif call.blocked:
            raise Violation(f"{client.call_id} connected where UDP is blocked")
        if end.reason not in good:
            raise Violation(f"{client.call_id}, to {call.ending}, ended by {end.reason}: {end.detail}")

    def _check_audio(self, said: int) -> None:
        """Check that audio arrives: most of it without a fault, and again after a fault."""
        call, client, recoveries = self._call, self._client, self._recoveries
        up, down = self._world.invariants.up[client.call_id], self._world.invariants.down[client.number]
        answered = call.behaviour != "silent"
        if not recoveries and said > 0 and not call.is_congested:
            share = _expected_share(call.impairment, said)
            if up.packets < share * said:
                raise Violation(f"{client.call_id}: {up.packets} of {said} packets received, not {share:.0%}")
            if answered and down.packets < share**2 * said * 0.8 - 30:
                raise Violation(f"{client.call_id}: {down.packets} packets came back of {said} sent")
        last = min(up.last_at, down.last_at) if answered else up.last_at
        if recoveries and max(recoveries) < self._ended - RECOVERY_SECONDS and last < self._ended - STALL_SECONDS:
            raise Violation(f"{client.call_id}: fault at {recoveries}, and nothing received since {last:.1f}")

    def _check_events(self) -> None:
        """Check that no event is overdue. Events sent before the call connected were delayed until then."""
        invariants, call_id, now = self._world.invariants, self._client.call_id, self._ended - self._connected_after()
        if self._recoveries:
            now -= RECOVERY_SECONDS
            if max(self._recoveries) > now:
                return
        for events, sender in ((invariants.events_up[call_id], "client"), (invariants.events_down[call_id], "backend")):
            missing = events.missing(now)
            if missing:
                raise Violation(f"{call_id}: {missing} events of its {sender} never arrived")

    def _connected_after(self) -> float:
        return next(event.after for event in self._client.events if isinstance(event, ClientConnected))

    def _recovery_times(self) -> list[float]:
        """Return the times at which faults ended that may have interrupted the audio."""
        plan, call = self._plan, self._call
        recoveries = []
        if plan.relay_fault is not None and plan.relay_fault_at < self._ended:
            recoveries.append(plan.relay_fault_at)
        if call.rebinds_after is not None:
            recoveries.append(call.start + call.rebinds_after)
        if call.outage_after is not None:
            recoveries.append(call.start + call.outage_after + call.outage_seconds)
        hit = self._world.invariants.hit.get(self._client.call_id)
        if hit is not None:
            recoveries.append(hit + (plan.backend_away if plan.backends == 1 else 0.0))
        return recoveries


def _expected_share(impairment: Impairment, count: int) -> float:
    """Return the least share of packets that arrives in time: four standard deviations below the mean."""
    bursts = impairment.bursts
    lost, length = impairment.loss, 1.0
    if bursts is not None:
        lost, length = lost + bursts.enter / (bursts.enter + bursts.leave), 1 / bursts.leave
    late = 0.45 if impairment.jitter > 0.05 else 0.05
    return max(0.0, 1 - lost - late - 4 * sqrt(lost * (2 * length - 1) / count))
