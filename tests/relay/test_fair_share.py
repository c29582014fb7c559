"""The packets that an overloaded relay still forwards."""

from collections import Counter, deque

import pytest

from antiphon_common.link import DOWNLINK
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.sockaddr import encode_address
from antiphon_relay.flows import Datagram
from support.sim.relay_harness import Relay, Transceiver, client

READ_SECONDS, FORWARD_SECONDS = 3e-6, 9e-6
"""Cost of a packet in this model: 83,000 a second can be forwarded."""
QUEUE = 4096
"""Packets that the kernel queues; all further ones are dropped."""
LIVE = 0.999
"""Part of the packets that is forwarded for an owner below its share, at least."""


class Overload:
    """A relay, the queue of one of its sockets, and the packets of each owner's calls."""

    def __init__(self, *, upwards: bool = True) -> None:
        self.relay = Relay()
        self._upwards = upwards
        self._ingress = next(iter(self.relay.core.ingresses.values()))
        self.offers: list[tuple[float, list[Datagram]]] = []

    def offer(self, owner: Transceiver, rate: float, numbers: range) -> None:
        """Send packets from or to these clients at a rate in packets per second."""
        data = bytes((0x80, len(self.offers)))
        link = encode_address(owner.link.host, owner.link.port)
        header = self.relay.link_keys.header
        paths = [client(number) for number in numbers]
        if self._upwards:
            self.offers.append((rate, [(data, encode_address(path.host, path.port)) for path in paths]))
        else:
            self.offers.append((rate, [(header(path, DOWNLINK, 0) + data, link) for path in paths]))

    def run(self, seconds: float) -> list[float]:
        """Return the share of each offer that was forwarded, without the first fifth, in which overload is detected."""
        start, queue, full = self.relay.now, deque[Datagram](), 0
        due = [start] * len(self.offers)
        offered, came = Counter[int](), Counter[int]()
        while self.relay.now < start + seconds:
            counts = self.relay.now > start + seconds / 5
            for index, (rate, datagrams) in enumerate(self.offers):
                while due[index] <= self.relay.now:
                    due[index] += 1 / rate
                    offered[index] += counts
                    if len(queue) < QUEUE:
                        queue.append(datagrams[int(due[index] * rate) % len(datagrams)])
            batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            full = full + 1 if len(batch) == BATCH else 0
            out = self._forward(batch, overloaded=full >= 4)
            came.update(data[-1] for data, _ in out if counts)
            self.relay.now += max(1e-4, len(batch) * READ_SECONDS + len(out) * FORWARD_SECONDS)
        return [came[index] / offered[index] for index in range(len(self.offers))]

    def _forward(self, batch: list[Datagram], *, overloaded: bool) -> list[Datagram]:
        core, now = self.relay.core, self.relay.now
        if self._upwards:
            core.forward_uplink(self._ingress, batch, now, overloaded=overloaded)
        else:
            core.forward_downlink(batch, now, overloaded=overloaded)
        outbox = core.link_outbox if self._upwards else self._ingress.outbox
        out = outbox.copy()
        outbox.clear()
        return out


@pytest.mark.parametrize("upwards", [True, False], ids=["uplink", "downlink"])
def test_a_flood_of_one_owner_does_not_affect_other_owners(upwards: bool) -> None:
    overload = Overload(upwards=upwards)
    flooded, small, large = (overload.relay.transceiver(port) for port in (9000, 9001, 9002))
    for owner, rate, numbers in (
        (flooded, 150_000, range(1000)),
        (small, 2_000, range(1000, 1040)),
        (large, 10_000, range(2000, 2200)),
    ):
        for number in numbers:
            owner.confirm(client(number))
        overload.offer(owner, rate, numbers)
    shares = overload.run(1.0)
    assert shares[0] > 0.1
    assert min(shares[1:]) >= LIVE, shares
    counters = overload.relay.counters
    counted, other = (counters.shed, counters.shed_downlink)[:: 1 if upwards else -1]
    assert counted > 10_000
    assert other == 0


def test_confirmed_flows_precede_provisional_ones_which_precede_unknown_paths() -> None:
    overload = Overload()
    owner = overload.relay.transceiver()
    for number in range(1000):
        owner.send(b"\x80", client(number))
    for number in range(400):
        owner.confirm(client(number))
    overload.offer(owner, 20_000, range(400))
    overload.offer(owner, 100_000, range(400, 1000))
    overload.offer(owner, 40_000, range(1000, 2000))
    confirmed, provisional, unknown = overload.run(1.0)
    assert confirmed >= LIVE
    assert 0.1 < provisional < 0.5
    assert unknown == 0


def test_a_single_owner_gets_the_whole_capacity() -> None:
    overload = Overload()
    owner = overload.relay.transceiver()
    for number in range(1000):
        owner.confirm(client(number))
    overload.offer(owner, 200_000, range(1000))
    (came,) = overload.run(1.0)
    assert came * 200_000 * (READ_SECONDS + FORWARD_SECONDS) > 0.95


def test_a_flood_by_one_flow_does_not_use_its_owners_share() -> None:
    overload = Overload()
    owner, other = overload.relay.transceiver(9000), overload.relay.transceiver(9001)
    for number in range(200):
        (owner if number < 190 else other).confirm(client(number))
    overload.offer(owner, 200_000, range(1))
    overload.offer(owner, 15_000, range(1, 190))
    overload.offer(other, 1_000, range(190, 200))
    shares = overload.run(1.0)
    assert min(shares[1:]) >= 0.99, shares


def test_a_short_burst_loses_nothing_and_limits_end_with_the_overload() -> None:
    overload = Overload()
    owner, flooded = overload.relay.transceiver(9000), overload.relay.transceiver(9001)
    for number in range(1200):
        (owner if number < 200 else flooded).confirm(client(number))
    overload.offer(owner, 10_000, range(200))
    overload.offer(flooded, 200_000, range(200, 1200))
    overload.run(0.04)
    assert overload.relay.counters.shed == 0
    overload.run(0.5)
    assert overload.relay.counters.shed > 0
    overload.offers.pop()
    overload.run(0.5)
    before = overload.relay.counters.shed
    overload.offer(flooded, 20_000, range(200, 1200))
    assert min(overload.run(0.5)) >= LIVE
    assert overload.relay.counters.shed == before
