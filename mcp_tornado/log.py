"""Logging: structlog for our events, one format for everybody's.

`get_logger` is what the package logs through; `configure` is for the process that owns the terminal. A library
user who calls neither `configure` nor structlog's own gets structlog's defaults, from INFO up.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Generator
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "console", "json"]

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}

_ESCAPES_IN_TEXT: Final = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}

_threshold = INFO


class Logger:
    """Logs events through structlog; below the level it costs one comparison, and it never raises.

    A request must not fail because a log handler does, so whatever the pipeline raises is dropped.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def enabled(self, level: int) -> bool:
        """Say whether events of this level are logged at all."""
        return level >= _threshold

    def debug(self, event: str, **values: object) -> None:
        """Log something that is of use while looking for a fault."""
        self._log(DEBUG, "debug", event, values)

    def info(self, event: str, **values: object) -> None:
        """Log something that happened as it should."""
        self._log(INFO, "info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log something that somebody should look at."""
        self._log(WARNING, "warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Log a failure."""
        self._log(ERROR, "error", event, values)

    def exception(self, event: str, **values: object) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        # As text: renderers that know the exception show the values of variables, session ids among them.
        self._log(ERROR, "error", event, {**values, "exception": traceback.format_exc()})

    def _log(self, level: int, method: str, event: str, values: dict[str, object]) -> None:
        if level < _threshold:
            return
        with contextlib.suppress(Exception):
            getattr(structlog.get_logger(self._name), method)(event, **values)


def get_logger(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(name)


class _Containing(logging.Handler):
    """Hands records on to the root logger's handlers, and drops what they raise."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on."""
        with contextlib.suppress(Exception):
            logging.getLogger().handle(record)


_CONTAINING: Final = _Containing()

_containers: Final[dict[str, int]] = {}


@contextlib.contextmanager
def contained(name: str) -> Generator[None]:
    """Let no log handler fail those who log through the standard library's logger of this name.

    It may be entered several times, and left in any order: the last to leave undoes it.
    """
    logger = logging.getLogger(name)
    if not _containers.get(name):
        logger.addHandler(_CONTAINING)
        logger.propagate = False
    _containers[name] = _containers.get(name, 0) + 1
    try:
        yield
    finally:
        _containers[name] -= 1
        if not _containers[name]:
            logger.removeHandler(_CONTAINING)
            logger.propagate = True


def adopt(name: str, lowest: int) -> None:
    """Send what a library logs through handlers of its own the way of everybody else's.

    No log handler fails who logs. It is for the process that owns the terminal, after `configure`.

    Args:
        name: The library's logger.
        lowest: What is below this level is never logged, whatever `configure` was told.
    """
    level = max(lowest, logging.getLogger().level)
    logger = logging.getLogger(name)
    # The level of the handler, too: a library may lower the level of a record on its way.
    logger.handlers[:] = [_Containing(level)]
    logger.propagate = False
    logger.setLevel(level)


def configure(level: str = "INFO", log_format: LogFormat = "auto") -> None:
    """Send our events, Tornado's, the SDK's and everybody else's to standard error in one format.

    Args:
        level: The lowest level that is logged: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        log_format: `console` for people, `json` for one JSON object a line, `auto` for the first on a terminal
            and the second elsewhere.
    """
    global _threshold
    _threshold = logging.getLevelNamesMapping()[level]
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    rendering: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [structlog.processors.format_exc_info, _escape_control_characters, _console()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _drop_color, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)


def _console() -> Processor:
    # Not the renderer's own tracebacks: they show the values of variables, session ids among them.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _escape_control_characters(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Let no value begin a line of its own, or command the terminal."""
    return {
        key: value.translate(_ESCAPES_IN_TEXT if key == "exception" else _ESCAPES) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _drop_color(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Remove the coloured copy of the message that some libraries add."""
    event.pop("color_message", None)
    return event
