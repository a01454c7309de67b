"""Decoding, checking and building JSON-RPC messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import Notification, Reply, Request
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.sessions.encoding import encode

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(VALUES)
def test_encode_returns_json_that_decodes_to_the_same_value(value):
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**300, "\ud800", {"\ud800": "\udfff"}, [[2**70]]])
def test_encode_accepts_values_that_orjson_refuses(value):
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", {"a": print}])
def test_encode_raises_for_a_value_that_is_not_json(value):
    with pytest.raises((TypeError, ValueError)):
        encode(value)


def test_decode_returns_the_json_value_of_a_body():
    assert jsonrpc.decode(b' {"a": [1, 2.5, null, true, "\xc3\xa9\\u00e9"]} ') == {"a": [1, 2.5, None, True, "éé"]}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(VALUES | st.lists(st.integers(-(2**70), 2**70)) | st.integers(17, 4300).map(lambda digits: 1 - 10**digits))
def test_decode_returns_exact_integers(value):
    decoded = jsonrpc.decode(json.dumps(value).encode())
    assert decoded == value
    assert json.dumps(decoded) == json.dumps(value)  # an integer is no float with an equal value


@pytest.mark.parametrize("sign", ["", "-"])
def test_decode_raises_a_parse_error_for_an_integer_of_more_than_4300_digits(sign):
    assert jsonrpc.decode(f"[{sign}{'9' * 4300}]".encode()) == [int(f"{sign}{'9' * 4300}")]
    with pytest.raises(SessionError, match="an integer has more than 4300 digits") as raised:
        jsonrpc.decode(f"[{sign}{'9' * 4301}]".encode())
    assert raised.value.code is ErrorCode.PARSE_ERROR


LONG = b"12345678901234567890"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"12345678901234567890123"', "12345678901234567890123"),
        (b'"\\u00411234567890123456789012345"', "A1234567890123456789012345"),
        (b'{"12345678901234567890123": 1}', {"12345678901234567890123": 1}),
        (b"0.12345678901234567890123", 0.12345678901234567890123),
        (b"1e00000000000000000000005", 1e5),
        (b"123456789012345678901234567890e-25", 123456789012345678901234567890e-25),
        (b"0." + b"0" * 400 + b"1e401", 1.0),
        (b"1" + b"0" * 400 + b"e-400", 1.0),
        (b'"\xc3\xa4"', "ä"),
    ],
)
def test_decode_reads_a_body_with_a_long_number_as_any_other(text, value):
    assert jsonrpc.decode(text) == value
    assert jsonrpc.decode(b"[%s, %s]" % (LONG, text)) == [int(LONG), value]


@pytest.mark.parametrize(
    "text",
    [
        *[
            b"NaN",
            b"-Infinity",
            b"1e999",
            b"1e9999999999999999999999",
            b'"\\ud800"',
            b'"\xff"',
            b"[" * 300 + b"]" * 300,
        ],
        *[b"0123456789012345678901", b"1.", b"1,", b"--12345678901234567890123", b"'12345678901234567890123'"],
        *[
            b"1" * 400 + b"e300",
            b"1" * 400 + b".5e300",
            b"\xef\xbb\xbf1",
            b'"\n"',
            b"{1: 2}",
            b"1 12345678901234567890",
        ],
    ],
)
def test_decode_refuses_a_body_with_a_long_number_as_any_other(text):
    for body in (text, b"[%s, %s]" % (LONG, text)):
        with pytest.raises(SessionError) as raised:
            jsonrpc.decode(body)
        assert raised.value.code is ErrorCode.PARSE_ERROR


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b"{}{}", b"\xff", b'"\xff"', b"NaN", b"-Infinity", b'"\\ud800"', b"[" * 9999, b"'a'"]
)
def test_decode_raises_a_parse_error_for_a_body_that_is_not_json(body):
    with pytest.raises(SessionError) as raised:
        jsonrpc.decode(body)
    assert raised.value.code is ErrorCode.PARSE_ERROR


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "a"}, Request(1, "a", None)),
        ({"jsonrpc": "2.0", "id": "1", "method": "a", "params": {}}, Request("1", "a", {})),
        ({"jsonrpc": "2.0", "id": 0, "method": "a", "params": None}, Request(0, "a", None)),
        ({"jsonrpc": "2.0", "id": "", "method": "", "x": 1}, Request("", "", None)),
        ({"jsonrpc": "2.0", "id": -(2**62), "method": "a"}, Request(-(2**62), "a", None)),
        ({"jsonrpc": "2.0", "method": "a"}, Notification("a", None)),
        ({"jsonrpc": "2.0", "method": "a", "params": {"b": 1}}, Notification("a", {"b": 1})),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, Reply(1, {}, None)),
        ({"jsonrpc": "2.0", "id": 1, "result": {"a": 1}, "error": None}, Reply(1, {"a": 1}, None)),
        (
            {"jsonrpc": "2.0", "id": 1, "result": None, "error": {"code": 1, "message": "m"}},
            Reply(1, None, {"code": 1, "message": "m"}),
        ),
        ({"jsonrpc": "2.0", "id": "s.1", "result": {"a": 1}}, Reply("s.1", {"a": 1}, None)),
        (
            {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "m"}},
            Reply(None, None, {"code": 1, "message": "m"}),
        ),
        (
            {"jsonrpc": "2.0", "error": {"code": -1, "message": "", "data": []}},
            Reply(None, None, {"code": -1, "message": "", "data": []}),
        ),
    ],
)
def test_parse_returns_the_message_of_a_valid_value(value, message):
    assert jsonrpc.parse(value) == message


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "x",
        [],
        [{"jsonrpc": "2.0", "method": "a"}],
        {},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2", "id": 1, "method": "a"},
        {"jsonrpc": 2.0, "id": 1, "method": "a"},
        {"jsonrpc": ["2.0"], "id": 1, "method": "a"},
        {"id": 1, "method": "a"},
        {"jsonrpc": "2.0", "id": None, "method": "a"},
        {"jsonrpc": "2.0", "id": True, "method": "a"},
        {"jsonrpc": "2.0", "id": 1.0, "method": "a"},
        {"jsonrpc": "2.0", "id": [1], "method": "a"},
        {"jsonrpc": "2.0", "id": 1, "method": None},
        {"jsonrpc": "2.0", "method": ["a"]},
        {"jsonrpc": "2.0", "id": 1, "method": "a", "params": []},
        {"jsonrpc": "2.0", "id": 1, "method": "a", "params": 0},
        {"jsonrpc": "2.0", "id": 1, "result": None},
        {"jsonrpc": "2.0", "id": 1, "result": []},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": "m"}},
        {"jsonrpc": "2.0", "id": 1, "result": None, "error": None},
        {"jsonrpc": "2.0", "id": 1, "error": None},
        {"jsonrpc": "2.0", "id": 1, "error": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": True, "message": "m"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1.5, "message": "m"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": "m"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": None}},
        {"jsonrpc": "2.0", "id": {}, "result": {}},
        {"jsonrpc": "2.0", "id": False, "result": {}},
    ],
    ids=repr,
)
def test_parse_raises_an_invalid_request_for_a_value_that_is_no_message(value):
    with pytest.raises(SessionError) as raised:
        jsonrpc.parse(value)
    assert raised.value.code is ErrorCode.INVALID_REQUEST
    assert raised.value.message != ""


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]), VALUES)
    | st.dictionaries(st.sampled_from(["id", "method", "params", "result", "error"]), VALUES).map(
        lambda value: {"jsonrpc": "2.0", **value}
    )
)
def test_parse_returns_a_message_or_raises_an_invalid_request_for_any_object(value):
    try:
        message = jsonrpc.parse(value)
    except SessionError as error:
        message = error.code
    assert message is ErrorCode.INVALID_REQUEST or isinstance(message, Request | Notification | Reply)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (7, "7", True),
        (0, "0", True),
        ("a", "a", True),
        (7, "7.0", False),
        (7, "x7", False),
        (7, "", False),
        (7, " 7", False),
        (3, "٣", False),
        (3, "³", False),
        ("a", "A", False),
        ("", "", True),
        (2**70, str(2**70), True),
        (2**70, str(2**70 + 1), False),
        ("9" * 5000, "9" * 5000, True),
        ("9" * 5000, "8" * 5000, False),
    ],
)
def test_correlation_key_is_the_same_for_an_integer_and_its_decimal_digits(one, other, same):
    assert (jsonrpc.correlation_key(one) == jsonrpc.correlation_key(other)) is same


@pytest.mark.parametrize(
    "message",
    [
        jsonrpc.request("s.1", "roots/list", None),
        jsonrpc.request(1, "sampling/createMessage", {"a": 1}),
        jsonrpc.notification("notifications/x", None),
        jsonrpc.notification("notifications/x", {}),
        jsonrpc.result(1, {}),
        jsonrpc.error("a", {"code": -1, "message": "m"}),
        jsonrpc.error(None, {"code": -1, "message": "m"}),
    ],
)
def test_built_messages_can_be_parsed(message):
    assert message["jsonrpc"] == "2.0"
    jsonrpc.parse(jsonrpc.decode(encode(message)))


@pytest.mark.parametrize(
    ("params", "token"),
    [
        (None, None),
        ({}, None),
        ({"_meta": None}, None),
        ({"_meta": []}, None),
        ({"_meta": {}}, None),
        ({"_meta": {"progressToken": 0}}, 0),
        ({"_meta": {"progressToken": "t"}}, "t"),
        ({"_meta": {"progressToken": True}}, None),
        ({"_meta": {"progressToken": 1.5}}, None),
        ({"_meta": {"progressToken": [1]}}, None),
        ({"progressToken": 1}, None),
    ],
)
def test_progress_token_is_a_string_or_integer_in_meta(params, token):
    assert jsonrpc.progress_token(params) == token


def test_progress_params_leave_out_members_that_are_none():
    assert jsonrpc.progress_params("t", 1, None, None) == {"progressToken": "t", "progress": 1}
    assert jsonrpc.progress_params(7, 0.5, 2, "half") == {
        "progressToken": 7,
        "progress": 0.5,
        "total": 2,
        "message": "half",
    }
