"""Reassembly of chunks into messages, ordered and unordered."""

from random import Random

import pytest

from antiphon_common.errors import RemoteProtocolError
from antiphon_transceiver.sctp.chunks import Data
from antiphon_transceiver.sctp.reassembly import MAX_MESSAGE_SIZE, MessageReassembler


def fragments(first_tsn: int, stream: int, ssn: int, text: str, *, unordered: bool = False) -> list[Data]:
    """Cut a message into chunks of one letter."""
    last = len(text) - 1
    return [
        Data(first_tsn + index, stream, ssn, 51, letter.encode(), index == 0, index == last, unordered)
        for index, letter in enumerate(text)
    ]


def push(reassembler: MessageReassembler, *chunks: Data) -> list[str]:
    return [message.data.decode() for chunk in chunks for message in reassembler.push(chunk.tsn, chunk)]


@pytest.mark.parametrize("seed", range(20))
def test_fragments_in_any_order(seed: int) -> None:
    sent = fragments(0, 1, 0, "one") + fragments(3, 1, 1, "two") + fragments(6, 2, 0, "six")
    Random(seed).shuffle(sent)
    reassembler = MessageReassembler()
    received = push(reassembler, *sent)
    assert sorted(received) == ["one", "six", "two"]
    assert received.index("one") < received.index("two")
    assert reassembler.size == reassembler.chunks == 0


def test_an_unordered_message_is_delivered_at_once() -> None:
    reassembler = MessageReassembler()
    assert push(reassembler, *fragments(3, 1, 1, "late"), *fragments(7, 1, 0, "now", unordered=True)) == ["now"]
    assert reassembler.size == 4
    assert push(reassembler, *fragments(0, 1, 0, "one")) == ["one", "late"]


def test_adjacent_fragments_of_different_messages_are_not_joined() -> None:
    reassembler = MessageReassembler()
    begun, ended = fragments(0, 1, 0, "ab")[0], fragments(1, 1, 1, "xy")[1]
    assert push(reassembler, begun, Data(1, 2, 0, 51, b"z", False, True), ended) == []


def test_skipping_drops_incomplete_messages_and_delivers_the_rest() -> None:
    reassembler = MessageReassembler()
    abandoned, waiting = fragments(0, 1, 0, "abc"), fragments(3, 1, 1, "ok")
    running = fragments(5, 2, 0, "run")
    assert push(reassembler, abandoned[0], abandoned[2], *waiting, running[0]) == []
    # No fragment of the message that begins at TSN 5 is missing: skipping to 5 does not drop it.
    assert [m.data for m in reassembler.skip(5, ((1, 0),))] == [b"ok"]
    assert push(reassembler, *running[1:]) == ["run"]
    assert reassembler.size == reassembler.chunks == 0


def test_skipping_delivers_complete_messages_among_the_skipped() -> None:
    reassembler = MessageReassembler()
    push(reassembler, *fragments(1, 1, 1, "b"), *fragments(3, 1, 3, "d"))
    assert [m.data for m in reassembler.skip(2, ((1, 2),))] == [b"b", b"d"]
    assert push(reassembler, *fragments(4, 1, 4, "e")) == ["e"]


def test_sequence_numbers_wrap() -> None:
    reassembler = MessageReassembler()
    texts = [str(number) for number in range(65530, 65545)]
    for number in range(65530):
        reassembler.push(number, Data(number, 1, number, 51, b"x"))
    chunks = [Data(n, 1, n & 0xFFFF, 51, str(n).encode()) for n in range(65530, 65545)]
    assert push(reassembler, *reversed(chunks)) == texts


def test_a_reset_stream_expects_ssn_zero() -> None:
    reassembler = MessageReassembler()
    assert push(reassembler, *fragments(0, 1, 0, "a"), *fragments(2, 1, 2, "c")) == ["a"]
    reassembler.reset_streams([1])
    assert reassembler.size == 0
    assert push(reassembler, *fragments(3, 1, 0, "new")) == ["new"]


def test_a_message_beyond_the_maximum_size_is_an_error() -> None:
    reassembler = MessageReassembler()
    part = bytes(MAX_MESSAGE_SIZE // 4)
    for number in range(4):
        reassembler.push(number, Data(number, 1, 0, 53, part, number == 0, False))
    with pytest.raises(RemoteProtocolError):
        reassembler.push(4, Data(4, 1, 0, 53, b"x", False, True))


@pytest.mark.parametrize("seed", range(30))
def test_messages_are_complete_and_in_order_in_any_order_of_arrival(seed: int) -> None:
    """Messages of three streams, cut and shuffled; some lose a fragment and are skipped by a FORWARD TSN."""
    print("seed", seed)
    random, reassembler = Random(seed), MessageReassembler()
    chunks: list[Data] = []
    texts: dict[int, list[str]] = {stream: [] for stream in range(3)}
    lost: dict[int, int] = {}
    for number in range(40):
        stream = random.randrange(3)
        ssn = sum(1 for chunk in chunks if chunk.stream == stream and chunk.beginning)
        text = f"{number}-" + "x" * random.randrange(1, 6)
        pieces = fragments(len(chunks), stream, ssn, text)
        if random.random() < 0.2:
            lost[random.choice(pieces).tsn] = stream
        else:
            texts[stream].append(text)
        chunks += pieces
    arriving = [chunk for chunk in chunks if chunk.tsn not in lost]
    random.shuffle(arriving)
    received: list[tuple[int, str]] = []
    for chunk in arriving:
        received += [(message.stream, message.data.decode()) for message in reassembler.push(chunk.tsn, chunk)]
    skipped = {chunk.stream: chunk.ssn for chunk in chunks if chunk.tsn in lost}
    ssns = [(stream, skipped[stream]) for stream in set(lost.values())]
    received += [(m.stream, m.data.decode()) for m in reassembler.skip(len(chunks) - 1, ssns)]
    for stream, expected in texts.items():
        assert [text for number, text in received if number == stream] == expected
    assert (reassembler.size, reassembler.chunks) == (0, 0)
