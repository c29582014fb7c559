"""The settings themselves: name, meaning and default of each, in the groups that the services take.

A field's name with hyphens is the flag and the name in a configuration file; with `ANTIPHON_` in front and in capitals
it is the environment variable. All three are a contract.
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
    """How a field is read from text and explained. A repeatable one is a tuple; a flag has no reader and is a bool; no
    error quotes a secret one."""

    help: str
    metavar: str | None = None
    read: Callable[[str], Any] | None = None
    repeatable: bool = False
    secret: bool = False


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Signaling: where callers' programs reach it, and who may call."""

    http: Annotated[
        Address,
        Option("where offers, the WebSocket and the talk page are served", "HOST:PORT", read_address),
    ] = Address("127.0.0.1", 8080)
    tls_cert: Annotated[str | None, Option("certificate chain, PEM; with --tls-key", "FILE", read_text)] = None
    tls_key: Annotated[str | None, Option("private key of the certificate, PEM", "FILE", read_text)] = None
    tls: Annotated[
        str | None,
        Option("make a certificate at start, for trying it from another device", "self-signed", one_of("self-signed")),
    ] = None
    api_key_file: Annotated[str | None, Option("API keys, lines `tenant:key`", "FILE", read_text)] = None
    no_auth: Annotated[bool, Option("let everybody call who can reach the address")] = False
    tenant_calls: Annotated[int, Option("calls of one tenant at once", "N", read_count)] = 1000
    tenant_setups: Annotated[int, Option("calls of one tenant that are not connected yet", "N", read_count)] = 50
    tenant_offers: Annotated[
        float, Option("offers and ICE restarts of one tenant; of 5 seconds at once", "PER-SECOND", read_rate)
    ] = 30.0
    address_calls: Annotated[int, Option("calls from one address at once", "N", read_count)] = 200
    address_setups: Annotated[int, Option("calls from one address that are not connected yet", "N", read_count)] = 30
    address_offers: Annotated[
        float, Option("offers and ICE restarts from one address; of 5 seconds at once", "PER-SECOND", read_rate)
    ] = 20.0
    proxy: Annotated[
        tuple[Network, ...],
        Option(
            "where reverse proxies are whose X-Forwarded-For names the caller's address",
            "CIDR",
            read_network,
            repeatable=True,
        ),
    ] = ()
    advertise: Annotated[
        tuple[Address, ...],
        Option(
            "media address that callers are told, if it is not the relay's own; the port is the relay's or 3478",
            "HOST[:PORT]",
            read_advertised,
            repeatable=True,
        ),
    ] = ()


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Relay: the public media addresses."""

    media: Annotated[
        tuple[Media, ...],
        Option(
            "public UDP socket; ADVERTISED is what callers are told if it differs, ID is the ingress id, equal on "
            "relays that share an address",
            "[ID=]LOCAL[,ADVERTISED]",
            read_media,
            repeatable=True,
        ),
    ] = (Media(Address("0.0.0.0", MEDIA_PORT)), Media(Address("::", MEDIA_PORT)))
    relay_link: Annotated[
        Address, Option("where transceivers reach the relay; port 0 takes a free one", "HOST:PORT", read_address)
    ] = Address("127.0.0.1", 0)
    workers: Annotated[
        int | None, Option("forward in so many processes; without it, in the one that was started", "N", read_workers)
    ] = None


class TransceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Transceiver: the calls and their backends."""

    link: Annotated[
        Address, Option("where relays reach the transceiver; port 0 takes a free one", "HOST:PORT", read_address)
    ] = Address("127.0.0.1", 0)
    link_advertise: Annotated[
        Address | None, Option("what relays are told, if it is not the address of --link", "HOST:PORT", read_address)
    ] = None
    control: Annotated[Address, Option("where signaling reaches the transceiver", "HOST:PORT", read_address)] = Address(
        "127.0.0.1", 8090
    )
    backend: Annotated[
        tuple[Backend, ...],
        Option(
            "inference backend, chosen by the `model` of a call, the first by default; a bare NAME is a shipped one",
            "NAME[=URL]",
            read_backend,
            repeatable=True,
        ),
    ] = (Backend("echo"),)
    audio: Annotated[
        str,
        Option("what backends are sent if they take it: opus, pcm16[/16000|/24000|/48000]", "FORMAT", read_audio),
    ] = "pcm16/24000"
    capacity: Annotated[int, Option("calls at once; more are refused", "N", read_count)] = 100


NEAREST_TRANSCEIVER = ("http://127.0.0.1:8090",)


class SharedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all services: keys, networks, and how they find each other."""

    cluster: Annotated[int, Option("number of this cluster in route tokens", "N", read_cluster)] = 0
    transceiver_network: Annotated[
        tuple[ClusterNetwork, ...],
        Option(
            "where a cluster's transceivers are; relays send nowhere else",
            "CLUSTER=CIDR:PORTS",
            read_cluster_network,
            repeatable=True,
        ),
    ] = (ClusterNetwork(0, IPv4Network("127.0.0.0/8"), 1, 65535),)
    relay_network: Annotated[
        tuple[Network, ...],
        Option("where relays are; transceivers listen to nobody else", "CIDR", read_network, repeatable=True),
    ] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
    secret_file: Annotated[
        str | None, Option("the keys of all services, made by `python -m antiphon keygen FILE`", "FILE", read_text)
    ] = None
    transceiver: Annotated[
        tuple[str, ...],
        Option("control address of a transceiver, for signaling and relay", "URL", read_url, repeatable=True),
    ] = NEAREST_TRANSCEIVER
    redis: Annotated[
        str | None,
        Option(
            "where services find each other, and relays the owners of flows; none waits for it",
            "URL",
            read_redis,
            secret=True,
        ),
    ] = None
    drain: Annotated[
        float,
        Option("what calls still have after SIGTERM, while no new ones are taken", "SECONDS", read_seconds),
    ] = 25.0
    admin: Annotated[
        Address | None,
        Option("health, readiness and metrics over HTTP", "HOST:PORT", read_address),
    ] = None
    admin_name: Annotated[
        tuple[str, ...],
        Option(
            "host name by which the admin port is reached, besides addresses and names within a cluster",
            "NAME",
            read_host_name,
            repeatable=True,
        ),
    ] = ()
    insecure: Annotated[bool, Option("run without a secret file even where others can reach link or control")] = False
    log: Annotated[str, Option("form of the log on standard error", "text|json", one_of("text", "json"))] = "text"

    @property
    def asked(self) -> tuple[str, ...]:
        """The transceivers to ask over HTTP in any case. Where Redis lists them, there are none unless named."""
        return () if self.redis is not None and self.transceiver == NEAREST_TRANSCEIVER else self.transceiver


ADMIN_PORTS: tuple[tuple[type[msgspec.Struct], int], ...] = (
    (RelaySettings, 9090),
    (TransceiverSettings, 9091),
    (FrontSettings, 9092),
)
"""Default port of --admin on 127.0.0.1, by the first of these groups that a program takes."""
