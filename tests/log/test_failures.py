"""A log that fails never fails its caller."""

from __future__ import annotations

import io
import logging

import pytest
import structlog

from mcp_tornado import log
from tests.log.conftest import FailingHandler

LOGGER = log.get_logger("mcp_tornado.test")


class FailingStream(io.StringIO):
    def write(self, text):
        raise OSError("no space left on device")


class Unprintable:
    """A value that cannot be converted to text."""

    def __str__(self):
        raise ZeroDivisionError("cannot be shown")

    __repr__ = __str__


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception"])
def test_a_handler_that_raises_never_fails_the_caller(configure, method):
    configure("DEBUG")
    logging.getLogger().handlers.insert(0, FailingHandler())
    with pytest.raises(OSError, match="no space"):
        logging.getLogger("foreign").error("the handler raises")
    getattr(LOGGER, method)("x")


def test_a_stream_that_cannot_be_written_to_never_fails_the_caller(configure, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    configure(stream=FailingStream())
    LOGGER.error("x")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_that_cannot_be_rendered_never_fails_the_caller_and_later_events_are_logged(
    configure, log_format, monkeypatch
):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = configure(log_format=log_format)
    LOGGER.error("bad", value=Unprintable())
    LOGGER.error("good")
    assert "good" in stream.getvalue()


def test_a_processor_that_raises_never_fails_the_caller(configure):
    configure()

    def fail(*_):
        raise ZeroDivisionError

    structlog.configure(processors=[fail])
    LOGGER.error("x")
