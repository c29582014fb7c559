"""Transceivers as processes. One claims another's calls, and the relay forwards their packets to it."""

import time

import httpx

from antiphon_common.control import Load, authorization
from antiphon_common.keys import KeyRing
from support.peers.callers import calling
from support.processes.services import apart, read_metrics
from support.processes.waiting import until_reported

SOON = 10.0
"""Seconds in which a message gets to another process and packets follow, on a machine with other things to do."""


async def test_a_relay_forwards_packets_of_claimed_calls_to_the_successor() -> None:
    with apart(transceivers=2) as deployment:
        controls = deployment.services["transceiver"].ready, deployment.services["transceiver 2"].ready
        admins = dict(zip(controls, deployment.transceiver_admins, strict=True))
        headers = {"Authorization": authorization(KeyRing.parse(deployment.secret).control, time.time())}

        def stray() -> float:
            return read_metrics(admins[successor])["antiphon_transceiver_link_unknown_path_total"]

        async with calling(deployment.url) as callers, httpx.AsyncClient(headers=headers) as operator:
            await callers.call()
            loads = {url: Load(**(await operator.get(f"{url}/load")).json()) for url in controls}
            origin, successor = sorted(controls, key=lambda url: -loads[url].calls)
            assert read_metrics(admins[origin])["antiphon_transceiver_relays"] == 1
            assert stray() == 0
            (link,) = (await operator.get(f"{origin}/link")).json()["addresses"]
            host, _, port = link.rpartition(":")
            moved: dict[str, str | int] = {"cluster": 0, "host": host, "port": int(port)}
            for wrong in ({"cluster": 7}, {"host": "nowhere"}, {"host": 1}, {"port": 70_000}):
                assert (await operator.post(f"{successor}/moved", json=moved | wrong)).status_code == 400
            assert (await operator.post(f"{origin}/moved", json=moved)).status_code == 409
            assert (await operator.post(f"{successor}/moved", json=moved)).status_code == 204
            await until_reported(lambda: stray() > 50, SOON)
            assert deployment.relay_metrics()["antiphon_relay_moves"] == 1
            assert (await operator.delete(f"{successor}/moved", params=moved)).status_code == 204
            assert (await operator.delete(f"{successor}/moved", params=moved)).status_code == 404
