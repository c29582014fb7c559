"""The messages of a supervisor to its workers."""

import pytest

from antiphon_relay.shell.worker_ipc import SetKeys, StartWorker


@pytest.mark.parametrize(
    "message",
    [SetKeys("0:c2VjcmV0"), StartWorker(0, (), (), 0, "redis://:c2VjcmV0@cache", "0:c2VjcmV0", ())],
    ids=["keys", "start"],
)
def test_no_representation_of_a_message_contains_secrets(message: SetKeys | StartWorker) -> None:
    assert "c2VjcmV0" not in f"{message} {message!r}"
