"""Several processes behind a round robin: calls, and what concerns a call that another process runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import mcp_types as types
import pytest

from tests.integration.cluster import Cluster, Front, client_through, cluster_on, read
from tests.integration.conftest import DEADLINE, UNPRIMED, Frame, Wire, error_code, log_data, text_of, until, wire_to

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


@pytest.fixture(scope="module", params=["sqlite", "redis", "mongodb"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param) as cluster:
        yield cluster


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield await wire.open(capabilities=CAPABILITIES)


def reply(question: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


async def receive_answer(wire: Wire) -> list[Any]:
    """Poll `/mcp/receive` until there is a response, and return all messages."""
    messages: list[Any] = []
    after = ""
    with anyio.fail_after(DEADLINE):
        while not any("method" not in message for message in messages):
            headers = {**wire.headers, "Accept": "application/json"}
            response = await wire.http.get(f"{wire.server.url}/receive?wait=20{after}", headers=headers)
            assert response.status_code == 200, response.text
            messages += [event["message"] for event in response.json()["events"]]
            after = f"&after={response.json()['after']}" if response.json()["after"] else ""
    return messages


# ---------------------------------------------------------------- sessions and calls


async def test_every_process_knows_every_session(front: Front, wire: Wire) -> None:
    assert len({await wire.tool("whoami") for _ in front.servers}) == 1
    for server in front.servers:
        assert await wire.at(server).tool("echo", text="ä") == "ä"
    listing = await wire.http.get(f"{wire.server.url}/session", headers=wire.headers)
    assert listing.json()["client"]["name"] == "wire"


async def test_a_session_made_without_a_handshake_is_known_everywhere(front: Front, wire: Wire) -> None:
    fresh = wire.fork()
    created = await fresh.post(None, "/session")
    assert created.status_code == 201
    fresh.headers = {"Mcp-Session-Id": created.headers["Mcp-Session-Id"]}
    for server in front.servers:
        assert await fresh.at(server).tool("echo", text="x") == "x"
    assert await fresh.tool("echo", text="y") == "y"


async def test_streams_of_calls_come_whole_and_in_order(front: Front, wire: Wire) -> None:
    for _ in front.servers:
        async with wire.stream(wire.call("logs", number=50)) as events:
            frames = await events.rest()
        assert log_data(frames) == [f"{index}:" for index in range(50)]
        assert text_of(frames[-1].message) == "logged"


async def test_a_client_of_the_sdk_does_a_bit_of_everything(front: Front) -> None:
    async def on_elicitation(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": params.message.removeprefix("question ")})

    async def on_sampling(context: Any, params: Any) -> types.CreateMessageResult:
        content = types.TextContent(type="text", text="ho ho")
        return types.CreateMessageResult(role="assistant", content=content, model="oracle", stop_reason="endTurn")

    async def on_roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///a")])  # pyright: ignore

    steps: list[float] = []
    said: list[str] = []
    changes: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        said.append(params.data)

    async def on_message(message: Any) -> None:
        assert not isinstance(message, Exception), message
        changes.append(message.method)

    async with client_through(
        front,
        elicitation_callback=on_elicitation,
        sampling_callback=on_sampling,
        list_roots_callback=on_roots,
        logging_callback=on_log,
        message_handler=on_message,
    ) as client:

        async def call(name: str, **arguments: Any) -> str:
            result = await client.call_tool(name, arguments, progress_callback=on_progress)
            assert not result.is_error, result
            return result.content[0].text  # pyright: ignore

        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert await call("echo", text="grüß dich") == "grüß dich"
        assert await call("elicit", times=5) == "0, 1, 2, 3, 4"
        assert await call("sample") == "oracle says ho ho"
        assert await call("roots") == "file:///a"
        assert await call("progress", steps=20) == "done"
        assert steps == list(range(1, 21))
        assert await call("logs", number=20) == "logged"
        assert said == [f"{index}:" for index in range(20)]
        assert await call("change") == "changed"
        await until(lambda: _true(changes.count("notifications/resources/updated") == 1))


async def _true(value: bool) -> bool:
    return value


# ---------------------------------------------------------------- requests of the server's to the client


@pytest.mark.parametrize(
    ("tool", "method", "result", "said"),
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
    front: Front, wire: Wire, tool: str, method: str, result: Any, said: str
) -> None:
    call = wire.call(tool)
    async with wire.stream(call) as events:
        question = await events.message()
        assert question["method"] == method
        answer = reply(question, result)
        assert (await wire.post(answer)).status_code == 202
        assert text_of(await events.message()) == said
    assert await front.server_of(answer) is not await front.server_of(call)


async def test_an_error_of_the_clients_arrives_at_another_process(wire: Wire) -> None:
    async with wire.stream(wire.call("elicit")) as events:
        question = await events.message()
        error = {"code": -32042, "message": "I would rather not"}
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "error": error})
        assert "I would rather not" in json.dumps(await events.message())


async def test_many_questions_at_once_are_answered_each_at_another_process(wire: Wire) -> None:
    async with wire.stream(wire.call("elicit", times=30)) as events:
        questions = [await events.message() for _ in range(30)]
        async with anyio.create_task_group() as tasks:
            for question in questions:
                name = question["params"]["message"].removeprefix("question ")
                tasks.start_soon(wire.post, reply(question, {"action": "accept", "content": {"name": name}}))
        assert text_of(await events.message()) == ", ".join(str(index) for index in range(30))


async def test_a_reply_that_arrives_twice_counts_once(front: Front, wire: Wire) -> None:
    async with wire.stream(wire.call("elicit")) as events:
        question = await events.message()
        for name in ("first", "second", "third"):
            answer = reply(question, {"action": "accept", "content": {"name": name}})
            assert (await wire.at(front.servers[0]).post(answer)).status_code == 202
        assert text_of(await events.message()) == "first"
        assert await events.next() is None


async def test_one_session_cannot_answer_for_another_from_another_process(front: Front, wire: Wire) -> None:
    thief = await wire.fork().open(capabilities=CAPABILITIES)
    async with wire.stream(wire.call("elicit")) as events:
        question = await events.message()
        for server in front.servers:
            answer = reply(question, {"action": "accept", "content": {"name": "thief"}})
            assert (await thief.at(server).post(answer)).status_code == 202
        await wire.post(reply(question, {"action": "accept", "content": {"name": "owner"}}))
        assert text_of(await events.message()) == "owner"


async def test_replies_to_nobody_are_accepted_everywhere(front: Front, wire: Wire) -> None:
    for request_id in ("s0123456789.1", "nonsense", "@everybody.1", 7):
        for server in front.servers:
            assert (await wire.at(server).post(reply({"id": request_id}, {}))).status_code == 202


async def test_progress_of_the_clients_arrives_at_another_process(front: Front, wire: Wire) -> None:
    call = wire.call("sample_in_steps", gate="steps")
    async with wire.stream(call) as events:
        question = await events.message()
        runs_at = await front.server_of(call)
        token = question["params"]["_meta"]["progressToken"]
        for step in (1, 2, 3):
            params = {"progressToken": token, "progress": step, "total": 3, "message": f"step {step}"}
            note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            assert (await wire.post(note)).status_code == 202
            await wire.at(runs_at).tool("seen", what=f"steps: step {step}")
        answer = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "ready"}}
        await wire.post(reply(question, answer))
        said = text_of(await events.message())
    assert said == "ready, after 1 of 3: step 1, 2 of 3: step 2, 3 of 3: step 3"


# ---------------------------------------------------------------- cancelling


async def running(front: Front, wire: Wire, call: Any) -> Wire:
    """Wait until a call runs that waits at a gate, and return the client speaking to the process that runs it."""
    there = wire.at(await front.server_of(call))
    gate = call["params"]["arguments"]["gate"].partition("@")[0]
    await there.tool("seen", what=f"{gate}: started")
    return there


@pytest.mark.parametrize("request_id", [5, "five", "ä.b/c-d 6"])
async def test_a_call_is_cancelled_from_another_process(front: Front, wire: Wire, request_id: str | int) -> None:
    gate = f"cancel-{request_id}"
    call = wire.call("wait_at", gate=gate, id=request_id)
    async with wire.stream(call) as events:
        there = await running(front, wire, call)
        server = next(server for server in front.servers if server is not there.server)
        params = {"requestId": request_id, "reason": "changed my mind"}
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert (await wire.at(server).post(note)).status_code == 202
        (answer,) = [frame for frame in await events.rest() if not frame.is_priming]
    assert answer.message["id"] == request_id
    assert answer.message["error"]["code"] == -32800
    assert await there.tool("seen", what=f"{gate}: cancelled")


async def test_a_question_to_the_client_is_cancelled_from_another_process(front: Front, wire: Wire) -> None:
    call = wire.call("elicit_until_cancelled", gate="asked", id="q")
    async with wire.stream(call) as events:
        await events.message()
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q"}}
        assert (await wire.post(note)).status_code == 202
        assert (await events.rest())[-1].message["error"]["code"] == -32800
    assert await front.server_of(note) is not await front.server_of(call)


async def test_a_call_is_aborted_from_another_process(front: Front, wire: Wire) -> None:
    call = wire.call("wait_at", gate="abort", id="job")
    async with wire.stream(call) as events:
        there = await running(front, wire, call)
        aborts = [wire.at(server) for server in front.servers if server is not there.server]
        aborted = await aborts[0].post({"requestId": "job", "reason": "enough"}, "/abort")
        assert aborted.status_code == 202, aborted.text
        assert (await events.rest())[-1].message["error"]["code"] == -32800
    assert await there.tool("seen", what="abort: cancelled")
    again = await aborts[1].post({"requestId": "job"}, "/abort")
    assert (again.status_code, error_code(again)) == (404, "REQUEST_NOT_FOUND")


async def test_a_call_that_is_no_stream_yet_is_aborted_from_another_process(front: Front, wire: Wire) -> None:
    answers: list[httpx.Response] = []

    async def call(message: Any) -> None:
        answers.append(await wire.post(message))

    async with anyio.create_task_group() as tasks:
        message = wire.call("wait_at", gate="json-abort", id="job")
        tasks.start_soon(call, message)
        there = await running(front, wire, message)
        other = next(server for server in front.servers if server is not there.server)
        assert (await wire.at(other).post({"requestId": "job"}, "/abort")).status_code == 202
    assert '"code":-32800' in answers[0].text


async def test_only_a_sessions_own_calls_are_cancelled_from_another_process(
    cluster: Cluster, front: Front, wire: Wire
) -> None:
    call = wire.call("wait_at", gate="mine", id="shared")
    async with wire.stream(call) as events:
        await running(front, wire, call)
        other = await wire.fork().open()
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "shared"}}
        for server in front.servers:
            assert (await other.at(server).post(note)).status_code == 202
        refused = await other.post({"requestId": "shared"}, "/abort")
        assert (refused.status_code, error_code(refused)) == (404, "REQUEST_NOT_FOUND")
        await cluster.open_gate(wire, "mine")
        assert text_of((await events.rest())[-1].message) == "through mine"


# ---------------------------------------------------------------- send and receive


@pytest.mark.parametrize("tool", ["echo", "logs"])
async def test_sent_here_and_received_there(wire: Wire, tool: str) -> None:
    arguments: dict[str, Any] = {"text": "ä"} if tool == "echo" else {"number": 20}
    accepted = await wire.post(wire.call(tool, id="mine", **arguments), "/send")
    assert (accepted.status_code, accepted.json()) == (202, {"accepted": "mine"})
    messages = await receive_answer(wire)
    assert messages[-1]["id"] == "mine"
    assert text_of(messages[-1]) == ("ä" if tool == "echo" else "logged")
    if tool == "logs":
        assert [message["params"]["data"] for message in messages[:-1]] == [f"{index}:" for index in range(20)]


async def test_sent_everywhere_and_received_as_one_stream(front: Front, wire: Wire) -> None:
    """What comes after the stream was opened, from each of the processes."""
    async with wire.listen(path="/receive", Accept="text/event-stream") as events:
        for index, server in enumerate(front.servers):
            assert (
                await wire.at(server).post(wire.call("echo", text="x", id=f"job-{index}"), "/send")
            ).status_code == 202
            assert (await events.message())["id"] == f"job-{index}"
            await wire.at(server).tool("change")
            methods = [(await events.message())["method"] for _ in range(4)]
            assert methods[0] == "notifications/tools/list_changed"


async def test_a_question_in_the_background_is_answered_elsewhere(wire: Wire) -> None:
    async with wire.listen(path="/receive", Accept="text/event-stream") as events:
        await wire.post(wire.call("elicit", id="ask"), "/send")
        question = await events.message()
        answer = reply(question, {"action": "accept", "content": {"name": "Ada"}})
        assert (await wire.post(answer, "/send")).status_code == 202
        message = await events.message()
        assert (message["id"], text_of(message)) == ("ask", "Ada")


async def test_a_call_in_the_background_is_aborted_elsewhere(front: Front, wire: Wire) -> None:
    call = wire.call("wait_at", gate="background", id="job")
    await wire.post(call, "/send")
    there = await running(front, wire, call)
    server = next(server for server in front.servers if server is not there.server)
    assert (await wire.at(server).post({"requestId": "job"}, "/abort")).status_code == 202
    (answer,) = await receive_answer(wire)
    assert (answer["id"], answer["error"]["code"]) == ("job", -32800)


# ---------------------------------------------------------------- the end of a session


@pytest.mark.parametrize("version", ["2025-11-25", UNPRIMED])
async def test_delete_ends_everything_everywhere(front: Front, wire: Wire, version: str) -> None:
    """Calls, streams and long polls at processes other than the one that is told."""
    first, second, third = front.servers
    mine = await wire.fork().open(version)
    polled: list[httpx.Response] = []

    async def poll() -> None:
        headers = {**mine.headers, "Accept": "application/json"}
        polled.append(await mine.http.get(f"{third.url}/receive?wait=60", headers=headers))

    gates = {name: f"{name}-{version}" for name in ("streamed", "background")}
    async with (
        anyio.create_task_group() as tasks,
        mine.at(second).listen() as standalone,
        mine.at(third).listen(path="/receive", Accept="text/event-stream") as received,
        mine.at(first).stream(mine.call("wait_at", gate=gates["streamed"], id="streamed")) as streamed,
    ):
        await mine.at(second).post(mine.call("wait_at", gate=gates["background"], id="background"), "/send")
        await mine.at(first).tool("seen", what=f"{gates['streamed']}: started")
        await mine.at(second).tool("seen", what=f"{gates['background']}: started")
        tasks.start_soon(poll)
        await mine.at(third).tool("echo", text="a turn for the poll to begin")
        assert (await mine.at(third).delete()).status_code == 204
        assert await standalone.rest() == []
        ends = [frame for frame in await streamed.rest() if not frame.is_priming]
        assert [(end.message["id"], end.message["error"]["code"]) for end in ends] == [("streamed", -32000)]
        assert all("result" not in frame.message for frame in await received.rest())
    assert (polled[0].status_code, error_code(polled[0])) == (404, "SESSION_NOT_FOUND")
    for server, gate in ((first, gates["streamed"]), (second, gates["background"])):
        assert await wire.at(server).tool("seen", what=f"{gate}: cancelled")
    for server in front.servers:
        dead = await mine.at(server).post(mine.call("echo", text="x"))
        assert (dead.status_code, error_code(dead)) == (404, "SESSION_NOT_FOUND")


async def test_what_is_said_unasked_reaches_a_stream_of_another_process(front: Front, wire: Wire) -> None:
    first, second, third = front.servers
    async with wire.at(first).listen() as standalone:
        for server in (second, third, first):
            await wire.at(server).tool("change", uri=f"memo://{front.servers.index(server)}")
            frames: list[Frame] = await read(standalone, 4)
            assert [frame.message["method"] for frame in frames] == [
                "notifications/tools/list_changed",
                "notifications/prompts/list_changed",
                "notifications/resources/list_changed",
                "notifications/resources/updated",
            ]
            assert frames[-1].message["params"]["uri"] == f"memo://{front.servers.index(server)}"
