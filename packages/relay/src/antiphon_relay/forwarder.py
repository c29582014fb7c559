"""The relay as a protocol core: clients' datagrams to their owners, owners' datagrams to clients.

Uplink, a binding request goes to the owner its route token names, everything else to the owner of its flow. Requests
are limited, so that a flood of valid ones does not become an owner's: those of a confirmed flow by the flow's own
limit; what exceeds it, and all others, by the limit of the token and then that of the owner. A token that its owner has
disowned, since the call is over, leads nowhere and uses up no limit. What else comes by a flow has a limit too, far
above what a call sends.

Downlink, whatever an owner sends makes the path its own, provisionally, and goes out. On a path that is confirmed for
another owner it is dropped and counted instead. Otherwise checks for a stranger's call, sent from the spoofed address
of a live client, would bring that client answers, checks and handshakes of a call that it does not know. A client that
does start a new call from the port of one that has just vanished waits until the old owner releases the path, which it
does when its peer is disconnected, or until that owner has been silent for 10 s.

Each transceiver it knows of is told every 25 ms that this relay lives, and so tells it which paths it has; one that
takes over the calls of another has them moved here too.

The batch methods work on encoded addresses (`antiphon_common.sockaddr`) and leave what is to be sent in the outboxes;
the five methods are the same work one datagram at a time. There the path of ingress `LINK` is an owner's link address.
"""

from collections.abc import Callable, Iterable, Sequence

from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MESSAGE,
    PATH_START,
    PATH_STOP,
    Announce,
    Confirm,
    Disown,
    LinkKeys,
    Moved,
    RelayHello,
    Release,
    decode_message,
)
from antiphon_common.routing import ClusterNetworks, RouteTokens
from antiphon_common.sockaddr import decode_address, encode_address, from_port_and_address
from antiphon_common.stun import peek_username
from antiphon_relay.cache import WRITE_INTERVAL, FlowCache
from antiphon_relay.disowned import DisownedTokens
from antiphon_relay.fair_share import FairShareLimiter
from antiphon_relay.flows import BINDING_REQUEST, PATH_HEAD_SIZE, Datagram, Flow, FlowTable, Ingress
from antiphon_relay.limits import Bucket, BucketArray
from antiphon_relay.redirects import Redirects

LINK = 0
"""The ingress id that stands for the link; public addresses have others."""

TOKEN_BUCKETS = 65536
"""Half a megabyte; with 1,000 calls being set up, one in 65 shares its bucket."""
TOKEN_CHECKS_PER_SECOND, TOKEN_CHECKS_AT_ONCE = 50.0, 100
"""Binding requests with one token: a browser sends 20 a second for each of its addresses while it connects."""
OWNER_CHECKS_PER_SECOND, OWNER_CHECKS_AT_ONCE = 2000.0, 1000
"""Binding requests to one owner outside its confirmed flows: it answers them with a tenth of its time."""

MAX_OWNERS = 4096
"""Owners and tokens remembered, which only saves reading them again; beyond this they are forgotten all at once."""
REMEMBER_SECONDS = 10.0
"""How long a token or a link header counts as read, so that a retired key ends."""
TIMEOUT_INTERVAL = 1.0
"""Seconds between two looks for expired flows."""

LEAST_MEDIA_BYTE = 20
"""First bytes from here on are DTLS's and RTP's (RFC 7983): worth a look-up in the flow cache."""

HELLO_INTERVAL = 0.025
"""Seconds between two HELLOs to a transceiver, which misses a relay after 100 ms."""
MAX_TRANSCEIVERS = 512
"""Transceivers that get HELLOs, which is 20,000 datagrams a second; the rest of a larger cluster goes without."""


class RelayCounters:
    """What was forwarded, and what was dropped why."""

    __slots__ = (
        "bad_token", "disowned", "downlink", "failed_turns", "link_bad_tag", "link_foreign", "link_malformed",
        "malformed_request", "messages", "moved_refused", "no_route", "not_owner", "over_flow_limit",
        "over_owner_limit", "over_token_limit", "shed", "shed_downlink", "skipped_messages", "unknown",
        "unknown_ingress", "uplink",
    )  # fmt: skip

    def __init__(self) -> None:
        self.uplink = 0
        self.downlink = 0
        self.messages = 0
        self.unknown = 0
        self.malformed_request = 0
        self.bad_token = 0
        self.disowned = 0
        self.no_route = 0
        self.over_flow_limit = 0
        self.over_token_limit = 0
        self.over_owner_limit = 0
        self.failed_turns = 0
        self.shed = 0
        self.shed_downlink = 0
        self.link_malformed = 0
        self.link_bad_tag = 0
        self.link_foreign = 0
        self.not_owner = 0
        self.moved_refused = 0
        self.unknown_ingress = 0
        self.skipped_messages = 0


class _Owner:
    """A transceiver that tokens lead to, by its encoded link address."""

    __slots__ = ("address", "checks")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.checks = Bucket(OWNER_CHECKS_PER_SECOND, OWNER_CHECKS_AT_ONCE)


class Forwarder:
    """Soft state and rules of one relay worker. `unix_offset` added to `now` gives Unix time, in seconds.

    `ingresses` are the public addresses, `link_address_size` the size of encoded addresses on the link.
    """

    def __init__(
        self,
        ingresses: Iterable[Ingress],
        link_address_size: int,
        tokens: RouteTokens,
        networks: ClusterNetworks,
        link_keys: LinkKeys,
        random: Callable[[int], bytes],
        *,
        unix_offset: float,
        cache: FlowCache | None = None,
    ) -> None:
        self.counters = RelayCounters()
        self.cache = cache
        self.ingresses = {ingress.head: ingress for ingress in ingresses}
        self.flows = FlowTable(self.ingresses)
        self.redirects = Redirects(networks)
        self.disowned = DisownedTokens()
        self.link_outbox: list[Datagram] = []
        self.transceivers: Sequence[bytes] = ()
        """Encoded link addresses of the transceivers that get HELLOs."""
        self._link_address_size = link_address_size
        self._tokens = tokens
        self._networks = networks
        self._link_keys = link_keys
        self._unix_offset = unix_offset
        self._token_limit = BucketArray(TOKEN_BUCKETS, TOKEN_CHECKS_PER_SECOND, TOKEN_CHECKS_AT_ONCE, random(32))
        self._owners: dict[bytes, _Owner] = {}
        self._owner_of: dict[bytes, _Owner] = {}
        self._link_sources: set[bytes] = set()
        self._uplink_limiters = {head: FairShareLimiter() for head in self.ingresses}
        self._downlink_limiter = FairShareLimiter()
        self._boot_id = int.from_bytes(random(8), "big")
        self._hello = b""
        self._away: tuple[int, ...] = ()
        self._hello_at = self._expire_at = self._forget_at = 0.0

    def set_transceivers(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Send HELLO to the transceivers at these link addresses, and no longer to others."""
        allowed = [encode_address(*address) for address in addresses if self._networks.allow(*address)]
        reachable = [address for address in dict.fromkeys(allowed) if len(address) == self._link_address_size]
        self.transceivers = reachable[:MAX_TRANSCEIVERS]

    def set_unix_offset(self, seconds: float) -> None:
        """Follow the wall clock, which was set: by it keys begin and retire."""
        self._unix_offset = seconds
        if self.cache is not None:
            self.cache.set_unix_offset(seconds)

    # Batches

    def forward_uplink(
        self, ingress: Ingress, batch: Sequence[Datagram], now: float, *, overloaded: bool = False
    ) -> None:
        """Take clients' datagrams, with their sources, into `link_outbox`. `overloaded` says that they come faster
        than they can be moved."""
        limiter = self._uplink_limiters[ingress.head]
        if overloaded or limiter.active:
            kept = limiter.limit_uplink(ingress.flows, batch, now, overloaded=overloaded)
            self.counters.shed += len(batch) - len(kept)
            batch = kept
        flows, outbox = ingress.flows, self.link_outbox
        before = len(outbox)
        for data, source in batch:
            flow = flows.get(source)
            if data[:2] == BINDING_REQUEST:
                self._forward_request(ingress, data, source, flow, now)
            elif flow is not None:
                if flow.allowance:
                    flow.allowance -= 1
                elif not flow.renew(now):
                    self.counters.over_flow_limit += 1
                    continue
                outbox.append((flow.header + data, flow.owner))
            elif self.cache is not None and data and data[0] >= LEAST_MEDIA_BYTE:
                self.cache.wait(ingress, (data, source), now)
            else:
                self.counters.unknown += 1
        self.counters.uplink += len(outbox) - before

    def forward_downlink(self, batch: Sequence[Datagram], now: float, *, overloaded: bool = False) -> None:
        """Take link datagrams, with their sources, into the outboxes of the ingresses."""
        by_header = self.flows.by_header
        if overloaded or self._downlink_limiter.active:
            kept = self._downlink_limiter.limit_downlink(by_header, batch, now, overloaded=overloaded)
            self.counters.shed_downlink += len(batch) - len(kept)
            batch = kept
        forwarded = 0
        for data, source in batch:
            flow = by_header.get(data[:HEADER_SIZE])
            if flow is None or flow.owner != source:
                flow = self._receive_link(data, source, now)
                if flow is None:
                    continue
            flow.heard = now
            flow.ingress.outbox.append((data[HEADER_SIZE:], flow.client))
            forwarded += 1
        self.counters.downlink += forwarded

    # The five methods

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram of a client, or of an owner if it comes by the ingress `LINK`."""
        encoded = source.encode()
        address = from_port_and_address(encoded[PATH_HEAD_SIZE:])
        if source.ingress == LINK:
            self.forward_downlink([(data, address)], now)
        elif (ingress := self.ingresses.get(encoded[:PATH_HEAD_SIZE])) is not None:
            self.forward_uplink(ingress, [(data, address)], now)
        else:
            self.counters.unknown_ingress += 1

    def handle_timeout(self, now: float) -> None:
        """Say HELLO, and end what has expired."""
        if now >= self._expire_at:
            self._expire_at = now + TIMEOUT_INTERVAL
            self._expire(now)
        if self.transceivers and now >= self._hello_at:
            self._hello_at = now + HELLO_INTERVAL
            self._send_hello(now)

    def restore(self, keys: Iterable[bytes], values: Iterable[bytes | None], now: float) -> None:
        """Take what the flow cache has of paths, and let the packets go that wait for them."""
        assert self.cache is not None
        for key, owner, ingress, packets in self.cache.lookup_succeeded(keys, values, now):
            now_at = self.redirects.follow_address(owner)
            if len(now_at) == self._link_address_size and self._is_transceiver(now_at):
                self._restore(key, now_at, now)
                self.forward_uplink(ingress, packets, now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, to an owner by the path of ingress `LINK`."""
        for ingress, outbox in ((LINK, self.link_outbox), *((i.id, i.outbox) for i in self.ingresses.values())):
            if outbox:
                data, address = outbox.pop(0)
                return Transmit(data, Path.of(*decode_address(address), ingress=ingress))
        return None

    def poll_event(self) -> None:
        """Nothing that happens here is anybody's to act upon; counters tell it."""

    def poll_timeout(self) -> float:
        return min(self._hello_at, self._expire_at) if self.transceivers else self._expire_at

    def _send_hello(self, now: float) -> None:
        away = tuple(ingress.id for ingress in self.ingresses.values() if ingress.away)
        if not self._hello or away != self._away:
            self._away = away
            ingresses = tuple(ingress.id for ingress in self.ingresses.values())
            self._hello = self._link_keys.encode(RelayHello(ingresses, self._boot_id, away), now + self._unix_offset)
        self.link_outbox.extend([(self._hello, address) for address in self.transceivers])

    def _expire(self, now: float) -> None:
        self.flows.expire(now)
        self.disowned.expire(now)
        if self.cache is not None:
            self.cache.handle_timeout(now)
        if self.redirects.expire(now):
            self._owner_of.clear()
        if now >= self._forget_at:
            self._forget_at = now + REMEMBER_SECONDS
            self._owner_of.clear()
            self.flows.by_header.clear()
            self._hello = b""

    # Uplink

    def _forward_request(self, ingress: Ingress, data: bytes, source: bytes, flow: Flow | None, now: float) -> None:
        ufrag = peek_username(data)
        if ufrag is None:
            self.counters.malformed_request += 1
            return
        owner = self._owner_of.get(ufrag) or self._read_token(ufrag, now)
        own = flow is not None and flow.confirmed and (owner is None or flow.owner == owner.address)
        if own and flow is not None and flow.checks.allow(now):
            # without an owner the key of its token has retired, which the call outlives
            self.link_outbox.append((flow.header + data, flow.owner))
            return
        if owner is None or not self._admit(ufrag, owner, now):
            return
        header = self._uplink_header(ingress.key(source), now) if flow is None else flow.header
        self.link_outbox.append((header + data, owner.address))

    def _read_token(self, ufrag: bytes, now: float) -> _Owner | None:
        """Return the owner that a token names, unless it has disowned it; junk and forgeries are remembered nowhere."""
        if ufrag in self.disowned:
            self.counters.disowned += 1
            return None
        try:
            token = self._tokens.read(ufrag, now + self._unix_offset)
        except DecodeError:
            self.counters.bad_token += 1
            return None
        address = self.redirects.resolve(self.redirects.follow(token.owner))
        if len(address) != self._link_address_size:
            self.counters.no_route += 1
            return None
        if len(self._owner_of) >= MAX_OWNERS:
            self._owner_of.clear()
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        owner = self._owners.get(address)
        if owner is None:
            owner = self._owners[address] = _Owner(address)
        self._owner_of[ufrag] = owner
        return owner

    def _admit(self, ufrag: bytes, owner: _Owner, now: float) -> bool:
        if not self._token_limit.allow(ufrag, now):
            self.counters.over_token_limit += 1
            return False
        if not owner.checks.allow(now):
            self.counters.over_owner_limit += 1
            return False
        return True

    def _restore(self, key: bytes, owner: bytes, now: float) -> None:
        self.flows.restore(key, owner, now)
        flow = self.flows.flow(key)
        if flow is not None and not flow.header:
            flow.header = self._uplink_header(key, now)

    def _uplink_header(self, key: bytes, now: float) -> bytes:
        return self._link_keys.header(Path.decode(key), 0, now + self._unix_offset)

    # Downlink

    def _receive_link(self, data: bytes, source: bytes, now: float) -> Flow | None:
        """Take a link datagram whose header is not known as the owner's; return the flow that it may go out on."""
        if not self._link_keys.verify(data, now + self._unix_offset):
            self.counters.link_bad_tag += 1
            return None
        if not self._is_transceiver(source):
            self.counters.link_foreign += 1
            return None
        if data[0] & MESSAGE:
            self._receive_message(data[HEADER_SIZE:], source, now)
            return None
        if not data[0] & DOWNLINK:
            self.counters.link_malformed += 1
            return None
        flow = self._claim(data[PATH_START:PATH_STOP], source, now, confirmed=False)
        if flow is not None and flow.confirmed:
            self.flows.by_header.pop(flow.downlink_header, None)
            flow.downlink_header = data[:HEADER_SIZE]
            self.flows.by_header[flow.downlink_header] = flow
        return flow

    def _is_transceiver(self, source: bytes) -> bool:
        if source in self._link_sources:
            return True
        if not self._networks.allow(*decode_address(source)):
            return False
        if len(self._link_sources) >= MAX_OWNERS:
            self._link_sources.clear()
        self._link_sources.add(source)
        return True

    def _receive_message(self, body: bytes, source: bytes, now: float) -> None:
        self.counters.messages += 1
        try:
            message = decode_message(body)
        except DecodeError:
            self.counters.link_malformed += 1
            return
        match message:
            case Confirm(path):
                flow = self._claim(path.encode(), source, now, confirmed=True)
                if flow is not None and self.cache is not None and now >= flow.stored_at + WRITE_INTERVAL:
                    flow.stored_at = now
                    self.cache.store(flow.key, source)
            case Announce(paths):
                for path in paths:
                    self._claim(path.encode(), source, now, confirmed=True)
            case Release(path):
                self.flows.release(path.encode(), source)
            case Moved():
                self._redirect(message, source, now)
            case Disown(ufrag):
                self._disown(ufrag, source, now)
            case _:
                self.counters.skipped_messages += 1

    def _claim(self, key: bytes, owner: bytes, now: float, *, confirmed: bool) -> Flow | None:
        """Let an owner have a path, if it may. The flow's header is made anew, so that it follows a change of key."""
        ingress = self.ingresses.get(key[:PATH_HEAD_SIZE])
        if ingress is None or len(from_port_and_address(key[PATH_HEAD_SIZE:])) != ingress.address_size:
            self.counters.unknown_ingress += 1
            return None
        write = self.flows.confirm if confirmed else self.flows.answered
        if not write(key, owner, now):
            self.counters.not_owner += 1
            return None
        flow = self.flows.flow(key)
        if flow is not None:
            flow.header = self._uplink_header(key, now)
        return flow

    def _redirect(self, moved: Moved, source: bytes, now: float) -> None:
        """Let the calls of one owner, whose tokens stay as they are, be its successor's."""
        reachable = len(self.redirects.resolve(moved.successor)) == self._link_address_size
        addresses = self.redirects.add(moved, source, now) if reachable else None
        if addresses is None:
            self.counters.moved_refused += 1
            return
        self._owner_of.clear()
        self.disowned.clear()
        self.flows.hand_over(*addresses, now)

    def _disown(self, ufrag: bytes, source: bytes, now: float) -> None:
        """Let no check with a token pass, if the transceiver that it names says so and has all its calls itself."""
        try:
            token = self._tokens.read(ufrag, now + self._unix_offset)
        except DecodeError:
            self.counters.link_malformed += 1
            return
        owner = token.owner
        if self.redirects.follow(owner) != owner or self.redirects.resolve(owner) != source:
            self.counters.not_owner += 1
            return
        self._owner_of.pop(ufrag, None)
        self.disowned.add(ufrag, now)
