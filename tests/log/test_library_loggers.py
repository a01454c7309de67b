"""The loggers of libraries."""

from __future__ import annotations

import io
import logging

import pytest

from mcp_tornado import log
from tests.log.conftest import FailingHandler, parse_lines


def handlers_of(name):
    logger = logging.getLogger(name)
    return logger.propagate, logger.handlers[:]


def test_a_failing_handler_does_not_fail_the_callers_of_a_logger_with_suppressed_errors(configure):
    stream = configure()
    before = handlers_of("suppressed.example")
    failing = FailingHandler()
    with log.suppress_handler_errors("suppressed.example"):
        logging.getLogger("suppressed.example").warning("one")
        logging.getLogger("suppressed.example.child").warning("two", extra={"more": 1})
        logging.getLogger().handlers.insert(0, failing)
        logging.getLogger("suppressed.example.child").error("the caller does not fail")
        logging.getLogger().removeHandler(failing)
    assert [(line["event"], line["logger"]) for line in parse_lines(stream)] == [
        ("one", "suppressed.example"),
        ("two", "suppressed.example.child"),
    ]
    assert handlers_of("suppressed.example") == before


def test_a_logger_with_its_own_handlers_uses_those_of_the_root_logger_after_it_is_taken_over(configure):
    stream, own = configure("WARNING"), io.StringIO()
    logger = logging.getLogger("taken.example")
    logger.addHandler(logging.StreamHandler(own))
    logger.setLevel("DEBUG")
    logger.propagate = False
    for _ in range(2):
        log.take_over_logger("taken.example", minimum_level=log.INFO)
    logging.getLogger("taken.example.child").info("below the level")
    lowered = logging.getLogger("taken.example.lowered")
    lowered.addFilter(lambda record: setattr(record, "levelno", logging.DEBUG) is None)
    lowered.warning("below the level after it is lowered")
    logging.getLogger("taken.example.child").warning("one", extra={"more": 1})
    logging.getLogger().handlers.insert(0, FailingHandler())
    logging.getLogger("taken.example.child").error("the caller does not fail")
    assert [(line["event"], line["level"], line["more"]) for line in parse_lines(stream)] == [("one", "warning", 1)]
    assert own.getvalue() == ""


def test_a_logger_that_is_taken_over_logs_nothing_below_its_minimum_level(configure):
    stream = configure("DEBUG")
    log.take_over_logger("taken.example", minimum_level=log.INFO)
    logging.getLogger("taken.example.child").debug("a secret")
    logging.getLogger("taken.example.child").info("no secret")
    assert [line["event"] for line in parse_lines(stream)] == ["no secret"]


@pytest.mark.parametrize("inner_first", [True, False])
def test_two_applications_that_suppress_errors_of_one_logger_neither_double_nor_lose_events(configure, inner_first):
    stream = configure()
    before = handlers_of("suppressed.example")
    logger = logging.getLogger("suppressed.example")
    first, second = log.suppress_handler_errors("suppressed.example"), log.suppress_handler_errors("suppressed.example")
    first.__enter__()
    second.__enter__()
    logger.warning("both run")
    for ending in (second, first) if inner_first else (first, second):
        ending.__exit__(None, None, None)
        logger.warning("after an end")
    assert [line["event"] for line in parse_lines(stream)] == ["both run", "after an end", "after an end"]
    assert handlers_of("suppressed.example") == before
