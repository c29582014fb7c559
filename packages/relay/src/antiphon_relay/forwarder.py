"""The forwarder: takes clients' datagrams to their owners, and owners' datagrams to clients.

Uplink: a binding request goes to the owner that its route token names, everything else to the owner of its flow.
Requests are limited, so that a flood of valid ones does not reach an owner. Requests of a confirmed flow have the limit
of the flow. Those beyond it, and all others, have the limits of the token and of the owner. A token that its owner has
disowned, since the call is over, leads nowhere and uses up no limit. Other packets of a flow are limited too, far above
the rate of a call.

Downlink: a path goes, provisionally, to the owner that sends on it. On a path that is confirmed for another owner the
packet is dropped and counted. Otherwise an off-path attacker could send checks for its own call with the spoofed source
of a live client (RFC 3552), and that client would receive answers and handshakes of a call that it does not know. A
client that starts a new call from a port whose call has just vanished waits until the previous owner releases the path,
or has been silent for 10 s.

The forwarder sends HELLO to each transceiver every 25 ms, and learns their flows from the answers. Where one
transceiver claims the calls of another, tokens and flows are redirected here too.

A `Forwarder` is a plain object and no `Core`: its shell forwards 64 datagrams for each system call, so batches go in,
and outboxes of encoded addresses (`antiphon_common.sockaddr`) come out. A call for each datagram would double the cost
of forwarding it. Time is an argument here too, and only `handle_timeout` and `poll_timeout` are those of a core. What
happens here is counted; there are no events.
"""

from collections.abc import Callable, Iterable, Sequence

from antiphon_common.core import Path
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

TOKEN_BUCKETS = 65536
"""Buckets, half a megabyte; of 1,000 calls that connect at once, one in 65 shares its bucket."""
TOKEN_CHECKS_PER_SECOND, TOKEN_CHECKS_AT_ONCE = 50.0, 100
"""Binding requests with one token: a connecting browser sends 20 a second for each of its addresses."""
OWNER_CHECKS_PER_SECOND, OWNER_CHECKS_AT_ONCE = 2000.0, 1000
"""Binding requests to one owner outside its confirmed flows: answering them takes a tenth of its time."""

MAX_OWNERS = 4096
"""Owners, tokens and link sources cached. They are only read again once the cache, beyond this, has been cleared."""
CACHE_SECONDS = 10.0
"""How long a token or a link header that was read stays cached, so that a retired key ends."""
EXPIRE_INTERVAL = 1.0
"""Seconds between two checks for what has expired."""

MIN_MEDIA_BYTE = 20
"""First bytes from here on are those of DTLS and RTP (RFC 7983), which the flow cache looks up."""

HELLO_INTERVAL = 0.025
"""Seconds between two HELLOs to a transceiver, which counts a relay as silent after 100 ms."""
MAX_TRANSCEIVERS = 512
"""Transceivers that get HELLO, which is 20,000 datagrams a second. The rest of a larger cluster gets none."""


class RelayCounters:
    """Counts forwarded packets, and dropped ones by their reason. They are exported as `antiphon_relay_*`."""

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
    """A transceiver that tokens name: its encoded link address, and the limit of its binding requests."""

    __slots__ = ("address", "checks")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.checks = Bucket(OWNER_CHECKS_PER_SECOND, OWNER_CHECKS_AT_ONCE)


class Forwarder:
    """Forwards the datagrams of one relay worker. The packet loop passes batches in, and sends what the outboxes hold.

    `ingresses` are the public addresses, each with an outbox; `link_outbox` is that of the link. The loop empties them
    after each call, so that they hold what one batch makes. `link_address_size` is the size of encoded addresses on the
    link. `unix_now` is Unix time in seconds, by which keys start and retire; each `handle_timeout` updates it, at least
    once in `EXPIRE_INTERVAL`.
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
        unix_now: float,
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
        """Encoded link addresses of the transceivers that get HELLO."""
        self._link_address_size = link_address_size
        self._tokens = tokens
        self._networks = networks
        self._link_keys = link_keys
        self._unix_now = unix_now
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
        """Send HELLO to the transceivers at these link addresses, and to no others."""
        allowed = [encode_address(*address) for address in addresses if self._networks.allow(*address)]
        reachable = [address for address in dict.fromkeys(allowed) if len(address) == self._link_address_size]
        self.transceivers = reachable[:MAX_TRANSCEIVERS]

    def forward_uplink(
        self, ingress: Ingress, batch: Sequence[Datagram], now: float, *, overloaded: bool = False
    ) -> None:
        """Put clients' datagrams, given with their sources, into `link_outbox`.

        `overloaded` means that they arrive faster than they can be forwarded.
        """
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
            elif self.cache is not None and data and data[0] >= MIN_MEDIA_BYTE:
                self.cache.wait(ingress, (data, source), now)
            else:
                self.counters.unknown += 1
        self.counters.uplink += len(outbox) - before

    def forward_downlink(self, batch: Sequence[Datagram], now: float, *, overloaded: bool = False) -> None:
        """Put owners' datagrams, given with their sources, into the outboxes of the ingresses; take their messages."""
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
            flow.last_received = now
            flow.ingress.outbox.append((data[HEADER_SIZE:], flow.client))
            forwarded += 1
        self.counters.downlink += forwarded

    def restore(self, keys: Iterable[bytes], values: Iterable[bytes | None], now: float) -> None:
        """Restore flows from the values that the flow cache has of these paths, and forward the packets that waited."""
        assert self.cache is not None
        for key, owner, ingress, packets in self.cache.lookup_succeeded(keys, values, now):
            present = self.redirects.follow_address(owner)
            if len(present) == self._link_address_size and self._is_transceiver(present):
                self._restore(key, present, now)
                self.forward_uplink(ingress, packets, now)

    # Time

    def handle_timeout(self, now: float, unix_now: float) -> None:
        """Put the HELLOs that are due into `link_outbox`, and end what has expired."""
        self._unix_now = unix_now
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_INTERVAL
            self._expire(now, unix_now)
        if self.transceivers and now >= self._hello_at:
            self._hello_at = now + HELLO_INTERVAL
            self._send_hello()

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due."""
        return min(self._hello_at, self._expire_at) if self.transceivers else self._expire_at

    def _send_hello(self) -> None:
        away = tuple(ingress.id for ingress in self.ingresses.values() if ingress.away)
        if not self._hello or away != self._away:
            self._away = away
            ingresses = tuple(ingress.id for ingress in self.ingresses.values())
            self._hello = self._link_keys.encode(RelayHello(ingresses, self._boot_id, away), self._unix_now)
        self.link_outbox.extend([(self._hello, address) for address in self.transceivers])

    def _expire(self, now: float, unix_now: float) -> None:
        self.flows.expire(now)
        self.disowned.expire(now)
        if self.cache is not None:
            self.cache.handle_timeout(now, unix_now)
        if self.redirects.expire(now):
            self._owner_of.clear()
        if now >= self._forget_at:
            self._forget_at = now + CACHE_SECONDS
            self._owner_of.clear()
            self.flows.by_header.clear()
            self._hello = b""

    # Uplink

    def _forward_request(self, ingress: Ingress, data: bytes, source: bytes, flow: Flow | None, now: float) -> None:
        ufrag = peek_username(data)
        if ufrag is None:
            self.counters.malformed_request += 1
            return
        owner = self._owner_of.get(ufrag) or self._read_token(ufrag)
        # without an owner the key of the token has retired, which the call outlives
        is_own = flow is not None and flow.confirmed and (owner is None or flow.owner == owner.address)
        if is_own and flow is not None and flow.checks.allow(now):
            self.link_outbox.append((flow.header + data, flow.owner))
            return
        if owner is None or not self._admit(ufrag, owner, now):
            return
        header = self._uplink_header(ingress.key(source)) if flow is None else flow.header
        self.link_outbox.append((header + data, owner.address))

    def _read_token(self, ufrag: bytes) -> _Owner | None:
        """Return the owner that a token names, or None if it is disowned, invalid or leads nowhere.

        Only valid tokens are cached.
        """
        if ufrag in self.disowned:
            self.counters.disowned += 1
            return None
        try:
            token = self._tokens.read(ufrag, self._unix_now)
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
            flow.header = self._uplink_header(key)

    def _uplink_header(self, key: bytes) -> bytes:
        return self._link_keys.header(Path.decode(key), 0, self._unix_now)

    # Downlink

    def _receive_link(self, data: bytes, source: bytes, now: float) -> Flow | None:
        """Take a link datagram whose header is not cached; return the flow that it goes out on, if there is one."""
        if not self._link_keys.verify(data, self._unix_now):
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
        """Give a path to an owner, if it is allowed. The flow gets a new header, which follows a change of key."""
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
            flow.header = self._uplink_header(key)
        return flow

    def _redirect(self, moved: Moved, source: bytes, now: float) -> None:
        """Redirect the calls of a previous owner, whose tokens stay the same, to its successor."""
        reachable = len(self.redirects.resolve(moved.successor)) == self._link_address_size
        addresses = self.redirects.add(moved, source, now) if reachable else None
        if addresses is None:
            self.counters.moved_refused += 1
            return
        self._owner_of.clear()
        self.disowned.clear()
        self.flows.transfer(*addresses, now)

    def _disown(self, ufrag: bytes, source: bytes, now: float) -> None:
        """Drop all checks with a token, if the transceiver that it names sent this and has not moved its calls."""
        try:
            token = self._tokens.read(ufrag, self._unix_now)
        except DecodeError:
            self.counters.link_malformed += 1
            return
        owner = token.owner
        if self.redirects.follow(owner) != owner or self.redirects.resolve(owner) != source:
            self.counters.not_owner += 1
            return
        self._owner_of.pop(ufrag, None)
        self.disowned.add(ufrag, now)
