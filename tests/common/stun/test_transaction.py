from antiphon_common.stun import Transaction


def test_a_transaction_backs_off_to_the_longest_wait_and_then_fails() -> None:
    transaction = Transaction(b"t" * 12, b"request", 10.0, first_wait=0.5, longest_wait=1.5, attempts=4)
    sent = []
    while not transaction.failed:
        assert not transaction.retransmit(transaction.deadline - 0.001)
        at = transaction.deadline
        if transaction.retransmit(at):
            sent.append(at)
    assert sent == [10.5, 11.5, 13.0]
    assert transaction.deadline == 14.5
    assert not transaction.retransmit(100.0)
