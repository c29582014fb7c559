"""Logging of a service: one line per record on standard error, as `key=value` text or as JSON.

What a record is about goes into `extra`, so that both forms carry it as fields:
`logger.info("call ended", extra={"call": call_id, "reason": reason})`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

CHATTY = ("httpx", "httpcore", "trio-websocket")
"""Libraries whose every request would be a line; their warnings are kept."""


class _Formatter(logging.Formatter):
    """Turns a record into its fields, in the order time, level, logger, message, extra, exception."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        if not fields["message"].isprintable():
            fields["message"] = _quote(fields["message"])
        head = "{time} {level:7} {logger}: {message}".format(**fields)
        return head + "".join(f" {name}={_quote(value)}" for name, value in list(fields.items())[4:])


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), default=str)


def configure(form: Literal["text", "json"] | str = "text", level: int = logging.INFO) -> None:
    """Send every logger's records to standard error in `form`; a later call replaces an earlier one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _quote(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else _escape(json.dumps(text, ensure_ascii=False))


def _escape(text: str) -> str:
    """Escape what could end a line, move a cursor or turn the direction of text: C0 and C1 controls, line and paragraph
    separators, bidirectional and other format characters, lone surrogates."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
