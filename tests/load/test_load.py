"""Many calls at once, with separate services. Opus passes through unchanged, and the speech is encoded beforehand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import trio

from antiphon.shell.load_run import LoadGenerator, LoadSettings
from support.peers import aiortc_callers
from support.processes.services import Deployment, apart
from support.processes.usage import Usage, open_descriptors

CALLS = 100
AIORTC_CALLS = 2
TALK_SECONDS = 10.0
RATE = 25.0
"""Calls set up per second."""

DUE = 0.999
"""Least share of packets that comes back, and that passes each hop."""

STEP = 20
STEP_SECONDS = 2.0
BUSY = 0.8
SEARCH_SECONDS = 45.0

CLOSED_SECONDS = 1.0
SILENT_SECONDS = 30.0
KILLED_CALLS = 20


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    with apart(audio="opus", capacity=1000) as deployment:
        yield deployment


async def test_a_hundred_calls_lose_no_packets_and_free_all_state(deployment: Deployment) -> None:
    relay = deployment.services["relay"]
    descriptors = open_descriptors(relay.pid)
    with aiortc_calls(deployment.url) as aiortc:
        async with trio.open_nursery() as nursery:
            load = LoadGenerator(LoadSettings(deployment.url, rate=RATE))
            await nursery.start(load.run)
            await load.add(CALLS - AIORTC_CALLS)
            assert load.connected == CALLS - AIORTC_CALLS, [report.failure for report in load.reports]
            assert deployment.calls() == CALLS
            await load.talk(TALK_SECONDS)
            assert open_descriptors(relay.pid) <= descriptors + 2  # and none of them is a call's
            out, _ = await trio.to_thread.run_sync(aiortc.communicate)
            theirs = aiortc_callers.Counts(*map(int, out.split()))
            await load.stop_speech()
            sent, received = load.datagrams
            check_hops(deployment, sent + theirs.sent, received + theirs.received)
            load.hang_up()
            seconds = await trio.to_thread.run_sync(seconds_until_freed, deployment, CLOSED_SECONDS + 1)
            nursery.cancel_scope.cancel()
    spoken = sum(report.sent for report in load.reports)
    received = sum(report.received for report in load.reports)
    print(
        f"{CALLS} calls: {received} of {spoken} packets came back, {theirs.rtp_received} of {theirs.rtp_sent} aiortc's"
    )
    print(f"freed {seconds:.2f} s after close_notify")
    assert received >= DUE * spoken
    assert theirs.rtp_received >= DUE * theirs.rtp_sent
    assert seconds <= CLOSED_SECONDS


async def test_calls_connect_until_one_process_is_busy(deployment: Deployment) -> None:
    """Calls are added until one process uses 80 % of a processor, or the time is over."""
    pids = {name: service.pid for name, service in deployment.services.items()} | {"client": os.getpid()}
    async with trio.open_nursery() as nursery:
        load = LoadGenerator(LoadSettings(deployment.url, rate=RATE))
        await nursery.start(load.run)
        await load.add(CALLS - STEP)
        busy = {"nobody": 0.0}
        with trio.move_on_after(SEARCH_SECONDS):
            while max(busy.values()) < BUSY:
                await load.add(STEP)
                usage = Usage(pids)
                await load.talk(STEP_SECONDS)
                busy = usage.busy()
        calls, all_calls = load.connected, len(load.reports)
        await load.stop_speech()
        load.hang_up()
        nursery.cancel_scope.cancel()
    busiest = sorted(busy, key=lambda name: -busy[name])
    shares = ", ".join(f"{name} {busy[name]:.0%}" for name in busiest)
    print(f"\n{calls} calls until the {busiest[0]} was {busy[busiest[0]]:.0%} busy (of one processor each: {shares})")
    assert calls >= CALLS
    assert calls == all_calls


def test_calls_of_killed_clients_end_after_consent_expires(deployment: Deployment) -> None:
    command = [sys.executable, "-m", "antiphon", "load", deployment.url, "--calls", str(KILLED_CALLS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        assert f"{KILLED_CALLS} of {KILLED_CALLS} calls connected" in client.stderr.readline()
        assert deployment.calls() == KILLED_CALLS
        client.kill()
    seconds = seconds_until_freed(deployment, SILENT_SECONDS + 5)
    print(f"\nfreed {seconds:.1f} s after {KILLED_CALLS} clients fell silent")
    assert seconds <= SILENT_SECONDS + 1


@contextmanager
def aiortc_calls(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run connected calls of aiortc, which send audio until their standard input ends (`communicate` closes it)."""
    command = [sys.executable, "-m", "support.peers.aiortc_callers", url, str(AIORTC_CALLS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def check_hops(deployment: Deployment, sent: int, received: int) -> None:
    """Compare the packets received and sent at each hop: client, relay, transceiver and back."""
    relay, transceiver = deployment.relay_metrics(), deployment.transceiver_metrics()
    media = deployment.services["relay"].ready.split()[0].partition("=")[2]
    up = [
        sent,
        relay[f'antiphon_relay_socket_received_total{{socket="{media}"}}'],
        relay['antiphon_relay_socket_sent_total{socket="link"}'],
        transceiver["antiphon_transceiver_socket_received_total"],
    ]
    down = [
        transceiver["antiphon_transceiver_socket_sent_total"],
        relay['antiphon_relay_socket_received_total{socket="link"}'],
        relay[f'antiphon_relay_socket_sent_total{{socket="{media}"}}'] + relay["antiphon_relay_messages_total"],
        received + relay["antiphon_relay_messages_total"],
    ]
    print("\ndatagrams up   client, relay, relay, transceiver:", *map(int, up))
    print("datagrams down transceiver, relay, relay, client:", *map(int, down))
    for counts in (up, down):
        assert all(after >= DUE * before for before, after in pairwise(counts))


def seconds_until_freed(deployment: Deployment, limit: float) -> float:
    """Wait until transceiver and relay hold no call, path or flow. Return the seconds that took."""
    began = time.monotonic()
    while True:
        transceiver, relay = deployment.transceiver_metrics(), deployment.relay_metrics()
        held = [transceiver["antiphon_calls"], transceiver["antiphon_transceiver_paths"], relay["antiphon_relay_flows"]]
        elapsed = time.monotonic() - began
        if not any(held):
            return elapsed
        assert elapsed < limit, f"after {limit:g} s there are still (calls, paths, flows) {held}"
        time.sleep(0.02)
