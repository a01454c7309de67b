"""JSON values can be encoded; other values are refused."""

from __future__ import annotations

import json

import pytest

from mcp_tornado.sessions.encoding import decode_stored, encode, encode_stored


@pytest.mark.parametrize(
    "value", [None, True, 1, -1.5, "ä", [], {}, {"a": [1, {"b": None}]}, 2**63, 2**64 + 1, -(10**30), "\ud800"]
)
def test_every_json_value_comes_back_from_its_bytes(value):
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}, 1j])
def test_a_value_that_json_cannot_represent_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        encode(value)


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_deeply_nested_value_is_encoded_or_refused_with_the_documented_error(depth):
    value = []
    for _ in range(depth):
        value = [value]
    try:
        written = encode(value)
    except (TypeError, ValueError):
        return
    assert written == b"[" * (depth + 1) + b"]" * (depth + 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        {"a": [1.5, "ä"]},
        2**63 - 1,
        2**64 + 1,
        {"a": [10**30, "\ud800"]},
        "\ud800",
        " ",
        [" ", 10**30],
        [[]] * 3,
    ],
)
def test_a_stored_value_is_read_back_exactly(value):
    assert decode_stored(encode_stored(value)) == value
    assert repr(decode_stored(encode_stored(value))) == repr(value), "no number has changed its type"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}, 1j])
def test_a_value_that_json_cannot_represent_is_not_stored(value):
    with pytest.raises((TypeError, ValueError)):
        encode_stored(value)
