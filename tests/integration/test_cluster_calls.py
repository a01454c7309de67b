"""Several processes behind a load balancer: calls, and the messages for a call that another process runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import mcp_types as types
import pytest

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer, connect_client
from tests.integration.sdk import Inbox, answer_roots, answer_sampling, repeat_question_number, result_text
from tests.integration.wire import Frame, Wire, answer_text, has_response, log_data, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


@pytest.fixture(scope="module", params=["sqlite", "redis", "mongodb"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield await wire.open_session(capabilities=CAPABILITIES)


def reply(question: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


# ---------------------------------------------------------------- sessions and calls


async def test_every_process_serves_every_session(balancer: LoadBalancer, wire: Wire) -> None:
    assert len({await wire.call_tool("whoami") for _ in balancer.servers}) == 1
    for server in balancer.servers:
        assert await wire.at(server).call_tool("echo", text="ä") == "ä"
    listing = await wire.http.get(f"{wire.server.url}/session", headers=wire.headers)
    assert listing.json()["client"]["name"] == "wire"


async def test_a_session_without_a_handshake_is_served_by_every_process(balancer: LoadBalancer, wire: Wire) -> None:
    fresh = wire.new_client()
    created = await fresh.post(None, "/session")
    assert created.status_code == 201
    fresh.headers = {"Mcp-Session-Id": created.headers["Mcp-Session-Id"]}
    for server in balancer.servers:
        assert await fresh.at(server).call_tool("echo", text="x") == "x"
    assert await fresh.call_tool("echo", text="y") == "y"


async def test_streams_of_calls_are_complete_and_in_order(balancer: LoadBalancer, wire: Wire) -> None:
    for _ in balancer.servers:
        async with wire.post_stream(wire.tool_request("logs", number=50)) as events:
            frames = await events.read_to_end()
        assert log_data(frames) == [f"{index}:" for index in range(50)]
        assert answer_text(frames[-1].message) == "logged"


async def test_a_client_of_the_sdk_can_use_every_feature(balancer: LoadBalancer) -> None:
    steps: list[float] = []
    logged: list[str] = []
    inbox = Inbox()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async with connect_client(
        balancer,
        elicitation_callback=repeat_question_number,
        sampling_callback=answer_sampling,
        list_roots_callback=answer_roots,
        logging_callback=on_log,
        message_handler=inbox,
    ) as client:

        async def call(name: str, **arguments: Any) -> str:
            return result_text(await client.call_tool(name, arguments, progress_callback=on_progress))

        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert await call("echo", text="grüß dich") == "grüß dich"
        assert await call("elicit", times=5) == "0, 1, 2, 3, 4"
        assert await call("sample") == "oracle says ho ho"
        assert await call("roots") == "file:///a, file:///b"
        assert await call("progress", steps=20) == "done"
        assert steps == list(range(1, 21))
        assert await call("logs", number=20) == "logged"
        assert logged == [f"{index}:" for index in range(20)]
        assert await call("change") == "changed"
        await inbox.wait_for("notifications/resources/updated")
        assert inbox.methods().count("notifications/resources/updated") == 1


# ---------------------------------------------------------------- questions to the client


@pytest.mark.parametrize(
    ("tool", "method", "result", "text"),
    [
        ("elicit", "elicitation/create", {"action": "accept", "content": {"name": "Ada"}}, "Ada"),
        (
            "sample",
            "sampling/createMessage",
            {"role": "assistant", "model": "oracle", "content": {"type": "text", "text": "ho ho"}},
            "oracle says ho ho",
        ),
        ("roots", "roots/list", {"roots": [{"uri": "file:///a"}]}, "file:///a"),
    ],
)
async def test_a_reply_arrives_at_another_process(
    balancer: LoadBalancer, wire: Wire, tool: str, method: str, result: Any, text: str
) -> None:
    call = wire.tool_request(tool)
    async with wire.post_stream(call) as events:
        question = await events.next_message()
        assert question["method"] == method
        answer = reply(question, result)
        assert (await wire.post(answer)).status_code == 202
        assert answer_text(await events.next_message()) == text
    assert await balancer.server_that_got(answer) is not await balancer.server_that_got(call)


async def test_an_error_reply_arrives_at_another_process(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("elicit")) as events:
        question = await events.next_message()
        error = {"code": -32042, "message": "I would rather not"}
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "error": error})
        assert "I would rather not" in json.dumps(await events.next_message())


async def test_reply_that_another_process_refuses_ends_the_question(balancer: LoadBalancer, wire: Wire) -> None:
    for server in balancer.servers:
        async with wire.post_stream(wire.tool_request("elicit")) as events:
            question = await events.next_message()
            assert (await wire.at(server).post(reply(question, "no object"))).status_code == 400
            assert "reply was refused" in (await events.next_message())["error"]["message"]


async def test_many_concurrent_questions_are_answered_at_other_processes(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("elicit", times=30)) as events:
        questions = [await events.next_message() for _ in range(30)]
        async with anyio.create_task_group() as tasks:
            for question in questions:
                name = question["params"]["message"].removeprefix("question ")
                tasks.start_soon(wire.post, reply(question, {"action": "accept", "content": {"name": name}}))
        assert answer_text(await events.next_message()) == ", ".join(str(index) for index in range(30))


async def test_a_reply_that_arrives_twice_counts_once(balancer: LoadBalancer, wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("elicit")) as events:
        question = await events.next_message()
        for name in ("first", "second", "third"):
            answer = reply(question, {"action": "accept", "content": {"name": name}})
            assert (await wire.at(balancer.servers[0]).post(answer)).status_code == 202
        assert answer_text(await events.next_message()) == "first"
        assert await events.next_frame() is None


async def test_a_session_cannot_answer_the_question_of_another_session(balancer: LoadBalancer, wire: Wire) -> None:
    attacker = await wire.new_client().open_session(capabilities=CAPABILITIES)
    async with wire.post_stream(wire.tool_request("elicit")) as events:
        question = await events.next_message()
        for server in balancer.servers:
            answer = reply(question, {"action": "accept", "content": {"name": "attacker"}})
            assert (await attacker.at(server).post(answer)).status_code == 202
        await wire.post(reply(question, {"action": "accept", "content": {"name": "owner"}}))
        assert answer_text(await events.next_message()) == "owner"


async def test_replies_to_no_question_are_accepted_by_every_process(balancer: LoadBalancer, wire: Wire) -> None:
    for request_id in ("s0123456789.1", "nonsense", "@everybody.1", 7):
        for server in balancer.servers:
            assert (await wire.at(server).post(reply({"id": request_id}, {}))).status_code == 202


async def test_progress_of_the_client_arrives_at_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    call = wire.tool_request("sample_in_steps", gate="steps")
    async with wire.post_stream(call) as events:
        question = await events.next_message()
        server = await balancer.server_that_got(call)
        token = question["params"]["_meta"]["progressToken"]
        for step in (1, 2, 3):
            params = {"progressToken": token, "progress": step, "total": 3, "message": f"step {step}"}
            progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            assert (await wire.post(progress)).status_code == 202
            await wire.at(server).call_tool("wait_for_note", note=f"steps: step {step}")
        answer = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "ready"}}
        await wire.post(reply(question, answer))
        text = answer_text(await events.next_message())
    assert text == "ready, after 1 of 3: step 1, 2 of 3: step 2, 3 of 3: step 3"


# ---------------------------------------------------------------- integers of more than 64 bits


@pytest.mark.parametrize("number", [2**64 + 1, -(2**63) - 1, 10**4300 - 1], ids=lambda number: str(number)[:6])
async def test_large_integers_are_exact_at_another_process(balancer: LoadBalancer, wire: Wire, number: int) -> None:
    first, second, *_ = balancer.servers
    call = wire.tool_request("progress", id=number, meta={"progressToken": number}, steps=2)
    async with wire.at(first).post_stream(call) as events:
        frames = await events.read_to_end()
    async with wire.at(second).get_stream(frames[0].id) as events:
        resumed = [frame.message for frame in await events.read_to_end()]
    assert resumed == [frame.message for frame in frames[1:]]
    assert [repr(message["params"]["progressToken"]) for message in resumed[:-1]] == [repr(number)] * 2
    assert repr(resumed[-1]["id"]) == repr(number)


async def test_call_with_a_large_id_is_aborted_at_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    first, second, *_ = balancer.servers
    async with wire.at(first).post_stream(wire.tool_request("elicit", id=2**64 + 1)) as events:
        await events.next_message()
        for request_id, status in ((2**64, 404), (2**64 + 1, 202)):
            aborted = await wire.at(second).post({"requestId": request_id}, "/abort")
            assert aborted.status_code == status
        messages = [frame.message for frame in await events.read_to_end()]
    assert repr(messages[-1]["id"]) == repr(2**64 + 1)
    assert messages[-1]["error"]["code"] == -32800


# ---------------------------------------------------------------- send and receive


@pytest.mark.parametrize("tool", ["echo", "logs"])
async def test_an_answer_to_send_is_received_at_another_process(wire: Wire, tool: str) -> None:
    arguments: dict[str, Any] = {"text": "ä"} if tool == "echo" else {"number": 20}
    accepted = await wire.post(wire.tool_request(tool, id="mine", **arguments), "/send")
    assert (accepted.status_code, accepted.json()) == (202, {"accepted": "mine"})
    events, _ = await wire.receive_until(has_response)
    messages = [event["message"] for event in events]
    assert messages[-1]["id"] == "mine"
    assert answer_text(messages[-1]) == ("ä" if tool == "echo" else "logged")
    if tool == "logs":
        assert [message["params"]["data"] for message in messages[:-1]] == [f"{index}:" for index in range(20)]


async def test_answers_of_all_processes_are_received_on_one_stream(balancer: LoadBalancer, wire: Wire) -> None:
    """Answers and notifications of each process arrive on a stream that was opened before."""
    async with wire.get_stream(path="/receive", Accept="text/event-stream") as events:
        for index, server in enumerate(balancer.servers):
            accepted = await wire.at(server).post(wire.tool_request("echo", text="x", id=f"job-{index}"), "/send")
            assert accepted.status_code == 202
            assert (await events.next_message())["id"] == f"job-{index}"
            await wire.at(server).call_tool("change")
            methods = [(await events.next_message())["method"] for _ in range(4)]
            assert methods[0] == "notifications/tools/list_changed"


async def test_a_question_of_a_background_call_is_answered_at_another_process(wire: Wire) -> None:
    async with wire.get_stream(path="/receive", Accept="text/event-stream") as events:
        await wire.post(wire.tool_request("elicit", id="ask"), "/send")
        question = await events.next_message()
        answer = reply(question, {"action": "accept", "content": {"name": "Ada"}})
        assert (await wire.post(answer, "/send")).status_code == 202
        message = await events.next_message()
        assert (message["id"], answer_text(message)) == ("ask", "Ada")


# ---------------------------------------------------------------- notifications outside of calls


async def test_a_notification_reaches_the_standalone_stream_at_another_process(
    balancer: LoadBalancer, wire: Wire
) -> None:
    first, second, third = balancer.servers
    async with wire.at(first).get_stream() as standalone:
        for server in (second, third, first):
            await wire.at(server).call_tool("change", uri=f"memo://{balancer.servers.index(server)}")
            frames: list[Frame] = await standalone.read_frames(4)
            assert [frame.message["method"] for frame in frames] == [
                "notifications/tools/list_changed",
                "notifications/prompts/list_changed",
                "notifications/resources/list_changed",
                "notifications/resources/updated",
            ]
            assert frames[-1].message["params"]["uri"] == f"memo://{balancer.servers.index(server)}"
