"""Logging: mcp-tornado logs through structlog, and `configure` gives all loggers of the process one format.

The modules of the package log through `get_logger`. Only a process that owns its standard error calls `configure`.
An embedder that configures neither mcp-tornado's logging nor structlog gets structlog's defaults, from INFO up.
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
    """A logger that logs events through structlog and never raises.

    A failing log handler must not fail a request, so every exception of the log pipeline is dropped. An event below
    the level costs one comparison.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def is_enabled(self, level: int) -> bool:
        """Return whether events of this level are logged."""
        return level >= _threshold

    def debug(self, event: str, **values: object) -> None:
        """Log an event that helps to find a fault."""
        self._log(DEBUG, "debug", event, values)

    def info(self, event: str, **values: object) -> None:
        """Log an event of normal operation."""
        self._log(INFO, "info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log an event that an operator should look into."""
        self._log(WARNING, "warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Log a failure."""
        self._log(ERROR, "error", event, values)

    def exception(self, event: str, **values: object) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        # As text: a renderer that gets the exception itself may show the values of variables, such as session ids.
        self._log(ERROR, "error", event, {**values, "exception": traceback.format_exc()})

    def _log(self, level: int, method: str, event: str, values: dict[str, object]) -> None:
        if level < _threshold:
            return
        with contextlib.suppress(Exception):
            getattr(structlog.get_logger(self._name), method)(event, **values)


def get_logger(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(name)


class _ForwardingHandler(logging.Handler):
    """A handler that passes records to the root logger's handlers and drops the exceptions that these raise."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record to the root logger."""
        with contextlib.suppress(Exception):
            logging.getLogger().handle(record)


_FORWARDING_HANDLER: Final = _ForwardingHandler()

_suppression_counts: Final[dict[str, int]] = {}
"""How many `suppress_handler_errors` contexts are entered, by the name of the logger."""


@contextlib.contextmanager
def suppress_handler_errors(name: str) -> Generator[None]:
    """Keep failing log handlers from failing callers of the standard library's logger of this name.

    The context may be entered several times for one logger and left in any order. The last exit restores the logger.
    """
    logger = logging.getLogger(name)
    if not _suppression_counts.get(name):
        logger.addHandler(_FORWARDING_HANDLER)
        logger.propagate = False
    _suppression_counts[name] = _suppression_counts.get(name, 0) + 1
    try:
        yield
    finally:
        _suppression_counts[name] -= 1
        if not _suppression_counts[name]:
            logger.removeHandler(_FORWARDING_HANDLER)
            logger.propagate = True


def take_over_logger(name: str, minimum_level: int) -> None:
    """Replace the handlers that a library gave its logger, so that its records are logged as all others are.

    A failing log handler does not fail the library. Only a process that owns its standard error calls this function,
    after `configure`.

    Args:
        name: The library's logger.
        minimum_level: Records below this level are never logged, even if `configure` got a lower level.
    """
    level = max(minimum_level, logging.getLogger().level)
    logger = logging.getLogger(name)
    # The handler gets the level too, because a filter of the library may lower the level of a record.
    logger.handlers[:] = [_ForwardingHandler(level)]
    logger.propagate = False
    logger.setLevel(level)


def configure(level: str = "INFO", log_format: LogFormat = "auto") -> None:
    """Log the events of mcp-tornado, Tornado, the SDK and all other libraries to standard error, in one format.

    Args:
        level: The lowest level that is logged: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        log_format: `console` is for people. `json` writes one JSON object a line. `auto` is `console` if standard
            error is a terminal, else `json`.
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
        else [structlog.processors.format_exc_info, _escape_control_characters, _console_renderer()]
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


def _console_renderer() -> Processor:
    # The renderer's default tracebacks show the values of variables, such as session ids.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _escape_control_characters(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, so that no value can begin a new line or send commands to the terminal."""
    return {
        key: value.translate(_ESCAPES_IN_TEXT if key == "exception" else _ESCAPES) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _drop_color(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Remove the colored copy of the message that some libraries add."""
    event.pop("color_message", None)
    return event
