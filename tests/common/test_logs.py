import json
import logging
from collections.abc import Iterator

import pytest

from antiphon_common import logs

logger = logging.getLogger("antiphon_relay.shell.service")


@pytest.fixture(autouse=True)
def leave_no_handler() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


def test_a_text_record_is_one_line_with_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logger.info("call ended", extra={"call": "rtc_1", "reason": 'said "no"\nand left', "empty": ""})
    line = capsys.readouterr().err
    assert line.endswith(
        ' info    antiphon_relay.shell.service: call ended call=rtc_1 reason="said \\"no\\"\\nand left" empty=""\n'
    )


def test_text_of_a_peer_cannot_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logger.info("refused: %s", "no\n2026-01-01 info all is well")
    assert capsys.readouterr().err.count("\n") == 1


UNPRINTABLE = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))]
UNPRINTABLE += [
    "\u2028",
    "\u2029",
    "\u202a",
    "\u202b",
    "\u202c",
    "\u202d",
    "\u202e",
    "\u2066",
    "\u2067",
    "\u2068",
    "\u2069",
    "\u200e",
    "\u200f",
    "\u061c",
    "\ufeff",
]
UNPRINTABLE += ["\ud800", "\udfff", "\U000e0001", "\ufff9", "\u00ad"]


@pytest.mark.parametrize("char", UNPRINTABLE, ids=lambda char: f"U+{ord(char):04X}")
@pytest.mark.parametrize("form", ["text", "json"])
def test_control_and_format_characters_are_escaped(form: str, char: str, capsys: pytest.CaptureFixture[str]) -> None:
    """C0 and C1 controls, line and paragraph separators, bidirectional formats and surrogates from a peer."""
    logs.configure(form)
    try:
        raise ValueError(f"a{char}b")
    except ValueError:
        logger.exception("refused: a%sb", char, extra={"reason": f"a{char}b", "peer": char})
    line = capsys.readouterr().err
    assert char not in line.removesuffix("\n")
    assert line.isascii()
    assert len(line.splitlines()) == 1


def test_letters_of_any_script_are_not_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logger.info("Grüße %s", "שלום 你好 😀", extra={"tenant": "größe", "reason": "ça va"})
    line = capsys.readouterr().err
    assert all(text in line for text in ("Grüße שלום 你好 😀", "tenant=größe", 'reason="ça va"'))


def test_a_json_record_is_one_object_per_line_with_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("lost %d", 1, extra={"call": "rtc_1"})
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["message"], record["call"]) == ("error", "lost 1", "rtc_1")
    assert record["exception"].endswith("OSError: gone")


def test_info_records_of_libraries_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("httpx").info("HTTP Request: GET /load")
    assert capsys.readouterr().err == ""
