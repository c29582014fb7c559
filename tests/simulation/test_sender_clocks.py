"""Senders with wrong timestamps: slow, fast, uneven, stopped, jumping. All audio is played."""

from random import Random

import pytest

from antiphon_common.control import Codec
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import MIN_TARGET_DELAY
from antiphon_transceiver.rtp import RedEncoder
from support.sim.sender_clocks import FRAME, Clock, NetworkModel, Packet, ReceivingStream, number_of, opus, rtp, speak

CLEAN = NetworkModel()
NETWORKS = {
    "clean": CLEAN,
    "jitter": NetworkModel(jitter=0.02),
    "loss": NetworkModel(loss=0.05),
    "all": NetworkModel(loss=0.03, jitter=0.02, reordering=0.02),
}
AT_END = 5
"""Frames concealed at the end of a stream, which nothing announces."""


def exact(number: int, now: float) -> int:
    return round(now * 48_000)


def stopped_in_pauses(number: int, now: float) -> int:
    return number * 960


def still(number: int, now: float) -> int:
    return 123_456_789


def at_random(number: int, now: float) -> int:
    return Random(number).getrandbits(32)


def leaping(number: int, now: float) -> int:
    """A clock set forward or back every three seconds, by up to a minute."""
    leaps = Random(9)
    return exact(number, now) + sum(leaps.randint(-48_000 * 60, 48_000 * 60) for _ in range(number // 150))


def with_rate(rate: float) -> Clock:
    """A clock with `rate` ticks per packet instead of 960, which stops in pauses."""
    return lambda number, now: round(number * rate)


def running_with_rate(rate: float) -> Clock:
    """A clock with `rate` ticks per packet instead of 960, which runs in pauses."""
    return lambda number, now: round(now * 50 * rate)


def uneven(spread: int) -> Clock:
    return lambda number, now: exact(number, now) + Random(number).randint(-spread, spread)


def in_steps(*steps: int) -> Clock:
    return lambda number, now: number // len(steps) * sum(steps) + sum(steps[: number % len(steps)])


CLOCKS: dict[str, Clock] = {
    "exact": exact,
    **{f"{rate} for 960": with_rate(rate) for rate in (160, 320, 480, 672, 959, 961, 1056, 1920, 2880)},
    **{f"{rate} for 960, running": running_with_rate(rate) for rate in (160, 480, 1920)},
    **{f"uneven by {spread}": uneven(spread) for spread in (1, 2, 8, 48, 240, 700)},
    "953, 964, 960, 967, 956": in_steps(953, 964, 960, 967, 956),
    "959, 961": in_steps(959, 961),
    "stopped in pauses": stopped_in_pauses,
    "still": still,
    "random": at_random,
    "leaping": leaping,
}


def listen(
    clock: Clock, spurts: list[tuple[float, float]], network: NetworkModel = CLEAN, *, seed: int = 1
) -> ReceivingStream:
    print(f"seed {seed}")
    listener = ReceivingStream()
    listener.receive(network.carry(speak(clock, spurts), Random(seed)))
    return listener


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_every_packet_of_a_steady_stream_is_played_without_delay(clock: Clock) -> None:
    listener = listen(clock, [(20, 0)])
    assert listener.numbers == list(range(1000))
    assert [frame.position for _, frame in listener.heard] == [index * 960 for index in range(1000 + AT_END)]
    assert max(now - number * FRAME for number, (now, _) in enumerate(listener.heard[:1000])) < 0.031
    assert len(listener.concealed) == AT_END
    assert listener.stream.uplink.jitter.target_delay <= MIN_TARGET_DELAY + 0.001


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_every_packet_of_a_steady_stream_that_arrives_is_played(clock: Clock, network: NetworkModel) -> None:
    packets = network.carry(speak(clock, [(20, 0)]), Random(2))
    listener = ReceivingStream()
    listener.receive(packets)
    lost = 1000 - len(packets)
    assert len(listener.numbers) >= 0.99 * len(packets)
    assert len(listener.concealed) <= 1.1 * lost + AT_END + 5
    spoken = listener.heard[len(listener.heard) - AT_END - 1].frame.position / 48_000
    assert spoken == pytest.approx(19.98, abs=0.1)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("pause", [0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.48, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("clock", [exact, stopped_in_pauses, still, at_random, running_with_rate(160)])
def test_speech_is_played_after_pauses_of_every_length(clock: Clock, pause: float, network: NetworkModel) -> None:
    packets = network.carry(speak(clock, [(0.8, pause)] * 15), Random(3))
    listener = ReceivingStream()
    listener.receive(packets)
    assert len(listener.numbers) >= 0.96 * len(packets)
    received = [heard for heard in listener.heard if heard.frame.status is FrameStatus.RECEIVED]
    assert received[-1].now - max(packets).arrives < 0.1, "delay is back after each pause"


@pytest.mark.parametrize("marker", [False, True])
@pytest.mark.parametrize("pause", [0.1, 0.2, 0.3, 0.4, 0.5, 2.0])
def test_positions_follow_time_when_the_clock_stops_in_pauses(pause: float, marker: bool) -> None:
    listener = ReceivingStream()
    listener.receive(list(speak(stopped_in_pauses, [(0.8, pause)] * 10, marker=marker)))
    assert listener.numbers == list(range(400))
    for _, frame in listener.heard:
        if frame.data:
            number = number_of(frame.data)
            assert frame.position / 48_000 == pytest.approx(number * FRAME + number // 40 * pause, abs=0.021)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("step", [158, 159, 160, 161, 320, 960])
def test_g711_is_played_with_any_clock(step: int, seed: int) -> None:
    chance = Random(seed)
    print(f"seed {seed}")
    listener = ReceivingStream(Codec("pcmu", 0, 8000), "pcm16/24000")
    listener.receive(
        [
            Packet(index * FRAME, rtp(index, index * step + chance.randint(-1, 1), bytes([index % 128]) * 160, 0))
            for index in range(500)
        ]
    )
    assert [frame.position for _, frame in listener.heard] == [index * 480 for index in range(500 + AT_END)]
    assert len(listener.concealed) == AT_END


@pytest.mark.parametrize("ppm", [-1000, 200])
@pytest.mark.parametrize("device", [-200, 0, 200])
def test_no_audio_is_lost_in_minutes_of_clock_drift(ppm: int, device: int) -> None:
    """Timestamps drift against the audio, and the recording device against our clock."""
    clock = with_rate(960 * (1 + ppm / 1e6))
    packets = [packet._replace(arrives=packet.arrives * (1 + device / 1e6)) for packet in speak(clock, [(120, 0)])]
    listener = ReceivingStream()
    listener.receive(packets)
    assert listener.numbers == list(range(6_000))
    assert len(listener.concealed) == AT_END
    assert listener.stream.uplink.jitter.target_delay <= MIN_TARGET_DELAY + 0.005


@pytest.mark.parametrize("clock", [exact, with_rate(160), with_rate(1920), with_rate(959), uneven(8), uneven(48)])
def test_redundant_blocks_replace_lost_packets_with_any_clock(clock: Clock) -> None:
    red, listener, lost = RedEncoder(111), ReceivingStream(), {40, 41, 60, 90, 130}
    packets = []
    for index in range(150):
        timestamp = clock(index, index * FRAME)
        payload = red.encode(opus(index), timestamp & 0xFFFFFFFF, (1, 2))
        if index not in lost:
            packets.append(Packet(index * FRAME, rtp(index, timestamp, payload, 63)))
    listener.receive(packets)
    assert listener.numbers == list(range(150))
    assert len(listener.concealed) == AT_END


@pytest.mark.parametrize("clock", [*CLOCKS.values()], ids=CLOCKS)
def test_in_band_fec_recovers_lost_packets_with_any_clock(clock: Clock) -> None:
    listener = ReceivingStream()
    lost = range(50, 450, 20)
    listener.receive(
        [
            Packet(index * FRAME, rtp(index, clock(index, index * FRAME), b"\x68\x70" + index.to_bytes(4, "big")))
            for index in range(500)
            if index not in lost
        ]
    )
    recovered = [frame for _, frame in listener.heard if frame.status is FrameStatus.RECOVERED]
    assert [frame.position for frame in recovered] == [index * 960 for index in lost]
    assert len(listener.concealed) == AT_END


def test_the_rate_of_a_clock_that_changes_is_estimated_again() -> None:
    def clock(number: int, now: float) -> int:
        return number * 160 if number < 200 else 32_000 + (number - 200) * 960

    listener = listen(clock, [(8, 0)])
    assert listener.numbers == list(range(400))
    assert [frame.position for _, frame in listener.heard] == [index * 960 for index in range(400 + AT_END)]


def test_the_first_packets_of_a_device_that_wakes_its_network_are_played() -> None:
    """After a pause with a stopped clock, the first packets wait for the radio."""
    packets = []
    for packet in speak(stopped_in_pauses, [(0.8, 0.3)] * 10):
        spurt = packet.media // 1.1 * 1.1
        packets.append(packet._replace(arrives=max(packet.arrives, spurt + 0.06)))
    listener = ReceivingStream()
    listener.receive(packets)
    assert len(listener.numbers) == len(packets)


@pytest.mark.parametrize("clock", [exact, with_rate(160), still])
def test_audio_delayed_by_a_stalled_network_is_not_treated_as_a_pause(clock: Clock) -> None:
    """Late packets are dropped. The delay is normal again once the queue is empty."""
    packets = [
        packet._replace(arrives=5.6 if 5 < packet.media < 5.6 else packet.arrives) for packet in speak(clock, [(10, 0)])
    ]
    listener = ReceivingStream()
    listener.receive(packets)
    assert set(range(500)) - set(listener.numbers) == set(range(251, 273))
    assert listener.heard[-AT_END - 1].frame.position == 499 * 960


def test_no_audio_is_lost_when_a_queue_grows_slowly() -> None:
    """Transit times grow by 100 ms per second for 3 s and fall again."""
    packets = []
    for packet in speak(exact, [(10, 0)]):
        wait = 0.1 * min(max(packet.media - 2, 0), max(8 - packet.media, 0))
        packets.append(packet._replace(arrives=packet.arrives + wait))
    listener = ReceivingStream()
    listener.receive(packets)
    assert listener.numbers == list(range(500))
