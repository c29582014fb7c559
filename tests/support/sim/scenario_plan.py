"""The plan of one simulation, drawn from a seed: networks, faults, attackers, and the properties of each caller."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal

import msgspec

from antiphon_common.control import Setup
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.srtp import SrtpProfile
from support.net.impairment import PERFECT, Bursts, Impairment

Ending = Literal["leave", "vanish", "hang_up", "backend"]
RelayFault = Literal["forgets", "dies"]
BackendFault = Literal["dies", "hangs"]
Machine = Literal["relay", "transceiver", "client"]

SHORTEST, LONGEST = 5.0, 60.0
"""Seconds of a call."""

_EXTENSIONS = {AUDIO_LEVEL: 1, ABSOLUTE_SEND_TIME: 2, TRANSPORT_SEQUENCE: 3, MID: 4}
RTP_OPTIONS = {
    "plain": RtpOptions(),
    "browser": RtpOptions(_EXTENSIONS, "0", ("transport-cc",), reduced_size=True),
    "nack": RtpOptions(_EXTENSIONS, "0", ("nack", "transport-cc")),
}
"""Header extensions and feedback that callers offer: none, a browser's, and retransmission as well."""


NARROW = 100_000
"""Bytes per second below which a path is narrow."""

RETIRE_SECONDS = 20.0
"""Seconds from the use of a new key everywhere to the retirement of the old one. Link headers are remade meanwhile."""
OUTLIVES_SECONDS = 15.0
"""Seconds by which a call outlasts the key it began with: verified headers stay valid for 10 s."""


class CallPlan(msgspec.Struct, frozen=True):
    """One call; times in seconds."""

    start: float
    seconds: float
    transceiver: int
    impairment: Impairment
    behaviour: str
    audio_format: str
    codec: str
    rtp: str
    setup: Setup
    profile: SrtpProfile
    event_interval: float | None
    """Mean seconds between two events over the data channel. None for a call without data channels."""
    side_channel: bool
    ending: Ending
    rebinds_after: float | None
    """When a NAT rebinding gives the client another port."""
    changes_address: bool
    """Whether the rebinding gives it another address too."""
    restarts_after: float | None
    """When the client restarts ICE, which interrupts no audio."""
    outage_after: float | None
    outage_seconds: float
    outage_blocks: bool
    """Whether a firewall blocks UDP meanwhile; otherwise all packets are lost."""
    blocked: bool
    """Whether UDP is blocked from the beginning, so that the call cannot connect."""

    @property
    def changes_path(self) -> bool:
        """Whether the relay needs the call's token again after it connected."""
        return self.rebinds_after is not None or self.outage_after is not None

    @property
    def is_narrow(self) -> bool:
        """Whether the capacity of the path is little more than that of audio."""
        return self.impairment.rate < NARROW

    @property
    def is_saturated(self) -> bool:
        """Whether audio alone fills a narrow path, so that other packets may be lost."""
        return self.is_narrow and self.codec != "opus"

    @property
    def is_congested(self) -> bool:
        """Whether events or redundancy share a narrow path with audio, so that audio may be lost."""
        return self.is_narrow and (self.event_interval is not None or self.codec.startswith("red"))


class ClockJump(msgspec.Struct, frozen=True):
    """At the time `at`, the wall clock of the machine with this index is set forward or back by `seconds`."""

    at: float
    machine: Machine
    index: int
    seconds: float


class ScenarioPlan(msgspec.Struct, frozen=True):
    """One simulation. The relay fault is that of the first relay, the backend fault that of the first transceiver's.

    A restarted relay has its wall clock set by `clock_jump`. A new key is used from `mints_at` on, and the first one
    retires at `retires_at`, by clocks without jumps.
    """

    seed: int
    relays: int
    transceivers: int
    backends: int
    spray: bool
    attacker_interval: float | None
    spoofing_callers: int
    relay_fault: RelayFault | None
    relay_fault_at: float
    backend_fault: BackendFault | None
    backend_fault_at: float
    backend_away: float
    clock_jump: float
    clock_jumps: tuple[ClockJump, ...]
    mints_at: float | None
    retires_at: float | None
    calls: tuple[CallPlan, ...]

    @property
    def end(self) -> float:
        return max(call.start + call.seconds for call in self.calls)


def draw_plan(seed: int) -> ScenarioPlan:
    """Return the plan of a seed."""
    chance = Random(f"plan {seed}")
    relays, transceivers = chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2))
    calls = tuple(_draw_call(chance, transceivers) for _ in range(chance.choice((1, 1, 2, 3))))
    end = max(call.start + call.seconds for call in calls)
    relay_fault: RelayFault | None = chance.choice((None, None, "forgets", "dies" if relays > 1 else "forgets"))
    backend_fault: BackendFault | None = chance.choice((None, None, None, None, "dies", "hangs"))
    backends, spray = chance.choice((1, 2, 3)), relays > 1 and chance.random() < 0.2
    jumps = _draw_jumps(times := Random(f"times {seed}"), relays, transceivers, calls)
    paths_stay = relay_fault is None and not spray and not any(call.changes_path for call in calls)
    mints_at = times.choice((None, times.uniform(-10.0, 10.0), times.uniform(0.0, 5.0)))
    retires_at = mints_at + _apart(jumps) + RETIRE_SECONDS if mints_at is not None and paths_stay else None
    if retires_at is not None and retires_at + OUTLIVES_SECONDS < LONGEST:
        calls = (msgspec.structs.replace(calls[0], seconds=retires_at + OUTLIVES_SECONDS), *calls[1:])
    return ScenarioPlan(
        seed=seed,
        relays=relays,
        transceivers=transceivers,
        backends=backends,
        spray=spray,
        attacker_interval=chance.choice((None, 0.05, 0.2)),
        spoofing_callers=chance.choice((0, 0, 1, 2)),
        relay_fault=relay_fault,
        relay_fault_at=chance.uniform(1.0, end),
        backend_fault=backend_fault,
        backend_fault_at=chance.uniform(1.0, end),
        backend_away=chance.choice((0.2, 2.0, 15.0)),
        clock_jump=chance.choice((0.0, 3600.0, -86400.0)) if relay_fault == "forgets" else 0.0,
        clock_jumps=jumps,
        mints_at=mints_at,
        retires_at=retires_at,
        calls=calls,
    )


def _draw_jumps(chance: Random, relays: int, transceivers: int, calls: Sequence[CallPlan]) -> tuple[ClockJump, ...]:
    there: dict[Machine, int] = {"relay": relays, "transceiver": transceivers, "client": len(calls)}
    end = max(call.start + call.seconds for call in calls)
    machines = [chance.choice(tuple(there)) for _ in range(chance.choice((0, 1, 2, 4)))]
    return tuple(
        ClockJump(
            at=chance.uniform(0.0, end),
            machine=machine,
            index=chance.randrange(there[machine]),
            seconds=chance.choice((-1, 1)) * chance.choice((0.5, 5.0, 60.0, 300.0)),
        )
        for machine in machines
    )


def _apart(jumps: Iterable[ClockJump]) -> float:
    """Return the largest difference between two clocks in seconds."""
    return sum(abs(jump.seconds) for jump in jumps)


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
        codec=chance.choice(("opus",) * 12 + ("red1", "red2") * 2 + ("pcmu", "pcma")),
        rtp=chance.choice(tuple(RTP_OPTIONS)),
        setup=chance.choice(("actpass", "actpass", "active", "passive")),
        profile=chance.choice((SrtpProfile.AEAD_AES_128_GCM, *SrtpProfile)),
        event_interval=chance.choice((None, 0.1, 0.5, 2.0)),
        side_channel=chance.random() < 0.2,
        ending=chance.choice(("leave", "leave", "vanish", "hang_up", "backend")),
        rebinds_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        changes_address=chance.random() < 0.5,
        restarts_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_seconds=chance.choice((0.3, 1.0, 3.0)),
        outage_blocks=chance.random() < 0.5,
        blocked=chance.random() < 0.02,
    )


def _draw_network(chance: Random) -> Impairment:
    """Return an impairment. Most networks have none or one kind, some have all kinds."""
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
