"""Retransmission of one request until it is answered or given up (RFC 8489 §6.2.1)."""


class Transaction:
    """A request without a response yet. The caller sends it first; `retransmit` returns when to send it again.

    The wait doubles from `first_wait` to at most `longest_wait` (seconds). After `attempts` transmissions and one more
    wait the transaction has failed.
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
        """Return True if `datagram` has to be sent again now. Sets `failed` once the last wait is over."""
        if now < self.deadline or self.failed:
            return False
        if not self._attempts:
            self.failed = True
            return False
        self._attempts -= 1
        self._wait = min(2 * self._wait, self._longest_wait)
        self.deadline = now + self._wait
        return True
