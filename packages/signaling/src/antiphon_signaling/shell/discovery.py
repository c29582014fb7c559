"""Keeps a fleet up to date: watches the registry, and asks all other transceivers over the control API."""

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
"""Timeout of a request for link and load, and interval between two requests."""

CALLS_SECONDS = 0.5
"""Interval between two requests for the running calls, while any are counted. A connected call counts as a pending
set-up for this much longer."""

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
    """Keep the fleet up to date until cancelled. Started after the first round, within twice `ASK_SECONDS`."""
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
    """Report to the limits which calls run, until cancelled."""
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
            return  # `_ask` logs unreachable ones; versions before 0.3 have no such list
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
