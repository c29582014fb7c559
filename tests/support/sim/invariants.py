"""What must hold once a simulation is over: every call ended as it should, and was heard and read while it lasted."""

from collections.abc import Mapping
from math import sqrt

from antiphon.client.call import Connected
from antiphon_transceiver.backends.call import RESUME_SECONDS
from antiphon_transceiver.call_router import CallEnded
from antiphon_transceiver.outcome import EndReason
from support.net.impairment import Impairment
from support.sim.actors import Client
from support.sim.scenario_plan import CallPlan, Ending, Plan
from support.sim.step_invariants import Violation
from support.sim.world import World

RECOVERY_SECONDS = 10.0
"""After a fault audio flows again: at the client's next check, which comes within 6 s, and a round trip or two."""

STALL_SECONDS = 1.5
"""The longest silence that is no stall: delay, jitter and a burst of losses."""

SETUP_REASONS = frozenset((EndReason.NO_STUN, EndReason.DTLS_TIMEOUT, EndReason.PEER_SILENT))
GOOD_REASONS: dict[Ending, frozenset[EndReason]] = {
    "leave": frozenset((EndReason.CLOSE_NOTIFY, EndReason.PEER_SILENT)),
    "vanish": frozenset((EndReason.PEER_SILENT,)),
    "hang_up": frozenset((EndReason.HANGUP,)),
    "backend": frozenset((EndReason.BACKEND_ENDED, EndReason.PEER_SILENT)),
}
"""A close_notify may be lost, and then the silence ends the call; and what a backend said before it hung up is played
first, if anybody is there to hear it."""


def judge(plan: Plan, world: World, calls: Mapping[int, CallPlan]) -> None:
    """Raise `Violation` for what does not hold; `calls` are those that were planned, by their clients' numbers."""
    ends = {
        event.call.id: event for there in world.transceivers for event in there.events if isinstance(event, CallEnded)
    }
    half_connected = 0
    for client in world.clients:
        end = ends[client.call_id]
        if end.error is not None or end.reason is EndReason.BACKEND_ERROR:
            raise Violation(f"{client.call_id} ended by {end.reason}: {end.detail}")
        half_connected += client.connected != end.call.session.was_connected
        if client.number in calls:
            _Verdict(plan, world, calls[client.number], client, end).judge()
    if world.watch.keys.unpaired != 2 * half_connected:
        raise Violation(f"{world.watch.keys.unpaired} keys of one side alone, in {half_connected} calls")


class _Verdict:
    """Judges one call."""

    def __init__(self, plan: Plan, world: World, call: CallPlan, client: Client, end: CallEnded) -> None:
        self._plan = plan
        self._world = world
        self._call = call
        self._client = client
        self._end = end
        self._ended = call.start + call.seconds
        self._troubles = self._find_troubles()

    def judge(self) -> None:
        client, end = self._client, self._end
        connected = client.connected and end.call.session.was_connected
        self._judge_end(connected=connected)
        if too_long := client.uplink.too_long + client.downlink.too_long:
            raise Violation(f"{client.call_id}: {too_long} datagrams were longer than its path takes")
        if connected and not self._plan.spray and end.reason is not EndReason.BACKEND_LOST:
            if client.said:
                self._judge_audio(len(client.said) - end.call.session.counters.srtp_early)
            if not self._call.is_filled:
                self._judge_letters()

    def _judge_end(self, *, connected: bool) -> None:
        plan, call, client, end = self._plan, self._call, self._client, self._end
        good = set(GOOD_REASONS[call.ending])
        if client.call_id in self._world.watch.hit and plan.backends == 1 and plan.backend_away > RESUME_SECONDS:
            good.add(EndReason.BACKEND_LOST)
        if not connected:
            good |= SETUP_REASONS
            if plan.forger_interval is not None:
                good.add(EndReason.BAD_CREDENTIALS)  # its checks are all that came
            excused = plan.spray or plan.relay_fault is not None or call.outage_after is not None or call.blocked
            if not excused and end.reason is not EndReason.BACKEND_LOST:
                raise Violation(f"{client.call_id} never connected: {end.reason} {end.detail}")
        elif call.blocked:
            raise Violation(f"{client.call_id} connected where UDP is blocked")
        if end.reason not in good:
            raise Violation(f"{client.call_id}, to {call.ending}, ended by {end.reason}: {end.detail}")

    def _judge_audio(self, said: int) -> None:
        """Where nothing broke most of what was said is heard; where something did, it flows again."""
        call, client, troubles = self._call, self._client, self._troubles
        up, down = self._world.watch.up[client.call_id], self._world.watch.down[client.number]
        answered = call.behaviour != "silent"
        if not troubles and said > 0 and not call.is_crowded:
            share = _share(call.impairment, said)
            if up.packets < share * said:
                raise Violation(f"{client.call_id}: {up.packets} of {said} packets heard, not {share:.0%}")
            if answered and down.packets < share**2 * said * 0.8 - 30:
                raise Violation(f"{client.call_id}: {down.packets} packets came, {said} were said")
        last = min(up.last_at, down.last_at) if answered else up.last_at
        if troubles and max(troubles) < self._ended - RECOVERY_SECONDS and last < self._ended - STALL_SECONDS:
            raise Violation(f"{client.call_id}: trouble at {troubles}, and nothing heard since {last:.1f}")

    def _judge_letters(self) -> None:
        """What was written in good time has come. What was before the call connected waited for that."""
        watch, call_id, now = self._world.watch, self._client.call_id, self._ended - self._connected_after()
        if self._troubles:
            now -= RECOVERY_SECONDS
            if max(self._troubles) > now:
                return
        for mail, whose in ((watch.mail_up[call_id], "client"), (watch.mail_down[call_id], "backend")):
            missing = mail.missing(now)
            if missing:
                raise Violation(f"{call_id}: {missing} letters of its {whose} never came")

    def _connected_after(self) -> float:
        return next(event.after for event in self._client.events if isinstance(event, Connected))

    def _find_troubles(self) -> list[float]:
        """When that was over which audio may not have survived at once."""
        plan, call = self._plan, self._call
        troubles = []
        if plan.relay_fault is not None and plan.relay_fault_at < self._ended:
            troubles.append(plan.relay_fault_at)
        if call.rebinds_after is not None:
            troubles.append(call.start + call.rebinds_after)
        if call.outage_after is not None:
            troubles.append(call.start + call.outage_after + call.outage_seconds)
        hit = self._world.watch.hit.get(self._client.call_id)
        if hit is not None:
            troubles.append(hit + (plan.backend_away if plan.backends == 1 else 0.0))
        return troubles


def _share(impairment: Impairment, count: int) -> float:
    """Return the share of packets that certainly arrives in time: four standard deviations below the mean."""
    bursts = impairment.bursts
    lost, length = impairment.loss, 1.0
    if bursts is not None:
        lost, length = lost + bursts.enter / (bursts.enter + bursts.leave), 1 / bursts.leave
    late = 0.45 if impairment.jitter > 0.05 else 0.05
    return max(0.0, 1 - lost - late - 4 * sqrt(lost * (2 * length - 1) / count))
