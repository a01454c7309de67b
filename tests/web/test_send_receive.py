"""`/mcp/send`, `/mcp/receive` and `/mcp/abort`, and POST `/mcp` with JSON or a stream."""

from __future__ import annotations

import json

import pytest

from tests.web.messages import PING, initialize_request, tool_call

pytestmark = pytest.mark.gen_test(timeout=60)

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
WITH_TOKEN = {"progressToken": "t"}


async def receive(client, session: str, after: str | None = None, wait: str = "3") -> dict:
    query = f"wait={wait}" + (f"&after={after}" if after is not None else "")
    answer = await client.fetch("GET", f"/mcp/receive?{query}", session=session)
    assert answer.status == 200, answer.body
    page = answer.json()
    assert set(page) == {"events", "after"}
    assert all(set(event) == {"id", "message"} for event in page["events"])
    return page


async def test_answer_to_a_sent_request_is_received(client):
    session = await client.create_session()
    sent = await client.fetch("POST", "/mcp/send", session=session, json_body={**PING, "id": "a"})
    assert (sent.status, sent.json()) == (202, {"accepted": "a"})
    page = await receive(client, session)
    assert [event["message"] for event in page["events"]] == [{"jsonrpc": "2.0", "id": "a", "result": {}}]
    assert page["after"] == page["events"][-1]["id"]


@pytest.mark.parametrize(
    "body", [INITIALIZED, {"jsonrpc": "2.0", "id": "x", "result": {}}, {"jsonrpc": "2.0", "method": "notifications/x"}]
)
async def test_message_without_an_answer_is_accepted_as_null(client, body):
    session = await client.create_session()
    sent = await client.fetch("POST", "/mcp/send", session=session, json_body=body)
    assert (sent.status, sent.json()) == (202, {"accepted": None})


async def test_initialize_cannot_be_sent(client):
    session = await client.create_session()
    (await client.fetch("POST", "/mcp/send", session=session, json_body=initialize_request())).assert_error(
        "INVALID_REQUEST"
    )


async def test_receive_continues_after_any_given_event(client):
    session = await client.create_session()
    events = []
    after = None
    for number in (1, 2, 3):
        await client.fetch("POST", "/mcp/send", session=session, json_body={**PING, "id": number})
        more = await receive(client, session, after)
        assert [event["message"]["id"] for event in more["events"]] == [number]
        events += more["events"]
        after = more["after"]
    assert (await receive(client, session))["events"] == events
    assert (await receive(client, session, events[0]["id"]))["events"] == events[1:]
    assert await receive(client, session, after, wait="0") == {"events": [], "after": after}
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})


async def test_empty_answer_returns_the_given_after(client):
    session = await client.create_session()
    assert await receive(client, session, wait="0") == {"events": [], "after": None}
    assert await receive(client, session, "garbage", wait="0") == {"events": [], "after": "garbage"}
    answer = await client.fetch("GET", "/mcp/receive", session=session)
    assert answer.json() == {"events": [], "after": None}


async def test_event_id_of_another_session_replays_nothing(client):
    first, second = await client.create_session(), await client.create_session()
    for session in (first, second):
        await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    mine = await receive(client, first)
    theirs = await receive(client, second)
    assert (await receive(client, first, theirs["after"], wait="0"))["events"] == []
    assert mine["after"] != theirs["after"]


async def test_poll_waits_for_a_later_event(client):
    session = await client.create_session()
    poll = await client.open("GET", "/mcp/receive?wait=30", Mcp_Session_Id=session, Accept="application/json")
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("echo", 5))
    page = (await poll.read_answer()).json()
    assert [event["message"]["id"] for event in page["events"]] == [5]


@pytest.mark.parametrize("wait", ["-1", "60.1", "61", "1e9", "nan", "inf", "-inf", "x", "", "1s", "%ff"])
async def test_invalid_wait_is_refused(client, wait):
    session = await client.create_session()
    (await client.fetch("GET", f"/mcp/receive?wait={wait}", session=session)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize("wait", ["0", "0.01", "60", "60.0", "6e1"])
async def test_valid_wait_is_accepted(client, wait):
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    assert len((await receive(client, session, wait=wait))["events"]) == 1


async def test_server_requests_of_a_sent_call_are_received(client):
    session = await client.initialize(capabilities={"elicitation": {}})
    call = tool_call("ask", 1)
    await client.fetch("POST", "/mcp/send", session=session, json_body=call)
    page = await receive(client, session)
    question = page["events"][-1]["message"]
    assert question["method"] == "elicitation/create"
    reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"quantity": 3}}}
    await client.fetch("POST", "/mcp/send", session=session, json_body=reply)
    page = await receive(client, session, page["after"])
    assert page["events"][-1]["message"]["result"]["content"][0]["text"] == "accept 3"


async def test_receive_shows_neither_priming_events_nor_the_streams_of_posts(client):
    session = await client.create_session()
    posted = await client.open_stream(
        "POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("steps", 1, WITH_TOKEN)
    )
    while await posted.read_event() is not None:
        pass
    assert (await receive(client, session, wait="0"))["events"] == []
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("steps", 2, WITH_TOKEN))
    messages = []
    after = None
    while not messages or "result" not in messages[-1]:
        page = await receive(client, session, after)
        messages += [event["message"] for event in page["events"]]
        after = page["after"]
    assert [message.get("method", "answer") for message in messages] == ["notifications/progress"] * 2 + ["answer"]


async def test_receive_streams_and_resumes(client):
    session = await client.create_session()
    stream = await client.open_stream("GET", "/mcp/receive", Mcp_Session_Id=session, Accept="text/event-stream")
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("steps", 2, WITH_TOKEN))
    events = [await stream.read_event() for _ in range(3)]
    assert [event.message.get("method", "answer") for event in events] == ["notifications/progress"] * 2 + ["answer"]
    for resume in ({"Last_Event_ID": events[0].id}, {}):
        path = "/mcp/receive" if resume else f"/mcp/receive?after={events[0].id}"
        again = await client.open_stream("GET", path, Mcp_Session_Id=session, Accept="text/event-stream", **resume)
        assert (await again.read_event()).id == events[1].id


async def test_what_is_sent_does_not_appear_on_the_standalone_stream(client):
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    await receive(client, session)
    stream = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session)
    await client.fetch("DELETE", "/mcp", session=session)
    assert await stream.read_event() is None


# ---------------------------------------------------------------------- abort


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
@pytest.mark.parametrize("reason", [{}, {"reason": "no longer wanted"}])
async def test_abort_cancels_a_posted_call(client, hosted, reason):
    session = await client.create_session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait", 7))
    await hosted.wait_until_started()
    aborted = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7, **reason})
    assert aborted.status == 202
    answer = await running.read_answer()
    assert answer.status == 200
    assert (answer.json()["id"], answer.json()["error"]["code"]) == (7, -32800)
    assert hosted.outcomes == ["cancelled"]
    again = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7})
    again.assert_error("REQUEST_NOT_FOUND")


async def test_abort_cancels_a_sent_call(client, hosted):
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=tool_call("wait", "x"))
    await hosted.wait_until_started()
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": "x"})).status == 202
    page = await receive(client, session)
    assert [event["message"]["error"]["code"] for event in page["events"]] == [-32800]


async def test_abort_cancels_a_streamed_call(client, hosted):
    session = await client.create_session()
    stream = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait", 7))
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7})).status == 202
    priming = await stream.read_event()
    assert (priming.message, bool(priming.id)) == (None, True)
    assert (await stream.read_event()).message["error"]["code"] == -32800
    assert await stream.read_event() is None


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
async def test_session_cannot_abort_the_calls_of_another(client, hosted):
    first, second = await client.create_session(), await client.create_session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=first, json_body=tool_call("wait", 7))
    await hosted.wait_until_started()
    other = await client.fetch("POST", "/mcp/abort", session=second, json_body={"requestId": 7})
    other.assert_error("REQUEST_NOT_FOUND")
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await client.fetch("POST", "/mcp", session=second, json_body=notification)).status == 202
    hosted.release.set()
    assert (await running.read_answer()).result()["content"][0]["text"] == "released"


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
async def test_notification_cancels_a_call(client, hosted):
    session = await client.create_session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait", 7))
    await hosted.wait_until_started()
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await client.fetch("POST", "/mcp", session=session, json_body=notification)).status == 202
    assert (await running.read_answer()).json()["error"]["code"] == -32800


# ---------------------------------------------------------------------- POST /mcp, JSON or a stream


@pytest.mark.parametrize(("version", "primed"), [("2025-06-18", False), ("2025-11-25", True)])
async def test_call_that_emits_is_streamed(client, version, primed):
    session = await client.initialize(version)
    stream = await client.open_stream(
        "POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("steps", 1, WITH_TOKEN)
    )
    events = []
    while (event := await stream.read_event()) is not None:
        events.append(event)
    if primed:
        assert events[0].message is None
        assert events[0].id
        events = events[1:]
    assert [event.message.get("method", "answer") for event in events] == ["notifications/progress"] * 2 + ["answer"]
    assert events[-1].message["id"] == 1
    resumed = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session, Last_Event_ID=events[0].id)
    assert [(await resumed.read_event()).id for _ in events[1:]] == [event.id for event in events[1:]]
    assert await resumed.read_event() is None


@pytest.mark.parametrize("sections", [{"server": {"json_responses": True}}])
async def test_json_responses_setting_prevents_streams(client):
    session = await client.initialize(capabilities={"elicitation": {}})
    answer = await client.fetch(
        "POST", "/mcp", session=session, json_body=tool_call("steps", 1, WITH_TOKEN), Accept="application/json"
    )
    assert answer.result()["content"][0]["text"] == "done"
    asked = await client.call_tool(session, "ask")
    assert (asked.status, asked.json()["error"]["code"]) == (200, -32600)  # NoBackChannelError of the SDK


@pytest.mark.parametrize("stream", [False, True])
async def test_integers_beyond_64_bits_are_answered(client, stream):
    session = await client.create_session()
    call = tool_call("huge", 1, WITH_TOKEN, stream=stream)
    if not stream:
        assert (await client.fetch("POST", "/mcp", session=session, json_body=call)).result()["structuredContent"] == {
            "number": 2**70
        }
        return
    opened = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    last = None
    while (event := await opened.read_event()) is not None:
        last = event
    assert json.dumps(last.message["result"]["structuredContent"]) == json.dumps({"number": 2**70})
