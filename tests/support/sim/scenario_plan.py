"""What happens in one simulation, drawn from a seed: networks, faults, attackers, and what each caller is like."""

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
"""Bytes a second."""

RETIRE_SECONDS = 20.0
"""From when everybody uses another key until anybody has the old one retired: link headers are made anew meanwhile."""
OUTLIVES_SECONDS = 15.0
"""How much longer a call lasts than the key it began with: headers that were good count as such for 10 s."""


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
    letters_every: float | None
    """How often something is written over the data channel; None for a call without."""
    side_channel: bool
    ending: Ending
    rebinds_after: float | None
    """When a NAT gives the client another port."""
    moves: bool
    """Whether it gives it another address as well."""
    restarts_after: float | None
    """When the client restarts ICE, which costs no audio."""
    outage_after: float | None
    outage_seconds: float
    outage_blocks: bool
    """Whether a firewall blocks UDP meanwhile, and not only losses."""
    blocked: bool
    """Whether UDP is blocked from the beginning, so that nothing can come of the call."""

    @property
    def changes_path(self) -> bool:
        """Whether it needs its token again, once it is connected."""
        return self.rebinds_after is not None or self.outage_after is not None

    @property
    def is_narrow(self) -> bool:
        """Whether the path carries little more than audio."""
        return self.impairment.rate < NARROW

    @property
    def is_filled(self) -> bool:
        """Whether audio alone fills such a path, so that nothing else may come through."""
        return self.is_narrow and self.codec != "opus"

    @property
    def is_crowded(self) -> bool:
        """Whether more than audio alone goes over such a path, which may cost some of it."""
        return self.is_narrow and (self.letters_every is not None or self.codec.startswith("red"))


class ClockJump(msgspec.Struct, frozen=True):
    """The wall clock of a machine that runs, the one with this index, is set forward by some seconds, or back."""

    at: float
    machine: Machine
    index: int
    seconds: float


class Plan(msgspec.Struct, frozen=True):
    """One simulation. `relay_fault` befalls the first relay, the backend's the first address of the first transceiver;
    a relay that starts anew finds its wall clock set by `clock_jump`. Another key is used from `mints_at` on, and the
    first one retires at `retires_at`, by clocks that nobody has set."""

    seed: int
    relays: int
    transceivers: int
    backends: int
    spray: bool
    forger_interval: float | None
    attackers: int
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


def draw(seed: int) -> Plan:
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
    return Plan(
        seed=seed,
        relays=relays,
        transceivers=transceivers,
        backends=backends,
        spray=spray,
        forger_interval=chance.choice((None, 0.05, 0.2)),
        attackers=chance.choice((0, 0, 1, 2)),
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
    """Return how many seconds clocks are apart at most."""
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
        letters_every=chance.choice((None, 0.1, 0.5, 2.0)),
        side_channel=chance.random() < 0.2,
        ending=chance.choice(("leave", "leave", "vanish", "hang_up", "backend")),
        rebinds_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        moves=chance.random() < 0.5,
        restarts_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_after=chance.uniform(1.0, seconds) if chance.random() < 0.15 else None,
        outage_seconds=chance.choice((0.3, 1.0, 3.0)),
        outage_blocks=chance.random() < 0.5,
        blocked=chance.random() < 0.02,
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
