"""Scenarios by seed: all invariants hold, the same seed gives the same bytes, and planted bugs are found."""

import base64
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.formats import TICKS_PER_MS
from antiphon_common.ownership import OwnershipTable
from antiphon_common.routing import TOKEN_SIZE, RouteToken, RouteTokens
from antiphon_common.sequence import ReplayWindow
from antiphon_relay.forwarder import Forwarder
from antiphon_transceiver.audio import jitter_buffer
from antiphon_transceiver.backends import BackendCall
from antiphon_transceiver.backends import connection as link
from antiphon_transceiver.sctp.chunks import Data
from antiphon_transceiver.sctp.reassembly import MessageReassembler, StreamMessage, _Run
from support.sim import actors
from support.sim.scenario import SimulationOutcome, simulate
from support.sim.scenario_plan import CallPlan, ScenarioPlan, draw_plan
from support.sim.simulate import Progress

SEEDS = range(1, 13)
MOST_SIMULATIONS = 40
"""Number of simulations within which a planted bug must be found."""

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_invariants_of_a_scenario_hold(seed: int) -> None:
    assert simulate(seed).problem == ""


def test_a_seed_gives_the_same_bytes_in_every_process() -> None:
    """Python's hash seed does not matter."""
    script = "from support.sim.scenario import simulate; print([simulate(seed).digest for seed in (3, 4)])"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[simulate(seed).digest for seed in (3, 4)]}\n".encode()
    assert simulate(3).digest != simulate(4).digest


def test_scenario_plans_contain_every_kind_of_event() -> None:
    """The plans simulated in CI contain each fault, network, attack and caller property several times."""
    plans = [draw_plan(seed) for seed in range(1, 151)]
    calls = [call for plan in plans for call in plan.calls]
    of_plans: dict[str, Callable[[ScenarioPlan], object]] = {
        "a relay that forgets": lambda plan: plan.relay_fault == "forgets",
        "a relay that dies": lambda plan: plan.relay_fault == "dies",
        "a relay that begins with another clock": lambda plan: plan.clock_jump,
        "a relay's clock set": lambda plan: sets(plan, "relay"),
        "a transceiver's clock set": lambda plan: sets(plan, "transceiver"),
        "a caller's clock set": lambda plan: sets(plan, "client"),
        "a clock set back by minutes": lambda plan: any(jump.seconds < -60 for jump in plan.clock_jumps),
        "another key": lambda plan: plan.mints_at is not None and 0 < plan.mints_at < plan.end,
        "a key that retires": lambda plan: plan.retires_at is not None and plan.retires_at < plan.end,
        "packets sprayed over relays": lambda plan: plan.spray,
        "a backend that dies": lambda plan: plan.backend_fault == "dies",
        "a backend that hangs": lambda plan: plan.backend_fault == "hangs",
        "a backend with one address, gone for long": lambda plan: plan.backend_fault and plan.backends == 1,
        "an off-path attacker": lambda plan: plan.attacker_interval,
        "callers with a spoofed address": lambda plan: plan.spoofing_callers,
    }
    of_calls: dict[str, Callable[[CallPlan], object]] = {
        "losses": lambda call: call.impairment.loss,
        "bursts of losses": lambda call: call.impairment.bursts,
        "delay": lambda call: call.impairment.delay,
        "jitter": lambda call: call.impairment.jitter,
        "reordering": lambda call: call.impairment.reordering,
        "duplication": lambda call: call.impairment.duplication,
        "a narrow path": lambda call: call.is_narrow,
        "a short MTU": lambda call: call.impairment.mtu <= 1280,
        "a NAT rebinding": lambda call: call.rebinds_after and not call.changes_address,
        "another address": lambda call: call.rebinds_after and call.changes_address,
        "an ICE restart": lambda call: call.restarts_after,
        "an outage": lambda call: call.outage_after and not call.outage_blocks,
        "UDP blocked for a while": lambda call: call.outage_after and call.outage_blocks,
        "UDP blocked from the beginning": lambda call: call.blocked,
        "a client that vanishes": lambda call: call.ending == "vanish",
        "RED": lambda call: call.codec.startswith("red"),
        "PCMU": lambda call: call.codec == "pcmu",
        "PCMA": lambda call: call.codec == "pcma",
        "audio decoded for the backend": lambda call: call.audio_format != "opus",
        "retransmission": lambda call: call.rtp == "nack",
        "header extensions": lambda call: call.rtp == "browser",
        "data channels": lambda call: call.event_interval,
        "another data channel": lambda call: call.event_interval and call.side_channel,
        "a long call": lambda call: call.seconds > 50,
    }
    drawn = {what: sum(bool(is_so(plan)) for plan in plans) for what, is_so in of_plans.items()}
    drawn |= {what: sum(bool(is_so(call)) for call in calls) for what, is_so in of_calls.items()}
    print(f"\nof {len(plans)} simulations with {len(calls)} calls: {drawn}")
    assert [what for what, count in drawn.items() if count < 3] == []


def sets(plan: ScenarioPlan, machine: str) -> bool:
    return any(jump.machine == machine for jump in plan.clock_jumps)


def forget_replays(patch: pytest.MonkeyPatch) -> None:
    """The replay window accepts every packet."""
    patch.setattr(ReplayWindow, "check", lambda self, index: True)


def trust_tokens(patch: pytest.MonkeyPatch) -> None:
    """Route tokens are accepted without authentication."""

    def read(self: RouteTokens, ufrag: bytes, unix_now: float) -> RouteToken:
        key = self._keys.accepting(ALPHABET.find(ufrag[:1]), unix_now)
        if key is None or len(ufrag) != TOKEN_SIZE:
            raise DecodeError("no key of this id")
        block = self._opener(key).update(base64.b64decode(ufrag[1:] + b"=="))
        return RouteToken(*struct.unpack("!HIHI4x", block))

    patch.setattr(RouteTokens, "read", read)


def give_paths_away(patch: pytest.MonkeyPatch) -> None:
    """Any call may answer on a path, even on one confirmed for another call."""
    patch.setattr(OwnershipTable, "may_answer", lambda self, key, owner, now: True)


def release_unordered(patch: pytest.MonkeyPatch) -> None:
    """The jitter buffer does not sort reordered packets."""
    patch.setattr(jitter_buffer, "insort", list.append)


def grant_twice(patch: pytest.MonkeyPatch) -> None:
    """Backends receive twice the credit for the audio played."""

    class TwiceGrantedCall(BackendCall):
        def _return_credit(self, ticks: int) -> None:
            super()._return_credit(ticks)
            if ticks >= 100 * TICKS_PER_MS:
                super()._return_credit(ticks)

    patch.setattr(link, "BackendCall", TwiceGrantedCall)


def deliver_unordered(patch: pytest.MonkeyPatch) -> None:
    """SCTP delivers a message once it is complete, regardless of its order."""

    def finish(self: MessageReassembler, chunk: Data, message: StreamMessage) -> list[StreamMessage]:
        return [message]

    patch.setattr(MessageReassembler, "_finish", finish)


def glue_messages(patch: pytest.MonkeyPatch) -> None:
    """SCTP joins chunks with consecutive TSNs into one message."""
    patch.setattr(_Run, "continues", lambda self, other: True)


def keep_headers(patch: pytest.MonkeyPatch) -> None:
    """A relay keeps the link header of a path after the rotation of its key."""
    headers: dict[tuple[Forwarder, bytes], bytes] = {}

    class StaleHeadersForwarder(Forwarder):
        def _uplink_header(self, key: bytes) -> bytes:
            return headers.setdefault((self, key), super()._uplink_header(key))

    patch.setattr(actors, "Forwarder", StaleHeadersForwarder)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (forget_replays, "taken twice|out of order"),
        (trust_tokens, "token that was never minted"),
        (give_paths_away, "gave|packets received"),
        (release_unordered, "after"),
        (grant_twice, "overrun|wait to be played"),
        (deliver_unordered, "event"),
        (glue_messages, "event|received an error"),
        (keep_headers, "received|ended by"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_bug_is_found(plant: Plant, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    failure = first_failure()
    assert failure is not None, f"{MOST_SIMULATIONS} simulations found nothing"
    print(f"\n{plant.__name__}: seed {failure.seed}: {failure.problem}", end="")
    assert any(word in failure.problem for word in found.split("|"))


def test_a_failed_seed_fails_again_with_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release_unordered(monkeypatch)
    failure = first_failure()
    assert failure is not None
    assert simulate(failure.seed) == failure
    progress = Progress(1)
    progress.add(failure, plan=False)
    assert not progress.finish()
    assert f"--calls 1 --seed {failure.seed}" in capsys.readouterr().out


def first_failure() -> SimulationOutcome | None:
    outcomes = (simulate(seed) for seed in range(1, MOST_SIMULATIONS + 1))
    return next((outcome for outcome in outcomes if outcome.problem), None)
