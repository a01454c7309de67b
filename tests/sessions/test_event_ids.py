"""Event ids name a number, a session and a stream, and sort as their numbers do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_tornado.sessions import EventId

KEY = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"


def test_an_event_id_comes_back_from_its_text():
    event_id = EventId.of(42, KEY, "request-7")
    assert EventId.parse(str(event_id)) == event_id
    assert (event_id.number, event_id.session, event_id.stream) == (42, KEY[:8], "request-7")


@pytest.mark.parametrize("stream", ["GET", "a.b.c", ".", "x y", "ü"])
def test_a_stream_may_have_any_name(stream):
    assert EventId.parse(str(EventId.of(1, KEY, stream))) == EventId.of(1, KEY, stream)


def test_an_event_id_never_holds_the_whole_key():
    assert KEY not in str(EventId.of(1, KEY, "GET"))
    assert KEY[:9] not in str(EventId.of(1, KEY, "GET"))


@settings(database=None, deadline=None)
@given(st.integers(1, 10**12 - 1), st.integers(1, 10**12 - 1))
def test_the_text_sorts_as_the_numbers_do(one, other):
    texts = [str(EventId.of(one, KEY, "a")), str(EventId.of(other, KEY, "a"))]
    assert (texts[0] < texts[1]) == (one < other)


def test_ids_of_the_same_number_on_other_streams_or_of_other_sessions_differ():
    assert len({str(EventId.of(1, KEY, "a")), str(EventId.of(1, KEY, "b")), str(EventId.of(1, "x" + KEY, "a"))}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "1",
        "1.",
        "1..",
        "1.session",
        "1.session.",
        ".session.stream",
        "1..stream",
        "x.session.stream",
        "-1.session.stream",
        "+1.session.stream",
        "1e3.session.stream",
        " 1.session.stream",
        "1_000.session.stream",
        "\u0661.session.stream",
        "\u00b2.session.stream",
        "9" * 19 + ".session.stream",
        "9" * 5000 + ".session.stream",
        "\n",
        "null",
    ],
)
def test_any_other_text_is_no_event_id(text):
    assert EventId.parse(text) is None
