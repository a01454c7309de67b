"""Thousands of requests with bad bodies: none is answered with a 5xx, and the application continues to serve."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.service import LIVE_SESSION, assert_acceptable, json_headers
from tests.web.strategies import (
    MANY_EXAMPLES,
    METHODS_OF_MCP,
    all_paths,
    header_values,
    http_methods,
    json_values,
    mostly,
    paths_with_body,
    session_ids,
    version_header,
    versions,
    without_omitted,
)

almost_messages = st.fixed_dictionaries(
    {
        "jsonrpc": mostly("2.0"),
        "id": mostly(1),
        "method": mostly("ping", st.sampled_from(METHODS_OF_MCP) | json_values),
        "params": mostly({}),
        "result": st.just(...) | st.just(...) | json_values,
        "error": st.just(...) | st.just(...) | mostly({"code": 1, "message": "x"}),
    }
).map(without_omitted)


@MANY_EXAMPLES
@given(path=all_paths, method=http_methods, body=st.binary(max_size=300), session=session_ids, version=versions)
def test_any_bytes_are_answered(service, path, method, body, session, version):
    answer = service.request(method, path, body, json_headers(*version_header(version)), session)
    assert_acceptable(answer, body + path.encode())


@MANY_EXAMPLES
@given(
    message=almost_messages | json_values | st.lists(almost_messages, max_size=3),
    path=paths_with_body,
    session=session_ids,
    version=versions,
)
def test_almost_valid_messages_are_answered(service, message, path, session, version):
    body = json.dumps(message).encode()
    answer = service.request("POST", path, body, json_headers(*version_header(version)), session)
    assert_acceptable(answer, body)
    if not isinstance(message, dict) and session is LIVE_SESSION and version is None and path != "/mcp/session":
        assert answer.status == 400


depths = st.sampled_from(
    [10, 126, 250, 253, 254, 255, 256, 300, 500, 900, 960, 980, 985, 990, 995, 1000, 1015, 1020, 1023, 1024, 1025, 9000]
)
HARD_VALUES = [
    b"1e400", b"-1e400", b"1e-400", b"0." + b"1" * 5000, b"1" * 4000, b"1" * 4300, b"1" * 5000, b"-" + b"9" * 30,
    b"18446744073709551616", b"9223372036854775808", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"',
    b'"\\uffff"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x98"', b"NaN", b"-Infinity", b"01", b"1.", b".5",
    b"tru", b"'x'", b'"\n"', b'{"a":1,"a":2}', b"\x00", b"{,}", b"[1,]", b"/**/1",
    b'"' + b"x" * 50_000 + b'"', b'""', b"{}", b"[]", b"null", b"-0", b"1E2", b"1.0",
]  # fmt: skip
hard_values = st.sampled_from(HARD_VALUES) | depths.flatmap(
    lambda depth: st.sampled_from([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
)
TEMPLATES = [
    b"%s",
    b'{"jsonrpc":"2.0","id":%s,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":%s}',
    b'{"jsonrpc":%s,"id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":%s}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":%s}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":%s}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%s,"arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://b","_meta":{"a":%s}}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":%s}}',
    b'{"jsonrpc":"2.0","method":%s}',
    b'{"jsonrpc":"2.0","id":"s.1","result":%s}',
    b'{"jsonrpc":"2.0","id":%s,"result":{}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":%s,"message":"x"}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","data":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":%s,'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%s,"capabilities":{},'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":'
    b'{"experimental":{"a":{"b":%s}}},"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":%s,"version":"1"}}}',
    b'{"jsonrpc":"2.0","id":%s,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"requestId":%s}',
    b'{"requestId":1,"reason":%s}',
    b'{"capabilities":%s}',
    b'{"capabilities":{"experimental":{"a":{"b":%s}}}}',
    b'{"protocolVersion":%s}',
    b'{"clientInfo":%s}',
    b'{"clientInfo":{"name":%s,"version":"1"}}',
    b'{"clientInfo":{"name":"a","version":"1","title":%s}}',
    b'{"x":%s}',
]


@settings(MANY_EXAMPLES, max_examples=700)
@given(
    template=st.sampled_from(TEMPLATES),
    value=hard_values,
    path=paths_with_body,
    session=st.sampled_from([LIVE_SESSION, LIVE_SESSION, LIVE_SESSION, None]),
)
def test_hard_values_in_every_place_are_answered(service, template, value, path, session):
    body = template % value
    answer = service.request("POST", path, body, json_headers(), session)
    assert_acceptable(answer, body)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send"])
@pytest.mark.parametrize("depth", [100, 260, 500, 980, 1000, 1024, 3000])
def test_deep_values_in_every_place_are_answered(service, path, depth):
    """Parsers, serialisers and the stack each have a depth at which they fail."""
    for template in TEMPLATES:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            body = template % (opening * depth + b"1" + closing * depth)
            answer = service.request("POST", path, body, json_headers(), LIVE_SESSION)
            assert answer.status < 500, (template, answer.status, answer.body[:300])
            assert_acceptable(answer, body)


@settings(MANY_EXAMPLES, max_examples=500)
@given(
    method=st.sampled_from(METHODS_OF_MCP),
    params=st.fixed_dictionaries(
        {
            "name": mostly("echo"),
            "arguments": mostly({"text": "x"}),
            "uri": mostly("a://b"),
            "level": mostly("info"),
            "cursor": st.just(...) | json_values,
            "ref": mostly({"type": "ref/prompt", "name": "x"}),
            "argument": mostly({"name": "a", "value": "b"}),
            "protocolVersion": mostly(
                "2025-11-25", json_values | st.sampled_from(["2026-07-28", "2025-03-26", "1", ""])
            ),
            "capabilities": mostly({}),
            "clientInfo": mostly({"name": "a", "version": "1"}),
            "requestId": st.just(...) | json_values,
            "progressToken": st.just(...) | json_values,
            "progress": st.just(...) | json_values,
            "_meta": st.just(...) | json_values | st.fixed_dictionaries({"progressToken": json_values}),
        }
    ).map(without_omitted),
    request_id=st.sampled_from([..., 1, "a"]),
    path=st.sampled_from(["/mcp", "/mcp", "/mcp/send"]),
    session=st.sampled_from([LIVE_SESSION, LIVE_SESSION, LIVE_SESSION, None]),
)
def test_wrong_params_of_real_methods_are_answered(service, method, params, request_id, path, session):
    body = json.dumps(
        without_omitted({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    ).encode()
    answer = service.request("POST", path, body, json_headers(), session)
    assert_acceptable(answer, body)


PROTOCOL_KEY, CLIENT_KEY, CAPABILITIES_KEY = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities")
)


@settings(MANY_EXAMPLES, max_examples=400)
@given(
    method=st.sampled_from([*METHODS_OF_MCP, "subscriptions/listen"]),
    params=st.dictionaries(
        st.sampled_from(["name", "arguments", "uri", "cursor", "notifications", "inputResponses", "requestState"]),
        json_values | st.just("echo") | st.just({"text": "x"}),
        max_size=3,
    ),
    meta=st.fixed_dictionaries(
        {
            PROTOCOL_KEY: mostly("2026-07-28"),
            CLIENT_KEY: mostly({"name": "a", "version": "1"}),
            CAPABILITIES_KEY: mostly({}),
        }
    ).map(without_omitted)
    | json_values,
    headers=st.fixed_dictionaries(
        {},
        optional={
            "MCP-Protocol-Version": st.just(b"2026-07-28") | st.just(b"2026-07-28") | header_values,
            "Mcp-Method": header_values | st.sampled_from([name.encode() for name in METHODS_OF_MCP]),
            "Mcp-Name": header_values | st.just(b"echo"),
            "Mcp-Param-Text": header_values,
        },
    ),
    has_right_headers=st.booleans(),
    session=st.sampled_from([None, None, LIVE_SESSION]),
    request_id=st.sampled_from([..., 1, "a"]) | json_values,
)
def test_bad_requests_of_the_stateless_era_are_answered(
    service, method, params, meta, headers, has_right_headers, session, request_id
):
    if has_right_headers:
        headers = {**headers, "MCP-Protocol-Version": b"2026-07-28", "Mcp-Method": method.encode()}
    message = without_omitted(
        {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}
    )
    body = json.dumps(message).encode()
    answer = service.request("POST", "/mcp", body, json_headers(*headers.items()), session)
    assert_acceptable(answer, body + b"".join(headers.values()))


def test_calls_are_served_after_bad_requests(service):
    service.assert_serves_calls()
