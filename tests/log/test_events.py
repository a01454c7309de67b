"""What is logged, and in which format."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import datetime

import pytest
import structlog

from mcp_tornado import log
from tests.log.conftest import Terminal, parse_lines


class CountedText:
    """A value that counts how often it is converted to text."""

    def __init__(self):
        self.rendered = 0

    def __str__(self):
        self.rendered += 1
        return "rendered"

    __repr__ = __format__ = __str__


LOGGER = log.get_logger("mcp_tornado.test")
METHODS = ["debug", "info", "warning", "error"]


# Format


def test_an_event_is_one_json_object_on_a_line(configure):
    stream = configure()
    LOGGER.info("session.created", session="abcdefgh", count=3, nothing=None)
    (line,) = parse_lines(stream)
    assert line["event"] == "session.created"
    assert line["level"] == "info"
    assert line["logger"] == "mcp_tornado.test"
    assert (line["session"], line["count"], line["nothing"]) == ("abcdefgh", 3, None)
    moment = datetime.fromisoformat(line["timestamp"])
    assert moment.utcoffset().total_seconds() == 0


@pytest.mark.parametrize("value", ["two\nlines", '"quoted"', "\x1b[31mred", "ä\u2028", "\x00"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_cannot_forge_a_line_or_control_a_terminal(configure, log_format, value):
    stream = configure(log_format=log_format)
    LOGGER.info("session.created", client=value, client_version=f"1{value}2")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert [character for character in text[:-1] if ord(character) < 0x20 or ord(character) == 0x7F] == []


def test_an_event_in_the_console_format_is_readable(configure):
    stream = configure(log_format="console")
    LOGGER.warning("session.rejected", reason="unknown")
    text = stream.getvalue()
    assert "session.rejected" in text
    assert "reason=unknown" in text
    assert "warning" in text
    assert "mcp_tornado.test" in text
    assert "\x1b" not in text, "no colors outside of a terminal"


def test_the_format_auto_is_json_except_on_a_terminal(configure):
    stream = configure(log_format="auto")
    LOGGER.info("x", a=1)
    assert parse_lines(stream)[0]["a"] == 1
    terminal = configure(log_format="auto", stream=Terminal())
    LOGGER.info("x", a=1)
    assert "\x1b[" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        parse_lines(terminal)


def test_the_format_json_is_used_on_a_terminal_too(configure):
    terminal = configure(log_format="json", stream=Terminal())
    LOGGER.info("x", a=1)
    assert parse_lines(terminal)[0]["a"] == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_with_its_traceback(configure, log_format):
    stream = configure(log_format=log_format)
    try:
        raise LookupError("what happened")
    except LookupError:
        LOGGER.exception("request.failed", handler="X")
    text = stream.getvalue()
    assert "LookupError: what happened" in text
    assert "Traceback" in text
    assert "test_an_exception_is_logged_with_its_traceback" in text
    if log_format == "json":
        (line,) = parse_lines(stream)
        assert (line["event"], line["level"], line["handler"]) == ("request.failed", "error", "X")


def _fail_with(session_id):
    raise LookupError(f"nothing for {len(session_id)} characters")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_traceback_shows_no_values_of_variables(configure, log_format, terminal):
    """Variables hold session ids, credentials and the arguments of tools."""
    stream = configure(log_format=log_format, stream=Terminal() if terminal else None)
    for report in (LOGGER.exception, logging.getLogger("tornado.application").exception):
        try:
            _fail_with("".join(["hun", "ter2"]))
        except LookupError:
            report("request.failed")
    assert stream.getvalue().count("nothing for 7 characters") == 2
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_text_of_an_exception_cannot_control_a_terminal(configure, log_format):
    """The text of a tool's exception often quotes the client."""
    stream = configure(log_format=log_format)
    for report in (LOGGER.exception, logging.getLogger("tornado.application").exception):
        try:
            raise ValueError("bad input: \x1b[2J\x1b]0;title\x07")
        except ValueError:
            report("handler.failed")
    assert stream.getvalue().count("bad input") >= 2
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


def test_values_bound_to_the_context_are_in_every_event(configure):
    stream = configure()
    with structlog.contextvars.bound_contextvars(session="abcdefgh", request="r1"):
        LOGGER.info("inside")
        logging.getLogger("tornado.access").warning("inside as well")
    LOGGER.info("outside")
    inside, foreign, outside = parse_lines(stream)
    assert (inside["session"], inside["request"]) == (foreign["session"], foreign["request"]) == ("abcdefgh", "r1")
    assert "session" not in outside


@pytest.mark.parametrize("name", ["tornado.access", "tornado.application", "tornado.general", "mcp.server", "mine"])
def test_events_of_other_loggers_have_the_same_format(configure, name):
    stream = configure()
    logging.getLogger(name).warning("%s happened", "something", extra={"more": 1})
    (line,) = parse_lines(stream)
    assert (line["event"], line["level"], line["logger"], line["more"]) == ("something happened", "warning", name, 1)
    assert "timestamp" in line


def test_the_colored_copy_of_a_message_is_removed(configure):
    stream = configure()
    logging.getLogger("uvicorn").info("plain", extra={"color_message": "\x1b[1mplain"})
    assert "color_message" not in parse_lines(stream)[0]


def test_a_second_configuration_replaces_the_first(configure):
    first = configure()
    second = configure()
    LOGGER.info("x")
    assert first.getvalue() == ""
    assert len(parse_lines(second)) == 1


def test_a_value_that_json_cannot_represent_is_logged_as_text(configure):
    stream = configure()
    LOGGER.info("x", value={1, 2}, other=CountedText())
    assert parse_lines(stream)[0]["value"] == "{1, 2}"
    assert parse_lines(stream)[0]["other"] == "rendered"


# Levels


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_only_events_from_the_level_up_are_logged(configure, level):
    stream = configure(level)
    for method in METHODS:
        getattr(LOGGER, method)(method)
        getattr(logging.getLogger("foreign"), method)(method)
    wanted = [method for method in METHODS if getattr(logging, method.upper()) >= getattr(logging, level)]
    assert [line["event"] for line in parse_lines(stream)] == [method for method in wanted for _ in range(2)]
    assert [LOGGER.is_enabled(getattr(logging, method.upper())) for method in METHODS] == [
        method in wanted for method in METHODS
    ]


def test_values_below_the_level_are_not_rendered(configure):
    configure("WARNING")
    value = CountedText()
    LOGGER.debug("x", value=value)
    LOGGER.info("x", value=value)
    assert value.rendered == 0
    LOGGER.warning("x", value=value)
    assert value.rendered > 0


def test_events_below_the_level_do_not_reach_structlog(configure, monkeypatch):
    configure("WARNING")
    requested = []
    monkeypatch.setattr(structlog, "get_logger", requested.append)
    LOGGER.info("x")
    assert requested == []
    LOGGER.warning("x")
    assert requested == ["mcp_tornado.test"]


# Whole processes


def run(program):
    """Run a program in a process of its own."""
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=True
    )


def test_a_process_logs_events_and_warnings_to_standard_error_only():
    done = run(
        "import logging, warnings\n"
        "from mcp_tornado import log\n"
        "log.configure()\n"
        "log.get_logger('ours').info('one', n=1)\n"
        "logging.getLogger('theirs').info('two')\n"
        "warnings.warn('three')\n"
    )
    assert done.stdout == ""
    one, two, three = [json.loads(line) for line in done.stderr.splitlines()]
    assert (one["event"], one["n"], one["logger"]) == ("one", 1, "ours")
    assert (two["event"], two["logger"]) == ("two", "theirs")
    assert "three" in three["event"]


def test_a_traceback_shows_no_values_of_variables_without_a_configuration_either():
    done = run(
        "from mcp_tornado import log\n"
        "def fail(session_id):\n"
        "    raise LookupError('what happened')\n"
        "try:\n"
        "    fail(''.join(['hun', 'ter2']))\n"
        "except LookupError:\n"
        "    log.get_logger('ours').exception('request.failed')\n"
    )
    assert "what happened" in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_events_from_info_up_are_logged_without_a_configuration():
    done = run(
        "from mcp_tornado import log\n"
        "log.get_logger('ours').debug('hidden')\n"
        "log.get_logger('ours').info('shown', n=1)\n"
    )
    assert "shown" in done.stdout + done.stderr
    assert "hidden" not in done.stdout + done.stderr
