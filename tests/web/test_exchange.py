"""`/mcp/send`, `/mcp/receive`, `/mcp/abort`."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.gen_test

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
WITH_TOKEN = {"progressToken": "t"}


async def receive(client, session: str, after: str | None = None, wait: str = "3") -> dict:
    query = f"wait={wait}" + (f"&after={after}" if after is not None else "")
    answer = await client.fetch("GET", f"/mcp/receive?{query}", session=session)
    assert answer.status == 200, answer.body
    got = answer.json()
    assert set(got) == {"events", "after"}
    assert all(set(event) == {"id", "message"} for event in got["events"])
    return got


async def test_the_answer_to_what_was_sent_is_received(client):
    session = await client.session()
    sent = await client.fetch("POST", "/mcp/send", session=session, json_body={**PING, "id": "a"})
    assert (sent.status, sent.json()) == (202, {"accepted": "a"})
    got = await receive(client, session)
    assert [event["message"] for event in got["events"]] == [{"jsonrpc": "2.0", "id": "a", "result": {}}]
    assert got["after"] == got["events"][-1]["id"]


@pytest.mark.parametrize(
    "body", [INITIALIZED, {"jsonrpc": "2.0", "id": "x", "result": {}}, {"jsonrpc": "2.0", "method": "notifications/x"}]
)
async def test_what_has_no_answer_is_accepted_as_null(client, body):
    session = await client.session()
    sent = await client.fetch("POST", "/mcp/send", session=session, json_body=body)
    assert (sent.status, sent.json()) == (202, {"accepted": None})


async def test_initialize_cannot_be_sent(client, helpers):
    session = await client.session()
    (await client.fetch("POST", "/mcp/send", session=session, json_body=helpers.initialize())).assert_error(
        "INVALID_REQUEST"
    )


async def test_receive_goes_on_after_an_event_and_repeats_from_an_older_one(client):
    session = await client.session()
    got = []
    after = None
    for number in (1, 2, 3):
        await client.fetch("POST", "/mcp/send", session=session, json_body={**PING, "id": number})
        more = await receive(client, session, after)
        assert [event["message"]["id"] for event in more["events"]] == [number]
        got += more["events"]
        after = more["after"]
    assert (await receive(client, session))["events"] == got
    assert (await receive(client, session, got[0]["id"]))["events"] == got[1:]
    assert await receive(client, session, after, wait="0") == {"events": [], "after": after}
    assert [event["id"] for event in got] == sorted({event["id"] for event in got})


async def test_an_empty_answer_gives_back_the_after_it_got(client):
    session = await client.session()
    assert await receive(client, session, wait="0") == {"events": [], "after": None}
    assert await receive(client, session, "garbage", wait="0") == {"events": [], "after": "garbage"}
    answer = await client.fetch("GET", "/mcp/receive", session=session)
    assert answer.json() == {"events": [], "after": None}


async def test_an_id_of_another_session_replays_nothing(client):
    first, second = await client.session(), await client.session()
    for session in (first, second):
        await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    mine = await receive(client, first)
    theirs = await receive(client, second)
    assert (await receive(client, first, theirs["after"], wait="0"))["events"] == []
    assert mine["after"] != theirs["after"]


async def test_a_poll_waits_for_what_comes_later(client, helpers):
    session = await client.session()
    poll = await client.open("GET", "/mcp/receive?wait=30", Mcp_Session_Id=session, Accept="application/json")
    await client.fetch("POST", "/mcp/send", session=session, json_body=helpers.tool_call("echo", 5))
    got = (await poll.answer()).json()
    assert [event["message"]["id"] for event in got["events"]] == [5]


@pytest.mark.parametrize("wait", ["-1", "60.1", "61", "1e9", "nan", "inf", "-inf", "x", "", "1s", "%ff"])
async def test_a_bad_wait(client, wait):
    session = await client.session()
    (await client.fetch("GET", f"/mcp/receive?wait={wait}", session=session)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize("wait", ["0", "0.01", "60", "60.0", "6e1"])
async def test_a_good_wait(client, wait):
    session = await client.session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    assert len((await receive(client, session, wait=wait))["events"]) == 1


async def test_progress_and_requests_of_a_sent_call_are_received(client, helpers):
    session = await client.initialize(capabilities={"elicitation": {}})
    call = helpers.tool_call("ask", 1)
    await client.fetch("POST", "/mcp/send", session=session, json_body=call)
    got = await receive(client, session)
    question = got["events"][-1]["message"]
    assert question["method"] == "elicitation/create"
    reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"quantity": 3}}}
    await client.fetch("POST", "/mcp/send", session=session, json_body=reply)
    got = await receive(client, session, got["after"])
    assert got["events"][-1]["message"]["result"]["content"][0]["text"] == "accept 3"


async def test_receive_shows_neither_priming_events_nor_the_streams_of_posts(client, helpers):
    session = await client.session()
    posted = await client.stream(
        "POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("steps", 1, WITH_TOKEN)
    )
    while await posted.event() is not None:
        pass
    assert (await receive(client, session, wait="0"))["events"] == []
    await client.fetch("POST", "/mcp/send", session=session, json_body=helpers.tool_call("steps", 2, WITH_TOKEN))
    messages = []
    after = None
    while not messages or "result" not in messages[-1]:
        got = await receive(client, session, after)
        messages += [event["message"] for event in got["events"]]
        after = got["after"]
    assert [message.get("method", "answer") for message in messages] == ["notifications/progress"] * 2 + ["answer"]


async def test_receive_as_a_stream(client, helpers):
    session = await client.session()
    stream = await client.stream("GET", "/mcp/receive", Mcp_Session_Id=session, Accept="text/event-stream")
    await client.fetch("POST", "/mcp/send", session=session, json_body=helpers.tool_call("steps", 2, WITH_TOKEN))
    events = [await stream.event() for _ in range(3)]
    assert [event.message.get("method", "answer") for event in events] == ["notifications/progress"] * 2 + ["answer"]
    for resume in ({"Last_Event_ID": events[0].id}, {}):
        path = "/mcp/receive" if resume else f"/mcp/receive?after={events[0].id}"
        again = await client.stream("GET", path, Mcp_Session_Id=session, Accept="text/event-stream", **resume)
        assert (await again.event()).id == events[1].id


async def test_what_is_sent_does_not_appear_on_the_standalone_stream(client):
    session = await client.session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    await receive(client, session)
    stream = await client.stream("GET", "/mcp", Mcp_Session_Id=session)
    await client.fetch("DELETE", "/mcp", session=session)
    assert await stream.event() is None


# ---------------------------------------------------------------------- abort


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
@pytest.mark.parametrize("reason", [{}, {"reason": "no longer wanted"}])
async def test_abort_of_a_posted_call(client, hosted, helpers, reason):
    session = await client.session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait", 7))
    await hosted.started.wait()
    aborted = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7, **reason})
    assert aborted.status == 202
    answer = await running.answer()
    assert answer.status == 200
    assert (answer.json()["id"], answer.json()["error"]["code"]) == (7, -32800)
    assert hosted.finished == ["cancelled"]
    again = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7})
    again.assert_error("REQUEST_NOT_FOUND")


async def test_abort_of_a_sent_call(client, hosted, helpers):
    session = await client.session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=helpers.tool_call("wait", "x"))
    await hosted.started.wait()
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": "x"})).status == 202
    got = await receive(client, session)
    assert [event["message"]["error"]["code"] for event in got["events"]] == [-32800]


async def test_abort_of_a_streamed_call(client, hosted, helpers):
    session = await client.session()
    stream = await client.stream("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait", 7))
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 7})).status == 202
    priming = await stream.event()
    assert (priming.message, bool(priming.id)) == (None, True)
    assert (await stream.event()).message["error"]["code"] == -32800
    assert await stream.event() is None


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
async def test_a_session_cannot_abort_the_calls_of_another(client, hosted, helpers):
    first, second = await client.session(), await client.session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=first, json_body=helpers.tool_call("wait", 7))
    await hosted.started.wait()
    other = await client.fetch("POST", "/mcp/abort", session=second, json_body={"requestId": 7})
    other.assert_error("REQUEST_NOT_FOUND")
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await client.fetch("POST", "/mcp", session=second, json_body=notification)).status == 202
    hosted.release.set()
    assert (await running.answer()).result()["content"][0]["text"] == "released"


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 60}}])
async def test_cancelling_by_notification(client, hosted, helpers):
    session = await client.session()
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait", 7))
    await hosted.started.wait()
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await client.fetch("POST", "/mcp", session=session, json_body=notification)).status == 202
    assert (await running.answer()).json()["error"]["code"] == -32800


# ---------------------------------------------------------------------- POST /mcp, JSON or a stream


@pytest.mark.parametrize(("version", "primed"), [("2025-06-18", False), ("2025-11-25", True)])
async def test_a_call_that_emits_is_streamed(client, helpers, version, primed):
    session = await client.initialize(version)
    stream = await client.stream(
        "POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("steps", 1, WITH_TOKEN)
    )
    events = []
    while (event := await stream.event()) is not None:
        events.append(event)
    if primed:
        assert events[0].message is None
        assert events[0].id
        events = events[1:]
    assert [event.message.get("method", "answer") for event in events] == ["notifications/progress"] * 2 + ["answer"]
    assert events[-1].message["id"] == 1
    resumed = await client.stream("GET", "/mcp", Mcp_Session_Id=session, Last_Event_ID=events[0].id)
    assert [(await resumed.event()).id for _ in events[1:]] == [event.id for event in events[1:]]
    assert await resumed.event() is None


@pytest.mark.parametrize("sections", [{"server": {"json_responses": True}}])
async def test_with_json_responses_nothing_is_streamed(client, helpers):
    session = await client.initialize(capabilities={"elicitation": {}})
    answer = await client.fetch(
        "POST", "/mcp", session=session, json_body=helpers.tool_call("steps", 1, WITH_TOKEN), Accept="application/json"
    )
    assert answer.result()["content"][0]["text"] == "done"
    asked = await client.call(session, "ask")
    assert (asked.status, asked.json()["error"]["code"]) == (200, -32600)  # the SDK's NoBackChannelError


@pytest.mark.parametrize("stream", [False, True])
async def test_numbers_beyond_64_bits_are_answered(client, helpers, stream):
    session = await client.session()
    call = helpers.tool_call("huge", 1, WITH_TOKEN, stream=stream)
    if not stream:
        assert (await client.fetch("POST", "/mcp", session=session, json_body=call)).result()["structuredContent"] == {
            "number": 2**70
        }
        return
    opened = await client.stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    last = None
    while (event := await opened.event()) is not None:
        last = event
    assert json.dumps(last.message["result"]["structuredContent"]) == json.dumps({"number": 2**70})
