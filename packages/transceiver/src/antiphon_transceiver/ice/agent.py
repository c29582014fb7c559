"""What the two ICE agents have in common, so that what uses them need not know the role."""

from collections.abc import Collection
from typing import Protocol

from antiphon_common.core import Core, Path
from antiphon_transceiver.ice.events import IceEvent
from antiphon_transceiver.ice.paths import PathState


class IceAgent(Core[IceEvent], Protocol):
    """An ICE agent of either role, for one component.

    It takes STUN datagrams by the five methods. Its owner reports every other datagram with `received` and `sent`,
    and sends to `selected`.
    """

    authenticated: bool
    """Whether the STUN datagram received last proved to come from the peer."""

    @property
    def selected(self) -> Path | None:
        """The path to send to, once there is one."""

    @property
    def settled(self) -> PathState | None:
        """The selected path while it is validated and the peer is connected; None while packets may change that.

        SRTP that is received by it needs no `received`, only its `last_received` set. What is sent to it needs neither
        `may_send` nor `sent`.
        """

    @property
    def paths(self) -> Collection[Path]:
        """The paths by which the peer may send."""

    @property
    def rejected_checks(self) -> bool:
        """Whether checks arrived that were not authentic."""

    def is_validated(self, path: Path) -> bool:
        """Return whether the peer proved to be reachable by `path`."""

    def received(self, path: Path, size: int, now: float, *, authenticated: bool) -> bool:
        """Report a datagram of `size` bytes that was not STUN. Return True if there is something to poll."""

    def may_send(self, path: Path, size: int) -> bool:
        """Return whether a datagram of `size` bytes may be sent to `path`."""

    def sent(self, path: Path, size: int) -> None:
        """Report a datagram that did not come from `poll_transmit`."""

    def validate(self, path: Path, now: float) -> None:
        """Report that DTLS proved the peer to be at `path`."""
