"""What the tests of the log share."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from mcp_tornado import log


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


class FailingHandler(logging.Handler):
    """A handler that cannot write."""

    def emit(self, record):
        raise OSError("no space left on device")


def parse_lines(stream):
    """Return the events that were logged to a stream as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def configure(monkeypatch):
    """Return a function that configures the log to write to a stream, and returns the stream.

    The configuration of before the test is restored after it.
    """
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(log, "_threshold", log._threshold)
    monkeypatch.setattr(logging, "captureWarnings", lambda capture: None)

    def to_stream(level="INFO", log_format="json", stream=None):
        stream = stream or io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            log.configure(level, log_format)
        return stream

    yield to_stream
    structlog.contextvars.clear_contextvars()
    structlog.configure(**config)
    root.setLevel(level)
    root.handlers[:] = handlers
