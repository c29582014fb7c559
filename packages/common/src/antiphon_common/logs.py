"""Logging of a service: one line for each record on standard error, as `key=value` text or as JSON.

Pass the details of a record in `extra`. Both formats then have them as fields:
`logger.info("call ended", extra={"call": call_id, "reason": reason})`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

CHATTY = ("httpx", "httpcore", "trio-websocket")
"""Libraries that log a line for each request. Only their warnings are kept."""


class _Formatter(logging.Formatter):
    """Converts a record to fields, in the order time, level, logger, message, extra, exception."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record, in order."""
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
    """Send the records of all loggers to standard error in `form`. A later call replaces an earlier one."""
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
    """Escape characters that could end a line, move a cursor or change the direction of text.

    Those are C0 and C1 controls, line and paragraph separators, format characters, and lone surrogates.
    """
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
