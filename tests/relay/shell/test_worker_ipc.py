"""What a supervisor hands to its workers."""

import pytest

from antiphon_relay.shell.worker_ipc import Adopt, Rekey


@pytest.mark.parametrize(
    "message",
    [Rekey("0:c2VjcmV0"), Adopt(0, (), (), 0, "redis://:c2VjcmV0@cache", "0:c2VjcmV0", ())],
    ids=["rekey", "adopt"],
)
def test_no_text_form_of_a_message_shows_its_secrets(message: Rekey | Adopt) -> None:
    assert "c2VjcmV0" not in f"{message} {message!r}"
