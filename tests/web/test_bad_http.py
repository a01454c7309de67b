"""Thousands of requests with bad headers, queries and framing: none is answered with a 5xx."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.service import LIVE_SESSION, assert_acceptable
from tests.web.strategies import (
    MANY_EXAMPLES,
    all_paths,
    header_values,
    http_methods,
    mcp_paths,
    session_ids,
)


@settings(MANY_EXAMPLES, max_examples=500)
@given(
    method=http_methods,
    path=all_paths,
    session=session_ids,
    headers=st.fixed_dictionaries(
        {},
        optional={
            "MCP-Protocol-Version": header_values | st.sampled_from([b"2025-11-25", b"2026-07-28"]),
            "Last-Event-ID": header_values
            | st.sampled_from([b"1", b"1.a.b", b"0.x.get", b"9" * 30, b"000000000001.AAAAAAAA.get", b"\xff.\xff.\xff"]),
            "Accept": header_values,
            "Content-Type": header_values,
            "Origin": header_values | st.sampled_from([b"http://localhost", b"http://evil", b"http://[::1]:1", b"://"]),
            "Access-Control-Request-Headers": header_values | st.just(b"mcp-param-x, x"),
            "User-Agent": header_values,
            "Mcp-Method": header_values,
            "Mcp-Name": header_values,
            "Mcp-Param-X": header_values,
            "If-None-Match": header_values,
            "Range": header_values,
            "Cookie": header_values,
            "Content-Encoding": header_values | st.just(b"gzip"),
        },
    ),
)
def test_any_headers_are_answered(service, method, path, session, headers):
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method in ("POST", "PUT", "PATCH") else None
    answer = service.request(method, path, body, list(headers.items()), session)
    assert_acceptable(answer, b"".join(headers.values()) + path.encode())


queries = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=40)


@MANY_EXAMPLES
@given(
    query=queries
    | st.builds(
        "after={}&wait={}".format,
        queries | st.sampled_from(["%ff", "%00", "1.a.b", "9" * 40, "000000000001.x.get"]),
        st.sampled_from(["", "x", "-1", "61", "nan", "inf", "-inf", "1e9", "0x1", "%ff", "0", "0.0", "-0", "1;2"]),
    ),
    path=mcp_paths,
    session=st.sampled_from([LIVE_SESSION, None]),
    accept=st.sampled_from([b"application/json", b"text/event-stream", b""]),
)
def test_any_query_is_answered(service, query, path, session, accept):
    answer = service.request("GET", f"{path}?{query}", None, [("Accept", accept)], session)
    assert_acceptable(answer, query.encode(), may_be_malformed=True)


TEMPLATES = [
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n{}",
    b"POST /mcp/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: %s\r\n\r\n0\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%s",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: %s\r\nContent-Length: 2\r\n\r\n{}",
    b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /mcp HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET /mcp HTTP/%s\r\nHost: localhost\r\n\r\n",
    b"%s /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n",
    b"%s",
]
PIECES = [
    b"-1", b"1e3", b"2, 2", b"2, 3", b"+2", b"0x2", b"9" * 20, b"9" * 5000, b"1" * 200, b"99999999", b"",
    b"chunked, chunked", b"gzip", b"identity", b"ZZ\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n", b"2\r\n{}0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n", b"a" * 70_000, b"/\xff\xfe", b"http://localhost/mcp", b"*",
    b"/mcp?" + b"a&" * 2000, b"\x00", b"a\x00b", b" : x", b"x", b"X: \xff", b"1.0", b"2.0", b"9.9",
    b"localhost, localhost", b"local host", b"[::1", b"user@localhost", b"localhost:99999999",
]  # fmt: skip


@MANY_EXAMPLES
@given(template=st.sampled_from(TEMPLATES), piece=st.sampled_from(PIECES) | st.binary(max_size=60))
def test_broken_http_is_not_an_internal_error(service, template, piece):
    """Tornado answers malformed HTTP with 400, or closes the connection; the handlers answer the rest."""
    data = template % piece
    answers = service.send_raw(data)
    for answer in answers.split(b"HTTP/1.1 ")[1:]:
        status = int(answer[:3])
        assert status < 500, (data[:200], answers[:500])
    assert b"Traceback" not in answers
