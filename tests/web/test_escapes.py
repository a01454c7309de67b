"""Handlers that let out an exception that is no `Exception`: the request is answered, and the session lives on."""

from __future__ import annotations

import asyncio
from importlib import reload

import pytest
from structlog.testing import capture_logs

from tests.integration.apps import escapes
from tests.web.messages import initialize_request, tool_call
from tests.web.test_eras import send, stateless_request

pytestmark = pytest.mark.gen_test(timeout=60)

ASYNC_WAYS = [*escapes.ESCAPES, "self-cancelled", "task-group", "task"]
INTERNAL_ERROR = {"code": -32603, "message": "Internal server error", "data": {"code": "INTERNAL_ERROR"}}
WITH_TOKEN = {"progressToken": "t"}
NEVER_STREAM = {"events": {"stream_after_seconds": 30}}
BATCHES = "2025-03-26"


@pytest.fixture
def server():
    return reload(escapes).server


@pytest.fixture
def logs():
    with capture_logs() as logs:
        yield logs


def assert_logged(logs, tool: str, **values) -> None:
    failed = [line for line in logs if line["event"] == "handler.failed"]
    assert failed, logs
    for line in failed:
        assert line["log_level"] == "error"
        assert line["method"] == "tools/call"
        assert line["tool"] == tool
        assert "Traceback" in line["exception"]
        for name, value in values.items():
            assert line[name] == value


async def short_key(client, session: str) -> str:
    return (await client.fetch("GET", "/mcp/session", session=session)).json()["key"]


async def assert_serves(client, session: str) -> None:
    assert (await client.call_tool(session, text="still here")).result()["content"][0]["text"] == "still here"


async def count(client, outcome: str) -> float:
    text = (await client.fetch("GET", "/metrics")).body.decode()
    lines = [line for line in text.splitlines() if line.startswith("mcp_tornado_tool_calls_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'outcome="{outcome}"' in line)


@pytest.mark.parametrize("sections", [NEVER_STREAM, {"server": {"json_responses": True}}], ids=["both", "json"])
@pytest.mark.parametrize("how", ASYNC_WAYS)
async def test_escape_from_a_tool_is_answered_at_once(client, logs, how):
    session = await client.initialize()
    answer = await client.call_tool(session, "escape", 7, how=how)
    assert answer.status == 200
    assert answer.json() == {"jsonrpc": "2.0", "id": 7, "error": INTERNAL_ERROR}
    assert_logged(logs, "escape", session=await short_key(client, session))
    assert await count(client, "error") == 1
    assert await count(client, "cancelled") == 0
    await assert_serves(client, session)


@pytest.mark.parametrize("how", ["cancelled", "panic", "interrupt", "exit"])
async def test_escape_from_a_plain_function_is_answered_at_once(client, logs, how):
    session = await client.initialize()
    answer = await client.call_tool(session, "escape_thread", how=how)
    assert answer.json()["error"] == INTERNAL_ERROR
    assert_logged(logs, "escape_thread")
    await assert_serves(client, session)


@pytest.mark.parametrize("how", ASYNC_WAYS)
async def test_escape_ends_a_stream_with_an_answer(client, how):
    session = await client.initialize()
    call = tool_call("escape", 3, WITH_TOKEN, how=how, steps=2)
    stream = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    messages = []
    while (event := await stream.read_event()) is not None:
        messages += [event.message] if event.message else []
    assert [message.get("method") for message in messages] == ["notifications/progress"] * 2 + [None]
    assert messages[-1] == {"jsonrpc": "2.0", "id": 3, "error": INTERNAL_ERROR}
    await assert_serves(client, session)


async def test_cancellation_that_a_tool_leaves_behind_does_not_interrupt_its_answer(client):
    session = await client.initialize()
    call = tool_call("escape", 3, WITH_TOKEN, how="cancelled-late", steps=1)
    stream = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    messages = []
    while (event := await stream.read_event()) is not None:
        messages += [event.message] if event.message else []
    assert messages[-1]["result"]["content"][0]["text"] == "done"


@pytest.mark.parametrize("how", ["cancelled", "exit", "panic"])
async def test_escape_from_a_sent_call_is_received(client, how):
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("escape", "a", how=how))
    page = (await client.fetch("GET", "/mcp/receive?wait=20", session=session)).json()
    assert page["events"][-1]["message"] == {"jsonrpc": "2.0", "id": "a", "error": INTERNAL_ERROR}


async def test_escape_in_a_batch_leaves_the_other_answers(client):
    session = await client.initialize(BATCHES)
    batch = [tool_call("escape", 1, how="exit"), tool_call("echo", 2), tool_call("escape", 3, how="cancelled")]
    answer = await client.fetch("POST", "/mcp", session=session, json_body=batch)
    answers = {message["id"]: message for message in answer.json()}
    assert answers[1]["error"] == answers[3]["error"] == INTERNAL_ERROR
    assert answers[2]["result"]["content"][0]["text"] == "hello"


@pytest.mark.parametrize("how", ASYNC_WAYS)
async def test_escape_in_the_stateless_era_is_answered_at_once(client, logs, how):
    request = stateless_request("tools/call", 5, name="escape", arguments={"how": how})
    answer = await send(client, request, Mcp_Name="escape")
    assert answer.json() == {"jsonrpc": "2.0", "id": 5, "error": INTERNAL_ERROR}
    assert_logged(logs, "escape")
    assert await count(client, "error") == 1


@pytest.mark.parametrize("sections", [{"sessions": {"mode": mode}} for mode in ("off", "optional")])
@pytest.mark.parametrize("how", ["cancelled", "exit"])
async def test_escape_without_a_session_is_answered_at_once(client, how):
    answer = await client.fetch("POST", "/mcp", json_body=tool_call("escape", how=how))
    assert answer.json()["error"] == INTERNAL_ERROR


@pytest.mark.parametrize("how", ["cancelled", "exit", "panic"])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "prompt", "arguments": {"how": "{how}"}}),
        ("resources/read", {"uri": "escape://{how}"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "prompt"}, "argument": {"name": "how", "value": "{how}"}},
        ),
    ],
)
async def test_escape_from_another_handler_is_answered_at_once(client, logs, method, params, how):
    def fill(value):
        if isinstance(value, dict):
            return {name: fill(inner) for name, inner in value.items()}
        return value.replace("{how}", how)

    session = await client.initialize()
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": fill(params)}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=request)
    assert answer.json()["error"] == INTERNAL_ERROR
    assert [line["method"] for line in logs if line["event"] == "handler.failed"] == [method]
    await assert_serves(client, session)


async def test_escape_from_initialize_is_answered_at_once(client, logs):
    request = initialize_request(clientInfo={"name": "exit", "version": "1"})
    answer = await client.fetch("POST", "/mcp", json_body=request)
    assert answer.json()["error"] == INTERNAL_ERROR
    assert [line["method"] for line in logs if line["event"] == "handler.failed"] == ["initialize"]
    await assert_serves(client, await client.initialize())


async def test_escape_from_the_handler_of_a_notification_is_logged(client, logs):
    session = await client.initialize()
    notification = {"jsonrpc": "2.0", "method": "notifications/exit"}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=notification)
    assert answer.status == 202
    await assert_serves(client, session)
    async with asyncio.timeout(10):
        while not any(line["event"] == "notification.failed" for line in logs):
            await asyncio.sleep(0.01)
    assert [line["method"] for line in logs if line["event"] == "notification.failed"] == ["notifications/exit"]


async def test_cancelled_call_is_still_answered_as_cancelled(client):
    session = await client.initialize()
    call = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("exit_when_cancelled", 4))
    async with asyncio.timeout(20):
        while (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 4})).status != 202:
            pass
    assert (await call.read_answer()).json()["error"]["code"] == -32800
