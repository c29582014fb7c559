"""Finds the transceivers' link addresses: asks the configured ones, and reads the registry."""

import logging
from collections.abc import Callable, Iterable

import httpx
import trio

from antiphon_common.control import LinkInfo, decode
from antiphon_common.errors import DecodeError
from antiphon_common.keys import KeyRing
from antiphon_common.registry import Registered
from antiphon_common.settings import Address, SharedSettings
from antiphon_common.settings.values import read_address
from antiphon_common.shell.control_client import ControlAuth
from antiphon_common.shell.registry import watch_members

POLL_SECONDS = 1.0
"""Between two requests to a transceiver, and the longest wait for an answer."""
FIRST_ROUND_SECONDS = 0.25
"""How long a starting relay waits for the first answers. With them, transceivers announce their flows before it reads
its first packet."""
LISTED_SECONDS = 60.0
"""How long a registry entry outlives its lease here. Redis may have been flushed, and HELLO to a transceiver that
has ended costs little."""
MAX_LISTED = 1000
"""Registry entries that are kept, the latest ones."""

log = logging.getLogger(__name__)

SetTransceivers = Callable[[list[Address]], None]


async def discover(
    shared: SharedSettings,
    keys: KeyRing,
    set_transceivers: SetTransceivers,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `set_transceivers` with all link addresses whenever they change, until cancelled.

    Started once the configured transceivers were asked. One that cannot be reached keeps its addresses: perhaps only
    the network between it and here is broken.
    """
    found = _LinkAddresses(set_transceivers)
    auth = ControlAuth(keys.control)
    limits = httpx.Limits(max_keepalive_connections=len(shared.asked))
    async with (
        httpx.AsyncClient(auth=auth, timeout=POLL_SECONDS, limits=limits, trust_env=False) as client,
        trio.open_nursery() as nursery,
    ):
        with trio.move_on_after(FIRST_ROUND_SECONDS):
            async with trio.open_nursery() as first:
                for url in shared.asked:
                    first.start_soon(_ask, client, url, found)
        task_status.started()
        for url in shared.asked:
            nursery.start_soon(_keep_asking, client, url, found)
        if shared.redis is not None:
            nursery.start_soon(watch_members, shared.redis, shared.cluster, keys.control, found.listed)


class _LinkAddresses:
    """The latest link addresses of each transceiver, by the URL of its control API."""

    def __init__(self, set_transceivers: SetTransceivers) -> None:
        self._set_transceivers = set_transceivers
        self._current: list[Address] = []
        self._failing: set[str] = set()
        self._answered: dict[str, list[Address]] = {}
        self._listed: dict[str, tuple[list[Address], float]] = {}

    def answered(self, url: str, info: LinkInfo) -> None:
        """Take a configured transceiver's answer."""
        self._failing.discard(url)
        self._answered[url] = list(_read(info))
        self._update()

    def failed(self, url: str, reason: str) -> None:
        """Log the first failure of a row."""
        if url not in self._failing:
            log.warning("a transceiver does not return its link addresses", extra={"url": url, "reason": reason})
        self._failing.add(url)

    def listed(self, members: Iterable[Registered]) -> None:
        """Take the present entries of the registry."""
        now = trio.current_time()
        for member in members:
            self._listed.pop(member.control_url, None)
            self._listed[member.control_url] = list(_read(member.link)), now
        kept = [(url, entry) for url, entry in self._listed.items() if now - entry[1] < LISTED_SECONDS]
        self._listed = dict(kept[-MAX_LISTED:])
        self._update()

    def _update(self) -> None:
        each = [*self._answered.values(), *(addresses for addresses, _ in self._listed.values())]
        addresses = sorted({address for addresses in each for address in addresses})
        if addresses != self._current:
            log.info("transceivers found", extra={"link": " ".join(map(str, addresses))})
            self._current = addresses
            self._set_transceivers(addresses)


async def _keep_asking(client: httpx.AsyncClient, url: str, found: _LinkAddresses) -> None:
    while True:
        await trio.sleep(POLL_SECONDS)
        await _ask(client, url, found)


async def _ask(client: httpx.AsyncClient, url: str, found: _LinkAddresses) -> None:
    try:
        response = await client.get(f"{url}/link")
        response.raise_for_status()
        found.answered(url, decode(response.content, LinkInfo))
    except (httpx.HTTPError, DecodeError) as error:
        found.failed(url, str(error) or type(error).__name__)


def _read(info: LinkInfo) -> Iterable[Address]:
    for text in info.addresses:
        try:
            yield read_address(text)
        except ValueError:
            log.warning("not a link address", extra={"address": text})
