"""The signaling service: its settings, sockets and tasks."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple, TextIO

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.metrics import export_counters
from antiphon_common.settings import Address, FrontSettings, SharedSettings, is_loopback
from antiphon_common.settings.values import MEDIA_PORT
from antiphon_common.shell.admin import listen_tcp, serve_admin
from antiphon_common.shell.interfaces import default_address
from antiphon_common.shell.supervise import Drain
from antiphon_signaling.authentication import is_in
from antiphon_signaling.fleet import Fleet
from antiphon_signaling.limits import Limit, Limits
from antiphon_signaling.shell.api_keys import make_authenticator
from antiphon_signaling.shell.calls import CallMetrics, Calls
from antiphon_signaling.shell.discovery import follow_calls, keep_informed
from antiphon_signaling.shell.http import make_app
from antiphon_signaling.shell.listener import Listener
from antiphon_signaling.shell.placement import Transceivers, open_client
from antiphon_signaling.shell.tls import make_tls
from antiphon_signaling.shell.websocket import SignalingSocket

WILDCARDS = ("0.0.0.0", "::")
LOCALHOST = "127.0.0.1"


class SignalingPorts(NamedTuple):
    """Where a started signaling service listens: `url` is for people, `address` is bound.

    `idle()` returns True if no request is in progress and no WebSocket is open.
    """

    url: str
    address: Address
    idle: Callable[[], bool]


async def serve_signaling(
    front: FrontSettings,
    shared: SharedSettings,
    keys: KeyRing,
    ingresses: Sequence[tuple[str, int]],
    *,
    registry: CollectorRegistry | None = None,
    drain: Drain | None = None,
    task_status: trio.TaskStatus[SignalingPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve offers, the WebSocket and the talk page until cancelled. Running calls do not depend on it.

    Once `drain` has begun, offers are refused. `ingresses` are the relay's advertised media addresses, the best first.
    `--advertise` replaces them; without either, this machine's address is advertised. Metrics go into `registry`.

    Raises:
        SettingsError: a file of the settings cannot be used.
        OSError: the HTTP address cannot be bound.
    """
    registry = registry or CollectorRegistry()
    drain = drain or Drain(shared.drain)
    advertised = advertised_addresses(front, ingresses)
    hosts = list(dict.fromkeys([front.http.host, *(address.host for address in advertised)]))
    authenticator, made_key = make_authenticator(front, os.urandom)
    tls, fingerprint = make_tls(front, hosts)
    async with open_client(keys.control) as client, trio.open_nursery() as nursery:
        fleet = Fleet(shared.asked, Random(os.urandom(16)).randrange)
        await nursery.start(keep_informed, fleet, client, shared, keys.control)
        limits = Limits(
            Limit(front.tenant_calls, front.tenant_setups, front.tenant_offers),
            Limit(front.address_calls, front.address_setups, front.address_offers),
        )
        nursery.start_soon(follow_calls, limits, client)
        calls = Calls(Transceivers(fleet, client), advertised, os.urandom, CallMetrics(registry), drain, limits)
        listener = Listener(
            make_app(calls, authenticator),
            SignalingSocket(calls, authenticator, drain).serve,
            tls,
            is_shared=partial(is_in, networks=front.proxy),
        )
        export_counters(registry, "antiphon_signaling", listener.counters)
        export_counters(registry, "antiphon_signaling", limits.counters)
        listening = listen_tcp(*front.http)
        bound = Address(*listening.getsockname()[:2])
        url = _url_of(bound, advertised, secure=tls is not None)
        if fingerprint is not None:
            print(f"certificate made for {', '.join(hosts)}: SHA-256 {fingerprint}", file=sys.stderr)
        with announced_key(url, made_key, sys.stderr):
            nursery.start_soon(listener.run, listening)
            task_status.started(SignalingPorts(url, bound, listener.idle))
            await trio.sleep_forever()


async def serve_alone(
    front: FrontSettings,
    shared: SharedSettings,
    keys: KeyRing,
    drain: Drain,
    *,
    task_status: trio.TaskStatus[SignalingPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve signaling as a process of its own, with an admin port and without a relay.

    Returns once `drain` has begun to leave and the last connection is closed.
    """
    registry = CollectorRegistry()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_signaling, front, shared, keys, (), registry=registry, drain=drain)
        ports: SignalingPorts = await nursery.start(serve)
        if shared.admin is not None:
            await nursery.start(
                partial(
                    serve_admin, shared.admin, lambda: True, lambda: not drain.begun, registry, names=shared.admin_name
                )
            )
        task_status.started(ports)
        await drain.wait_left(ports.idle)
        nursery.cancel_scope.cancel()


def advertised_addresses(front: FrontSettings, ingresses: Sequence[tuple[str, int]]) -> list[Address]:
    """Return the advertised media addresses, each once, the best first."""
    port = ingresses[0][1] if ingresses else MEDIA_PORT
    if front.advertise:
        return list(dict.fromkeys(Address(host, given or port) for host, given in front.advertise))
    if ingresses:
        return list(dict.fromkeys(Address(host, given) for host, given in ingresses))
    return [Address(host, port) for host in dict.fromkeys([default_address(socket.AF_INET) or LOCALHOST, LOCALHOST])]


def _url_of(bound: Address, advertised: Sequence[Address], *, secure: bool) -> str:
    reachable = (address.host for address in advertised if not is_loopback(address.host))
    host = next(reachable, LOCALHOST) if bound.host in WILDCARDS else bound.host
    return f"{'https' if secure else 'http'}://{Address(host, bound.port)}/"


@contextmanager
def announced_key(url: str, key: str | None, stream: TextIO) -> Iterator[None]:
    """Print how to reach the server with the API key that was made at start.

    On a terminal that is the URL with the key. Anything else may be a log that others read. Then the key is in a
    private file while the context lasts, and the file's name is printed.
    """
    if key is None:
        yield
        return
    if stream.isatty():
        print(f"open {url}#key={key}", file=stream, flush=True)
        yield
        return
    descriptor, name = tempfile.mkstemp(prefix="antiphon-", suffix=".key")  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key}\n")
        print(f"the API key is in {name}", file=stream, flush=True)
        yield
    finally:
        Path(name).unlink(missing_ok=True)
