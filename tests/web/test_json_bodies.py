"""Bodies that are not JSON, not JSON-RPC, or of another media type."""

from __future__ import annotations

import pytest

from tests.web.messages import PING

pytestmark = pytest.mark.gen_test(timeout=60)

ROUTES_WITH_BODY = [("POST", "/mcp"), ("POST", "/mcp/send"), ("POST", "/mcp/abort"), ("POST", "/mcp/session")]

INVALID_JSON = {
    "no-json": b"{",
    "two-values": b"{}{}",
    "not-utf-8": b'"\xff"',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"jsonrpc": "2.0"}',
    "nan": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "surrogate": rb'{"a": "\ud800"}',
    "too-deep": b"[" * 5000 + b"]" * 5000,
    "blank": b"  ",
    "form": b"a=1&b=2",
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_BODY)
@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
async def test_invalid_json_is_a_parse_error(client, method, path, body):
    session = await client.create_session()
    error = (await client.fetch(method, path, session=session, body=body)).assert_error("PARSE_ERROR")
    assert error["code"] == -32700


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
async def test_invalid_json_without_a_session_is_a_parse_error(client, body):
    (await client.fetch("POST", "/mcp", body=body)).assert_error("PARSE_ERROR")


async def test_empty_body_is_a_parse_error(client):
    session = await client.create_session()
    for path in ("/mcp", "/mcp/send", "/mcp/abort"):
        (await client.fetch("POST", path, session=session)).assert_error("PARSE_ERROR")


INVALID_MESSAGES = {
    "text": "text",
    "null": None,
    "number": 1,
    "empty": {},
    "no-version": {"id": 1, "method": "ping"},
    "other-version": {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    "number-version": {"jsonrpc": 2.0, "id": 1, "method": "ping"},
    "no-method": {"jsonrpc": "2.0", "id": 1},
    "number-method": {"jsonrpc": "2.0", "id": 1, "method": 1},
    "list-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
    "text-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "x"},
    "null-id": {"jsonrpc": "2.0", "id": None, "method": "ping"},
    "true-id": {"jsonrpc": "2.0", "id": True, "method": "ping"},
    "fraction-id": {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
    "object-id": {"jsonrpc": "2.0", "id": {}, "method": "ping"},
    "result-and-error": {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
    "text-result": {"jsonrpc": "2.0", "id": 1, "result": "x"},
    "text-error": {"jsonrpc": "2.0", "id": 1, "error": "x"},
    "text-code": {"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}},
    "no-message": {"jsonrpc": "2.0", "id": 1, "error": {"code": 1}},
    "batch": [PING],
    "empty-batch": [],
}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/send"])
@pytest.mark.parametrize("body", INVALID_MESSAGES.values(), ids=INVALID_MESSAGES.keys())
async def test_invalid_message_is_an_invalid_request(client, path, body):
    session = await client.create_session()
    (await client.fetch("POST", path, session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        {"jsonrpc": "1.0", "id": 1, "method": "initialize", "params": {}},
        {"id": 1, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": None, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": []},
    ],
)
async def test_invalid_handshake_is_an_invalid_request(client, body):
    (await client.fetch("POST", "/mcp", json_body=body)).assert_error("INVALID_REQUEST")
    session = await client.create_session()
    (await client.fetch("POST", "/mcp", session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [[], {}, None, 1, "1", {"id": 1}, {"requestId": None}, {"requestId": True}, {"requestId": 1.5}, {"requestId": [1]}],
)
async def test_invalid_abort_is_an_invalid_request(client, body):
    session = await client.create_session()
    (await client.fetch("POST", "/mcp/abort", session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_BODY)
@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "*/*"]
)
async def test_other_media_type_is_refused(client, method, path, media_type):
    session = await client.create_session()
    connection = await client.open(
        method,
        path,
        Mcp_Session_Id=session,
        Content_Length="2",
        **{} if media_type is None else {"Content-Type": media_type},
    )
    await connection.send(b"{}")
    (await connection.read_answer()).assert_error("UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"])
async def test_json_media_type_is_accepted_in_every_spelling(client, media_type):
    session = await client.create_session()
    answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Content_Type=media_type)
    assert answer.result() == {}
