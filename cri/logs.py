"""What the daemon says: text on a terminal, one JSON object a line otherwise.

Code logs with the stdlib's ``logging``; fields go in ``extra=`` or are bound for
a stretch of code with ``bind``, which every line within it then carries.

Invariant: one event is one line, whatever is in its message; a bound field never
leaks into another task.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from runtime.errors import InvalidArgument

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

BOUND: ContextVar[Mapping[str, Any]] = ContextVar("crisp_log_fields")

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; what else is on one came by ``extra``."""

ID_FIELDS = frozenset({"sandbox_id", "container_id", "object_id"})
SHOWN = 12
"""Digits of an id that the text form shows."""

COLOURS: Mapping[int, str] = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1"}


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Put ``fields`` (``sandbox_id=...``, ``container_id=...``) on every line within.

    Tasks that are started within carry them too.
    """
    token = BOUND.set({**BOUND.get({}), **fields})
    try:
        yield
    finally:
        BOUND.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line: the bound ones, then its own."""
    own = {key: value for key, value in vars(record).items() if key not in STANDARD and not key.startswith("_")}
    return {**getattr(record, "_bound", {}), **own}


class TakeBound(logging.Filter):
    """Puts the bound fields on the record while the logging task's context is at hand."""

    def filter(self, record: logging.LogRecord) -> bool:
        record._bound = BOUND.get({})
        return True


class JsonFormatter(logging.Formatter):
    """``time`` (UTC, microseconds), ``level``, ``logger``, ``message``, the fields, ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, fraction = divmod(record.created, 1)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(fraction * 1e6):06d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in fields_of(record).items():
            line.setdefault(key, value)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """``12:00:01.250 warning crisp.rpc: words (sandbox_id=0123456789ab)``; a traceback follows indented."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"
        words = record.getMessage().replace("\n", "\\n")
        line = f"{stamp} {record.levelname.lower():<7} {record.name}: {words}"
        fields = " ".join(f"{key}={shown(key, value)}" for key, value in fields_of(record).items())
        if fields:
            line += f" ({fields})"
        colour = COLOURS.get(record.levelno)
        if self._colour and colour:
            line = f"\x1b[{colour}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + "\n".join("    " + part for part in self.formatException(record.exc_info).splitlines())
        return line


def shown(key: str, value: Any) -> str:
    return str(value)[:SHOWN] if key in ID_FIELDS else str(value).replace("\n", "\\n")


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send everything at ``level`` and above to ``stream`` (default stderr), once.

    Raises:
        InvalidArgument: there is no such level.
    """
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    terminal = target.isatty()
    handler.setFormatter(TextFormatter(colour=True) if terminal else JsonFormatter())
    handler.addFilter(TakeBound())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: str) -> None:
    """Also at run time (SIGHUP). Libraries stay at warning unless it is debug.

    Raises:
        InvalidArgument: there is no such level.
    """
    number = LEVELS.get(level)
    if number is None:
        raise InvalidArgument(f"the log level is one of {', '.join(LEVELS)}, not {level!r}")
    logging.getLogger().setLevel(max(number, logging.WARNING) if number > logging.DEBUG else number)
    logging.getLogger("crisp").setLevel(number)
