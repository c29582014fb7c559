"""Keeps a fleet informed: reads the registry, and asks over the control API whom that does not list."""

import logging
from functools import partial
from typing import TypeVar

import httpx
import trio

from antiphon_common.control import CallList, LinkInfo, Load, decode
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys
from antiphon_common.registry import Registered
from antiphon_common.settings import SharedSettings
from antiphon_common.shell.registry import watch_members
from antiphon_signaling.fleet import Fleet
from antiphon_signaling.limits import Limits

ASK_SECONDS = 1.0
"""How long a transceiver may take to tell its link and its load, and how long it takes until it is asked again."""

CALLS_SECONDS = 0.5
"""How often transceivers are asked which of their calls run, while there are any that count. A call occupies one of the
set-ups of its caller for so much longer than it takes."""

T = TypeVar("T")

log = logging.getLogger(__name__)


async def keep_informed(
    fleet: Fleet,
    client: httpx.AsyncClient,
    shared: SharedSettings,
    keys: DerivedKeys,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled; started after the first look around, which takes `ASK_SECONDS` at most."""
    listed = trio.Event()

    def found(members: list[Registered]) -> None:
        fleet.list_leases(members, trio.current_time())
        listed.set()

    async with trio.open_nursery() as nursery:
        if shared.redis is not None:
            nursery.start_soon(watch_members, shared.redis, shared.cluster, keys, found)
            with trio.move_on_after(ASK_SECONDS):
                await listed.wait()
        while True:
            wait_until = trio.current_time() + ASK_SECONDS
            async with trio.open_nursery() as questions:
                for url in fleet.due(trio.current_time()):
                    questions.start_soon(partial(_ask, fleet, client, url))
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep_until(wait_until)


async def follow_calls(limits: Limits, client: httpx.AsyncClient) -> None:
    """Keep the limits informed of which calls run, until cancelled."""
    while True:
        await trio.sleep(CALLS_SECONDS)
        async with trio.open_nursery() as questions:
            for url in limits.transceivers:
                questions.start_soon(_ask_calls, limits, client, url)
        limits.forget_unreported(trio.current_time())


async def _ask_calls(limits: Limits, client: httpx.AsyncClient, url: str) -> None:
    asked_at = trio.current_time()
    with trio.move_on_after(ASK_SECONDS):
        try:
            calls = await _get(client, f"{url}/calls", CallList)
        except (httpx.HTTPError, DecodeError):
            return  # one that does not answer is in the log already; one of before 0.3 does not know the question
        limits.reported(url, calls.connecting, calls.connected, asked_at, trio.current_time())


async def _ask(fleet: Fleet, client: httpx.AsyncClient, url: str) -> None:
    reason = "no answer in time"
    with trio.move_on_after(ASK_SECONDS):
        try:
            link = await _get(client, f"{url}/link", LinkInfo)
            load = await _get(client, f"{url}/load", Load)
        except (httpx.HTTPError, DecodeError) as error:
            reason = str(error) or type(error).__name__
        else:
            if fleet.answered(url, link, load):
                log.info("transceiver answers again", extra={"transceiver": url})
            return
    if fleet.unanswered(url, trio.current_time()):
        log.warning("transceiver unreachable", extra={"transceiver": url, "reason": reason})


async def _get(client: httpx.AsyncClient, url: str, kind: type[T]) -> T:
    response = await client.get(url)
    return decode(response.raise_for_status().content, kind)
