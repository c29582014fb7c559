"""The settings of all services: the name, meaning and default of each, in groups.

A service takes several groups. A field's name, with hyphens, is its flag and its key in a configuration file. With the
prefix `ANTIPHON_` and in capitals it is the environment variable. Users rely on all three names. The docstring of a
group is the title of its section in the help.
"""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, NamedTuple

import msgspec

from antiphon_common.settings.values import (
    MEDIA_PORT,
    Address,
    Backend,
    ClusterNetwork,
    Media,
    Network,
    one_of,
    read_address,
    read_advertised,
    read_audio,
    read_backend,
    read_cluster,
    read_cluster_network,
    read_count,
    read_host_name,
    read_media,
    read_network,
    read_rate,
    read_redis,
    read_seconds,
    read_text,
    read_url,
    read_workers,
)


class Option(NamedTuple):
    """How a setting is read from text, and its help. Annotate the field of a group with it.

    A `repeatable` setting is a tuple. A setting without `read` is a bool. Errors do not quote a `secret` one.
    """

    help: str
    metavar: str | None = None
    read: Callable[[str], Any] | None = None
    repeatable: bool = False
    secret: bool = False


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Signaling: its address for callers, who may call, and how much."""

    http: Annotated[
        Address,
        Option("address of the HTTP API, the WebSocket and the talk page", "HOST:PORT", read_address),
    ] = Address("127.0.0.1", 8080)
    tls_cert: Annotated[str | None, Option("certificate chain for HTTPS (PEM); needs --tls-key", "FILE", read_text)] = (
        None
    )
    tls_key: Annotated[str | None, Option("private key of --tls-cert (PEM)", "FILE", read_text)] = None
    tls: Annotated[
        str | None,
        Option(
            "serve HTTPS with a certificate made at start; browsers on other devices need HTTPS for the microphone",
            "self-signed",
            one_of("self-signed"),
        ),
    ] = None
    api_key_file: Annotated[
        str | None, Option("file of API keys, one `tenant:key` in each line", "FILE", read_text)
    ] = None
    no_auth: Annotated[bool, Option("accept calls without an API key from everyone who can reach --http")] = False
    tenant_calls: Annotated[int, Option("largest number of running calls of a tenant", "N", read_count)] = 1000
    tenant_setups: Annotated[
        int, Option("largest number of calls of a tenant that are not connected yet", "N", read_count)
    ] = 50
    tenant_offers: Annotated[
        float,
        Option(
            "offers and ICE restarts of a tenant per second; a burst may use 5 seconds' worth", "PER-SECOND", read_rate
        ),
    ] = 30.0
    address_calls: Annotated[int, Option("largest number of running calls from one IP address", "N", read_count)] = 200
    address_setups: Annotated[
        int, Option("largest number of calls from one IP address that are not connected yet", "N", read_count)
    ] = 30
    address_offers: Annotated[
        float,
        Option(
            "offers and ICE restarts from one IP address per second; a burst may use 5 seconds' worth",
            "PER-SECOND",
            read_rate,
        ),
    ] = 20.0
    proxy: Annotated[
        tuple[Network, ...],
        Option(
            "network of reverse proxies; their X-Forwarded-For header is used as the caller's address",
            "CIDR",
            read_network,
            repeatable=True,
        ),
    ] = ()
    advertise: Annotated[
        tuple[Address, ...],
        Option(
            "media address in answers, if it differs from the relay's; without PORT, the relay's port or 3478",
            "HOST[:PORT]",
            read_advertised,
            repeatable=True,
        ),
    ] = ()


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Relay: its public media addresses, and its address for transceivers."""

    media: Annotated[
        tuple[Media, ...],
        Option(
            "UDP socket for callers' media; ADVERTISED is its public address, if it differs from LOCAL; ID is the "
            "ingress id, which relays with the same address share",
            "[ID=]LOCAL[,ADVERTISED]",
            read_media,
            repeatable=True,
        ),
    ] = (Media(Address("0.0.0.0", MEDIA_PORT)), Media(Address("::", MEDIA_PORT)))
    relay_link: Annotated[
        Address,
        Option(
            "address at which the relay receives from transceivers; port 0 is any free one", "HOST:PORT", read_address
        ),
    ] = Address("127.0.0.1", 0)
    workers: Annotated[
        int | None,
        Option(
            "number of worker processes that forward packets; by default the relay forwards itself", "N", read_workers
        ),
    ] = None


class TransceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Transceiver: its addresses, its backends, and how many calls it takes."""

    link: Annotated[
        Address,
        Option(
            "address at which the transceiver receives from relays; port 0 is any free one", "HOST:PORT", read_address
        ),
    ] = Address("127.0.0.1", 0)
    link_advertise: Annotated[
        Address | None, Option("address to which relays send, if it differs from --link", "HOST:PORT", read_address)
    ] = None
    control: Annotated[
        Address, Option("address of the control API, which signaling and relays use", "HOST:PORT", read_address)
    ] = Address("127.0.0.1", 8090)
    backend: Annotated[
        tuple[Backend, ...],
        Option(
            "inference backend of calls whose `model` is NAME; the first one is the default; URL is a WebSocket, and "
            "NAME alone is a shipped backend",
            "NAME[=URL]",
            read_backend,
            repeatable=True,
        ),
    ] = (Backend("echo"),)
    audio: Annotated[
        str,
        Option("audio format for backends that accept it: opus or pcm16[/16000|/24000|/48000]", "FORMAT", read_audio),
    ] = "pcm16/24000"
    capacity: Annotated[int, Option("largest number of running calls; more are refused", "N", read_count)] = 100


NEAREST_TRANSCEIVER = ("http://127.0.0.1:8090",)


class SharedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All services: keys, networks, and how they find each other."""

    cluster: Annotated[
        int, Option("number of this cluster; route tokens contain it, so clusters can share relays", "N", read_cluster)
    ] = 0
    transceiver_network: Annotated[
        tuple[ClusterNetwork, ...],
        Option(
            "network and ports of a cluster's transceivers; relays send to no others",
            "CLUSTER=CIDR:PORTS",
            read_cluster_network,
            repeatable=True,
        ),
    ] = (ClusterNetwork(0, IPv4Network("127.0.0.0/8"), 1, 65535),)
    relay_network: Annotated[
        tuple[Network, ...],
        Option(
            "network of the relays; transceivers accept packets from no others", "CIDR", read_network, repeatable=True
        ),
    ] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
    secret_file: Annotated[
        str | None,
        Option("keys that all services share; `python -m antiphon keygen FILE` makes the file", "FILE", read_text),
    ] = None
    transceiver: Annotated[
        tuple[str, ...],
        Option("URL of a transceiver's control API, for signaling and relays", "URL", read_url, repeatable=True),
    ] = NEAREST_TRANSCEIVER
    redis: Annotated[
        str | None,
        Option(
            "Redis through which services find each other, and relays find the transceivers of flows; they also run "
            "while it is down",
            "URL",
            read_redis,
            secret=True,
        ),
    ] = None
    drain: Annotated[
        float,
        Option("time for running calls to end after SIGTERM; new ones are refused", "SECONDS", read_seconds),
    ] = 25.0
    admin: Annotated[
        Address | None,
        Option("address for health, readiness and metrics over HTTP", "HOST:PORT", read_address),
    ] = None
    admin_name: Annotated[
        tuple[str, ...],
        Option(
            "host name that --admin accepts in requests, in addition to addresses and names within a cluster",
            "NAME",
            read_host_name,
            repeatable=True,
        ),
    ] = ()
    insecure: Annotated[
        bool, Option("run without --secret-file, even if other machines can reach link or control addresses")
    ] = False
    log: Annotated[str, Option("format of the log on standard error", "text|json", one_of("text", "json"))] = "text"

    @property
    def asked(self) -> tuple[str, ...]:
        """URLs of the transceivers that are queried over HTTP. With Redis, only those that were set explicitly."""
        return () if self.redis is not None and self.transceiver == NEAREST_TRANSCEIVER else self.transceiver


ADMIN_PORTS: tuple[tuple[type[msgspec.Struct], int], ...] = (
    (RelaySettings, 9090),
    (TransceiverSettings, 9091),
    (FrontSettings, 9092),
)
"""Default port of --admin on 127.0.0.1, by the first of these groups that a program takes."""
