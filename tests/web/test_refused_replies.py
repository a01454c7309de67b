"""Replies of the client to a question of the server: those with a member of `null`, and those that are refused."""

from __future__ import annotations

import json

import pytest

from tests.web.messages import tool_call
from tests.web.test_send_receive import receive

pytestmark = pytest.mark.gen_test(timeout=60)

BATCHES = "2025-03-26"


async def ask(client, version: str = "2025-11-25") -> tuple[str, str, str | None]:
    """Start a call that asks the client; return the session, the id of the question, and where to read on."""
    session = await client.initialize(version, capabilities={"elicitation": {}})
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("ask", 1))
    page = await receive(client, session, wait="20")
    return session, page["events"][-1]["message"]["id"], page["after"]


async def read_answer(client, session: str, after: str | None) -> dict:
    page = await receive(client, session, after, wait="20")
    assert page["events"], "the call still waits for the reply"
    return page["events"][-1]["message"]


@pytest.mark.parametrize("path", ["/mcp", "/mcp/send"])
@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"result": {"action": "decline"}, "error": None}, "decline"),
        ({"result": {"action": "accept", "content": {"quantity": 3}}, "error": None}, "accept 3"),
    ],
)
async def test_error_of_null_beside_a_result_is_absent(client, path, members, text):
    session, question, after = await ask(client)
    reply = {"jsonrpc": "2.0", "id": question, **members}
    assert (await client.fetch("POST", path, session=session, json_body=reply)).status == 202
    assert (await read_answer(client, session, after))["result"]["content"][0]["text"] == text


async def test_result_of_null_beside_an_error_is_absent(client):
    session, question, after = await ask(client)
    reply = {"jsonrpc": "2.0", "id": question, "result": None, "error": {"code": -1, "message": "no screen"}}
    assert (await client.fetch("POST", "/mcp", session=session, json_body=reply)).status == 202
    assert (await read_answer(client, session, after))["error"] == {"code": -1, "message": "no screen"}


REFUSED = {
    "both": {"result": {}, "error": {"code": 1, "message": ""}},
    "neither": {},
    "both-null": {"result": None, "error": None},
    "null-result": {"result": None},
    "text-result": {"result": "x"},
    "null-error": {"error": None},
    "text-code": {"error": {"code": "1", "message": ""}},
    "no-message": {"error": {"code": 1}},
    "version": {"jsonrpc": "1.0", "result": {}},
    "no-version": {"jsonrpc": None, "result": {}},
}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/send"])
@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED.keys())
async def test_refused_reply_ends_the_question_with_an_error(client, path, members):
    session, question, after = await ask(client)
    reply = {"jsonrpc": "2.0", "id": question, **members}
    refused = (await client.fetch("POST", path, session=session, json_body=reply)).assert_error("INVALID_REQUEST")
    error = (await read_answer(client, session, after))["error"]
    assert error == {"code": -32600, "message": f"The client's reply was refused: {refused['message']}"}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/send"])
@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc": "2.0", "id": %s, "result": {"action": "accept", "content": {"quantity": NaN}}}',
        '{"jsonrpc": "2.0", "id": %s, "result": {"a": ' + "[" * 300 + "]" * 300 + "}}",
        '{"jsonrpc": "2.0", "id" :%s, "result": {"a": ',
    ],
    ids=["nan", "deep", "cut"],
)
async def test_reply_that_is_not_json_ends_the_question_that_its_text_names(client, path, text):
    session, question, after = await ask(client)
    body = (text % json.dumps(question)).encode()
    (await client.fetch("POST", path, session=session, body=body)).assert_error("PARSE_ERROR")
    assert (await read_answer(client, session, after))["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"Content_Type": "text/plain"}, "UNSUPPORTED_MEDIA_TYPE"), ({"Accept": "text/html"}, "NOT_ACCEPTABLE")],
)
async def test_reply_that_is_refused_for_its_headers_ends_the_question(client, headers, code):
    session, question, after = await ask(client)
    reply = {"jsonrpc": "2.0", "id": question, "result": {"action": "decline"}}
    (await client.fetch("POST", "/mcp", session=session, json_body=reply, **headers)).assert_error(code)
    assert (await read_answer(client, session, after))["error"]["code"] == -32600


@pytest.mark.parametrize("version", [BATCHES, "2025-11-25"])
async def test_replies_of_a_refused_batch_end_their_questions(client, version):
    session, question, after = await ask(client, version)
    reply = {"jsonrpc": "2.0", "id": question, "result": {"action": "decline"}}
    batch = [reply, {"jsonrpc": "2.0", "id": 2}]
    (await client.fetch("POST", "/mcp", session=session, json_body=batch)).assert_error("INVALID_REQUEST")
    assert (await read_answer(client, session, after))["error"]["code"] == -32600


async def test_refused_message_of_another_session_or_kind_ends_no_question(client):
    session, question, after = await ask(client)
    other = await client.create_session()
    await client.fetch("POST", "/mcp", session=other, json_body={"jsonrpc": "2.0", "id": question})
    request = {"jsonrpc": "2.0", "id": question, "method": 1}
    (await client.fetch("POST", "/mcp", session=session, json_body=request)).assert_error("INVALID_REQUEST")
    reply = {"jsonrpc": "2.0", "id": question, "result": {"action": "decline"}}
    assert (await client.fetch("POST", "/mcp", session=session, json_body=reply)).status == 202
    assert (await read_answer(client, session, after))["result"]["content"][0]["text"] == "decline"
