import random
from collections.abc import Iterable, Mapping
from math import inf

import pytest

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.stun import AttributeType, ErrorCode, Message, MessageClass, error_response, success_response
from antiphon_transceiver import ice
from antiphon_transceiver.ice import ControllingAgent, IceFailed, IceFailure, PathSelected
from support.net.impairment import PERFECT, Impairment
from support.sim.memory_network import MemoryNetwork

SERVER = IceParameters("ServerUfragOf23IceChars", "server-password-of-32-characters")
CLIENT = IceParameters("clnt", "client-password-24-chars")
SERVER_PATH = Path.of("198.51.100.2", 2002)
ELSEWHERE = Path.of("192.0.2.99", 5555)


class IcePair(MemoryNetwork[ice.IceEvent, ice.IceEvent]):
    """The client's agent on the left, the server's on the right."""

    def __init__(self, impairment: Impairment = PERFECT, *, seed: int = 0, consent_use_candidate: bool = True) -> None:
        source = random.Random(seed)
        self.client = ControllingAgent(CLIENT, source.randbytes, consent_use_candidate=consent_use_candidate)
        self.server = ice.ControlledAgent(SERVER, CLIENT, source.randbytes)
        super().__init__(self.client, self.server, impairment, seed=seed)

    def connect(self, *candidates: Path) -> None:
        self.client.start(SERVER, candidates or (self.right.path,), self.now)
        assert self.run(self.connected, limit=self.now + 10)

    def connected(self) -> bool:
        server = self.server.selected
        return self.client.selected is not None and server is not None and self.server.is_validated(server)


@pytest.mark.parametrize("host", ["198.51.100.2", "2001:db8::2"])
def test_connects_in_two_round_trips_and_learns_its_own_address(host: str) -> None:
    call = IcePair(Impairment(delay=0.025))
    call.right.path = Path.of(host, 3478)
    call.left.path = Path.of(host, 4711)
    call.connect()
    assert call.now == pytest.approx(0.1)
    assert outcomes(call.left.events) == [PathSelected(call.right.path)]
    assert call.client.mapped == (call.left.path.address, call.left.path.port)
    assert call.server.selected == call.left.path


@pytest.mark.parametrize("seed", range(30))
def test_connects_on_a_bad_network(seed: int) -> None:
    print(f"seed {seed}")
    call = IcePair(Impairment(loss=0.2, duplication=0.1, reordering=0.1, delay=0.025), seed=seed)
    call.connect()


def test_selects_the_one_candidate_that_answers() -> None:
    call = IcePair()
    silent = [Path.of("203.0.113.1", 1000 + n) for n in range(5)]
    call.connect(*silent[:3], SERVER_PATH, *silent[3:])
    assert outcomes(call.left.events) == [PathSelected(SERVER_PATH)]
    assert call.left.misdirected == 3


@pytest.mark.parametrize("consent_use_candidate", [True, False])
def test_consent_lasts_an_hour(consent_use_candidate: bool) -> None:
    call = IcePair(Impairment(loss=0.05, delay=0.025), consent_use_candidate=consent_use_candidate)
    call.connect()
    call.run(limit=3600)
    assert outcomes(call.left.events) == [PathSelected(SERVER_PATH)]
    assert not [event for event in call.right.events if isinstance(event, ice.IceFailed)]


@pytest.mark.parametrize("consent_use_candidate", [True, False])
def test_the_server_selects_a_new_address_within_a_check_interval_and_its_disconnect_timeout(
    consent_use_candidate: bool,
) -> None:
    call = IcePair(consent_use_candidate=consent_use_candidate)
    call.connect()
    call.run(limit=10)
    call.left.path = Path.of("203.0.113.77", 6000)
    patience = 0.0 if consent_use_candidate else ice.DISCONNECT_AFTER
    assert call.run(lambda: call.server.selected == call.left.path, limit=call.now + 6.0 + patience)
    assert call.server.is_validated(call.left.path)


def test_the_agent_fails_when_no_check_is_answered() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes)
    client.start(SERVER, [SERVER_PATH, ELSEWHERE], 0.0)
    while (deadline := client.poll_timeout()) < inf:
        client.handle_timeout(deadline)
    assert outcomes(iter(client.poll_event, None))[0] == IceFailed(IceFailure.NO_ANSWER)


def test_fails_thirty_seconds_after_the_peer_fell_silent() -> None:
    call = IcePair()
    call.connect()
    call.left.rewrite = lambda datagram: []
    call.run(limit=60)
    assert outcomes(call.left.events) == [PathSelected(SERVER_PATH), IceFailed(IceFailure.CONSENT_EXPIRED)]
    assert call.client.poll_timeout() == inf


def test_nominates_another_candidate_on_demand() -> None:
    call = IcePair()
    call.connect()
    call.client.add_candidate(ELSEWHERE)
    call.right.path = ELSEWHERE
    call.client.nominate(ELSEWHERE, call.now)
    assert call.run(lambda: call.client.selected == ELSEWHERE, limit=call.now + 1)


def outcomes(events: Iterable[ice.IceEvent]) -> list[ice.IceEvent]:
    """Return the final events of the agent, without intermediate ones."""
    return [event for event in events if isinstance(event, PathSelected | IceFailed)]


def request(attributes: Mapping[int, bytes], *, password: str = CLIENT.password) -> bytes:
    name = f"{CLIENT.ufrag}:{SERVER.ufrag}".encode()
    return Message(MessageClass.REQUEST, b"t" * 12, {AttributeType.USERNAME: name, **attributes}).encode(
        password.encode()
    )


def sent(client: ControllingAgent) -> list[tuple[Message, Path | None]]:
    transmits = iter(client.poll_transmit, None)
    return [(Message.decode(transmit.data), transmit.path) for transmit in transmits if transmit is not None]


def test_a_check_from_an_unknown_address_is_followed_by_a_check_to_it() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes)
    client.start(SERVER, [], 0.0)
    client.receive_datagram(request({AttributeType.ICE_CONTROLLED: bytes(8)}), ELSEWHERE, 0.0)
    (answer, to), (check, checked) = sent(client)
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.xor_mapped_address == (ELSEWHERE.address, ELSEWHERE.port)
    assert check.message_class is MessageClass.REQUEST
    assert not check.use_candidate
    assert to == checked == ELSEWHERE


def test_answers_checks_before_the_peers_credentials_are_set_but_sends_none() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes)
    client.receive_datagram(request({}), ELSEWHERE, 0.0)
    ((answer, _),) = sent(client)
    assert answer.message_class is MessageClass.SUCCESS
    client.receive_datagram(request({}, password="x" * 24), ELSEWHERE, 0.0)
    assert not sent(client)
    assert client.counters.unauthenticated == 1


def test_a_role_conflict_is_answered_with_487_or_ends_the_agent_by_the_tie_breaker() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes, tie_breaker=1000)
    client.receive_datagram(request({AttributeType.ICE_CONTROLLING: (1000).to_bytes(8, "big")}), ELSEWHERE, 0.0)
    ((answer, _),) = sent(client)
    assert answer.error_code == (487, "Role Conflict")
    client.receive_datagram(request({AttributeType.ICE_CONTROLLING: (1001).to_bytes(8, "big")}), ELSEWHERE, 0.0)
    assert outcomes(iter(client.poll_event, None))[0] == IceFailed(IceFailure.ROLE_CONFLICT)


def test_a_peer_that_reports_a_role_conflict_ends_the_agent() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes)
    client.start(SERVER, [SERVER_PATH, ELSEWHERE], 0.0)
    ((check, _),) = sent(client)
    refusal = error_response(check, ErrorCode.ROLE_CONFLICT).encode(SERVER.password.encode())
    client.receive_datagram(refusal, SERVER_PATH, 0.0)
    assert outcomes(iter(client.poll_event, None))[0] == IceFailed(IceFailure.ROLE_CONFLICT)


def test_a_response_without_integrity_or_by_another_path_is_dropped() -> None:
    client = ControllingAgent(CLIENT, random.Random(1).randbytes)
    client.start(SERVER, [SERVER_PATH], 0.0)
    ((check, _),) = sent(client)
    success = success_response(check, ELSEWHERE.address, 1)
    client.receive_datagram(success.encode(), SERVER_PATH, 0.0)
    client.receive_datagram(success.encode(SERVER.password.encode()), ELSEWHERE, 0.0)
    client.receive_datagram(error_response(check, ErrorCode.ROLE_CONFLICT).encode(), SERVER_PATH, 0.0)
    assert not outcomes(iter(client.poll_event, None))
    assert not sent(client)
    client.receive_datagram(success.encode(SERVER.password.encode()), SERVER_PATH, 0.0)
    ((nomination, _),) = sent(client)
    assert nomination.use_candidate


def test_mutated_datagrams_raise_no_exception() -> None:
    seed = 3
    print(f"seed {seed}")
    source = random.Random(seed)
    client = ControllingAgent(CLIENT, source.randbytes)
    client.start(SERVER, [SERVER_PATH], 0.0)
    ((check, _),) = sent(client)
    samples = [
        request({AttributeType.ICE_CONTROLLING: b"short"}),
        success_response(check, ELSEWHERE.address, 1).encode(SERVER.password.encode()),
    ]
    for _ in range(5_000):
        datagram = bytearray(source.choice(samples))
        for _ in range(source.randrange(4)):
            datagram[source.randrange(len(datagram))] = source.randrange(256)
        client.receive_datagram(bytes(datagram), SERVER_PATH, 0.0)
