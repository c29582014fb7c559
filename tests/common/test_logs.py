import json
import logging
from collections.abc import Iterator

import pytest

from antiphon_common import logs

logger = logging.getLogger("antiphon_relay.service")


@pytest.fixture(autouse=True)
def leave_no_handler() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


def test_text_is_one_line_with_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logger.info("call ended", extra={"call": "rtc_1", "reason": 'said "no"\nand left', "empty": ""})
    line = capsys.readouterr().err
    assert line.endswith(
        ' info    antiphon_relay.service: call ended call=rtc_1 reason="said \\"no\\"\\nand left" empty=""\n'
    )


def test_what_a_peer_said_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logger.info("refused: %s", "no\n2026-01-01 info all is well")
    assert capsys.readouterr().err.count("\n") == 1


def test_json_is_one_object_a_line_with_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("lost %d", 1, extra={"call": "rtc_1"})
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["message"], record["call"]) == ("error", "lost 1", "rtc_1")
    assert record["exception"].endswith("OSError: gone")


def test_requests_of_libraries_are_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("httpx").info("HTTP Request: GET /load")
    assert capsys.readouterr().err == ""
