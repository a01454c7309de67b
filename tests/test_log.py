"""The log: one format for everybody, never a reason for a request to fail."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from datetime import datetime

import pytest
import structlog

from mcp_tornado import log


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def configure(monkeypatch):
    """Configure the log to write to a stream, which is returned; leaves nothing behind."""
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


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Watched:
    """Says whether anybody asked for its text."""

    def __init__(self):
        self.rendered = 0

    def __str__(self):
        self.rendered += 1
        return "rendered"

    __repr__ = __format__ = __str__


class Hostile:
    """Cannot be shown."""

    def __str__(self):
        raise ZeroDivisionError("cannot be shown")

    __repr__ = __str__


LOGGER = log.get_logger("mcp_tornado.test")
METHODS = ["debug", "info", "warning", "error"]


# What an event looks like


def test_an_event_is_one_json_object_on_a_line(configure):
    stream = configure()
    LOGGER.info("session.created", session="abcdefgh", count=3, nothing=None)
    (line,) = lines(stream)
    assert line["event"] == "session.created"
    assert line["level"] == "info"
    assert line["logger"] == "mcp_tornado.test"
    assert (line["session"], line["count"], line["nothing"]) == ("abcdefgh", 3, None)
    moment = datetime.fromisoformat(line["timestamp"])
    assert moment.utcoffset().total_seconds() == 0


@pytest.mark.parametrize("value", ["two\nlines", '"quoted"', "\x1b[31mred", "ä\u2028", "\x00"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_value_can_forge_a_line_or_command_a_terminal(configure, log_format, value):
    stream = configure(log_format=log_format)
    LOGGER.info("session.created", client=value, client_version=f"1{value}2")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert [character for character in text[:-1] if ord(character) < 0x20 or ord(character) == 0x7F] == []


def test_an_event_in_the_console_format_is_for_people(configure):
    stream = configure(log_format="console")
    LOGGER.warning("session.rejected", reason="unknown")
    text = stream.getvalue()
    assert "session.rejected" in text
    assert "reason=unknown" in text
    assert "warning" in text
    assert "mcp_tornado.test" in text
    assert "\x1b" not in text, "no colours where there is no terminal"


def test_auto_is_json_unless_it_is_a_terminal(configure):
    stream = configure(log_format="auto")
    LOGGER.info("x", a=1)
    assert lines(stream)[0]["a"] == 1
    terminal = configure(log_format="auto", stream=Terminal())
    LOGGER.info("x", a=1)
    assert "\x1b[" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        lines(terminal)


def test_json_can_be_wanted_on_a_terminal(configure):
    terminal = configure(log_format="json", stream=Terminal())
    LOGGER.info("x", a=1)
    assert lines(terminal)[0]["a"] == 1


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
        (line,) = lines(stream)
        assert (line["event"], line["level"], line["handler"]) == ("request.failed", "error", "X")


def _fail_with(session_id):
    raise LookupError(f"nothing for {len(session_id)} characters")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_traceback_shows_no_values_of_variables(configure, log_format, terminal):
    """They hold session ids, credentials and what tools were called with."""
    stream = configure(log_format=log_format, stream=Terminal() if terminal else None)
    for report in (LOGGER.exception, logging.getLogger("tornado.application").exception):
        try:
            _fail_with("".join(["hun", "ter2"]))
        except LookupError:
            report("request.failed")
    assert stream.getvalue().count("nothing for 7 characters") == 2
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_text_of_an_exception_cannot_command_a_terminal(configure, log_format):
    """A tool's exception often says what the client sent."""
    stream = configure(log_format=log_format)
    for report in (LOGGER.exception, logging.getLogger("tornado.application").exception):
        try:
            raise ValueError("bad input: \x1b[2J\x1b]0;title\x07")
        except ValueError:
            report("handler.failed")
    assert stream.getvalue().count("bad input") >= 2
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


def test_what_is_bound_to_the_context_is_in_every_event(configure):
    stream = configure()
    with structlog.contextvars.bound_contextvars(session="abcdefgh", request="r1"):
        LOGGER.info("inside")
        logging.getLogger("tornado.access").warning("inside as well")
    LOGGER.info("outside")
    inside, foreign, outside = lines(stream)
    assert (inside["session"], inside["request"]) == (foreign["session"], foreign["request"]) == ("abcdefgh", "r1")
    assert "session" not in outside


@pytest.mark.parametrize("name", ["tornado.access", "tornado.application", "tornado.general", "mcp.server", "mine"])
def test_everybody_elses_events_go_the_same_way(configure, name):
    stream = configure()
    logging.getLogger(name).warning("%s happened", "something", extra={"more": 1})
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"], line["more"]) == ("something happened", "warning", name, 1)
    assert "timestamp" in line


def test_a_coloured_copy_of_a_message_is_left_out(configure):
    stream = configure()
    logging.getLogger("uvicorn").info("plain", extra={"color_message": "\x1b[1mplain"})
    assert "color_message" not in lines(stream)[0]


def test_configuring_again_replaces_the_first(configure):
    first = configure()
    second = configure()
    LOGGER.info("x")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


# Levels


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_events_from_the_level_up_are_logged_and_no_others(configure, level):
    stream = configure(level)
    for method in METHODS:
        getattr(LOGGER, method)(method)
        getattr(logging.getLogger("foreign"), method)(method)
    wanted = [method for method in METHODS if getattr(logging, method.upper()) >= getattr(logging, level)]
    assert [line["event"] for line in lines(stream)] == [method for method in wanted for _ in range(2)]
    assert [LOGGER.enabled(getattr(logging, method.upper())) for method in METHODS] == [
        method in wanted for method in METHODS
    ]


def test_below_the_level_nothing_is_rendered(configure):
    configure("WARNING")
    value = Watched()
    LOGGER.debug("x", value=value)
    LOGGER.info("x", value=value)
    assert value.rendered == 0
    LOGGER.warning("x", value=value)
    assert value.rendered > 0


def test_below_the_level_structlog_is_not_even_asked(configure, monkeypatch):
    configure("WARNING")
    asked = []
    monkeypatch.setattr(structlog, "get_logger", asked.append)
    LOGGER.info("x")
    assert asked == []
    LOGGER.warning("x")
    assert asked == ["mcp_tornado.test"]


# A failing log


class FailingHandler(logging.Handler):
    def emit(self, record):
        raise OSError("no space left on device")


class FailingStream(io.StringIO):
    def write(self, text):
        raise OSError("no space left on device")


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception"])
def test_a_handler_that_raises_never_fails_the_caller(configure, method):
    configure("DEBUG")
    logging.getLogger().handlers.insert(0, FailingHandler())
    with pytest.raises(OSError, match="no space"):
        logging.getLogger("foreign").error("the handler does raise")
    getattr(LOGGER, method)("x")


def test_a_stream_that_cannot_be_written_to_never_fails_the_caller(configure, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    configure(stream=FailingStream())
    LOGGER.error("x")


def foreign_state(name):
    logger = logging.getLogger(name)
    return logger.propagate, logger.handlers[:]


def test_a_handler_that_raises_fails_nobody_who_logs_through_a_contained_logger(configure):
    stream = configure()
    before = foreign_state("contained.example")
    failing = FailingHandler()
    with log.contained("contained.example"):
        logging.getLogger("contained.example").warning("one")
        logging.getLogger("contained.example.child").warning("two", extra={"more": 1})
        logging.getLogger().handlers.insert(0, failing)
        logging.getLogger("contained.example.child").error("nobody fails")
        logging.getLogger().removeHandler(failing)
    assert [(line["event"], line["logger"]) for line in lines(stream)] == [
        ("one", "contained.example"),
        ("two", "contained.example.child"),
    ]
    assert foreign_state("contained.example") == before


def test_what_a_library_logs_through_handlers_of_its_own_goes_our_way_once_it_is_adopted(configure):
    stream, own = configure("WARNING"), io.StringIO()
    logger = logging.getLogger("adopted.example")
    logger.addHandler(logging.StreamHandler(own))
    logger.setLevel("DEBUG")
    logger.propagate = False
    for _ in range(2):
        log.adopt("adopted.example", lowest=log.INFO)
    logging.getLogger("adopted.example.child").info("below our level")
    lowered = logging.getLogger("adopted.example.lowered")
    lowered.addFilter(lambda record: setattr(record, "levelno", logging.DEBUG) is None)
    lowered.warning("below our level once it is lowered")
    logging.getLogger("adopted.example.child").warning("one", extra={"more": 1})
    logging.getLogger().handlers.insert(0, FailingHandler())
    logging.getLogger("adopted.example.child").error("nobody fails")
    assert [(line["event"], line["level"], line["more"]) for line in lines(stream)] == [("one", "warning", 1)]
    assert own.getvalue() == ""


def test_an_adopted_library_logs_nothing_below_its_lowest_level(configure):
    stream = configure("DEBUG")
    log.adopt("adopted.example", lowest=log.INFO)
    logging.getLogger("adopted.example.child").debug("a secret")
    logging.getLogger("adopted.example.child").info("no secret")
    assert [line["event"] for line in lines(stream)] == ["no secret"]


@pytest.mark.parametrize("inner_first", [True, False])
def test_two_applications_in_one_process_contain_a_logger_without_doubling_or_losing_events(configure, inner_first):
    stream = configure()
    before = foreign_state("contained.example")
    logger = logging.getLogger("contained.example")
    first, second = log.contained("contained.example"), log.contained("contained.example")
    first.__enter__()
    second.__enter__()
    logger.warning("both run")
    for ending in (second, first) if inner_first else (first, second):
        ending.__exit__(None, None, None)
        logger.warning("after an end")
    assert [line["event"] for line in lines(stream)] == ["both run", "after an end", "after an end"]
    assert foreign_state("contained.example") == before


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_that_cannot_be_shown_never_fails_the_caller_and_later_events_are_logged(
    configure, log_format, monkeypatch
):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = configure(log_format=log_format)
    LOGGER.error("bad", value=Hostile())
    LOGGER.error("good")
    assert "good" in stream.getvalue()


def test_a_processor_that_raises_never_fails_the_caller(configure):
    configure()

    def fail(*_):
        raise ZeroDivisionError

    structlog.configure(processors=[fail])
    LOGGER.error("x")


def test_a_value_that_json_does_not_have_is_shown_as_text(configure):
    stream = configure()
    LOGGER.info("x", value={1, 2}, other=Watched())
    assert lines(stream)[0]["value"] == "{1, 2}"
    assert lines(stream)[0]["other"] == "rendered"


# Whole processes


def run(program):
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=True
    )


def test_a_process_logs_to_standard_error_only_with_warnings_among_it():
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


def test_a_traceback_shows_no_values_of_variables_where_nothing_is_configured_either():
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


def test_a_user_of_the_library_who_configures_nothing_sees_events_from_info_up():
    done = run(
        "from mcp_tornado import log\n"
        "log.get_logger('ours').debug('hidden')\n"
        "log.get_logger('ours').info('shown', n=1)\n"
    )
    assert "shown" in done.stdout + done.stderr
    assert "hidden" not in done.stdout + done.stderr
