"""Keys change during live calls, with the services as processes."""

import time

import pytest
import trio

from antiphon.shell import keygen
from antiphon_common.keys import KeyRing
from antiphon_common.link import VERIFIED_SECONDS
from support.peers.callers import Callers, CountingCaller, calling
from support.processes.services import apart

MINT, RETIRE = 3, 8


async def checks_answered(callers: Callers, caller: CountingCaller) -> int:
    response = await callers.http.get(f"/v1/realtime/calls/{caller.call_id}/stats")
    return int(response.json()["statistics"]["checks_answered"])


async def test_a_call_continues_after_the_keys_that_it_began_with_retire(capsys: pytest.CaptureFixture[str]) -> None:
    with apart() as deployment:
        file = deployment.secret_file
        assert file is not None
        async with calling(deployment.url) as callers:
            before = await callers.call()
            keygen.main(["--rotate", str(file), "--in", str(MINT), "--retire", str(RETIRE)])
            for name in ("relay", "transceiver", "signaling"):
                log = deployment.services[name].wait_for_log
                await trio.to_thread.run_sync(log, r'keys read again ids="0 1" minting=0')
            old, new = KeyRing.load(file).keys
            while not new.mints(time.time()):
                await callers.wait_for_audio(before, 1)
            between = await callers.call()
            while old.accepts(time.time() - VERIFIED_SECONDS - 1):
                await callers.wait_for_audio(before, 1)
                await callers.wait_for_audio(between, 1)
            after = await callers.call()
            assert [call.ice.ufrag[0] for call in (before, between, after)] == ["A", "B", "B"]
            answered = await checks_answered(callers, before)
            with trio.fail_after(20):
                while await checks_answered(callers, before) == answered:
                    await callers.wait_for_audio(before, 10)
            for call in (before, between, after):
                await callers.wait_for_audio(call, 50)
                call.hang_up()
