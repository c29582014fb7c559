"""Retransmission of one request until it is answered or given up (RFC 8489 §6.2.1)."""


class Transaction:
    """A request under way. Its first transmission is the caller's; `retransmit` tells about the later ones.

    The wait doubles from `first_wait` to at most `longest_wait` (seconds); after `attempts` transmissions in all and
    one more wait the transaction has failed.
    """

    __slots__ = ("_attempts", "_longest_wait", "_wait", "datagram", "deadline", "failed", "transaction_id")

    def __init__(
        self,
        transaction_id: bytes,
        datagram: bytes,
        now: float,
        *,
        first_wait: float,
        longest_wait: float,
        attempts: int,
    ) -> None:
        self.transaction_id = transaction_id
        self.datagram = datagram
        self.deadline = now + first_wait
        self.failed = False
        self._wait = first_wait
        self._longest_wait = longest_wait
        self._attempts = attempts - 1

    def retransmit(self, now: float) -> bool:
        """Whether `datagram` has to be sent again now; sets `failed` when the last wait is over."""
        if now < self.deadline or self.failed:
            return False
        if not self._attempts:
            self.failed = True
            return False
        self._attempts -= 1
        self._wait = min(2 * self._wait, self._longest_wait)
        self.deadline = now + self._wait
        return True
