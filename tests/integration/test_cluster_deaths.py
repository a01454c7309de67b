"""A process of a cluster is killed: its calls are answered with errors, and its data is removed from the store.

The fixture kills one process for all tests of this module. The first test waits until the others count it as dead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import pytest

from mcp_tornado.sessions import EventLog, system_clock
from mcp_tornado.stores.plugins import open_store
from tests.integration.cluster import Cluster, process_name, run_cluster
from tests.integration.server_process import Server
from tests.integration.waiting import wait_until
from tests.integration.wire import UNPRIMED, EventStream, Wire, error_code, log_data, open_wire

pytestmark = pytest.mark.anyio

IDS: Final = (7, -1, "seven", "7", "ä.b/c-d e", "s0123456789.1", "-", ".", '\u00a0\U0001f388\t"', "x" * 200, "x" * 3000)
"""Ids of requests; the last one is too long for the name of a stream."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param) as cluster:
        yield cluster


@dataclass
class KilledProcess:
    """A killed process, and the clients whose calls it ran."""

    wire: Wire
    """A client whose calls the process ran; it now sends its requests to a live process."""
    unprimed: Wire
    """Another such client, of an older revision without priming events."""
    batching: Wire
    """Another such client, of the revision with batches."""
    listening: Wire
    """A client that had its standalone stream at the process, without an event on it."""
    other_server: Server
    """A second live process."""
    log: EventLog
    """The store."""
    name: str
    """The name of the killed process in the store."""
    silent_events: dict[str | int, str]
    """The last event ids of calls that had sent no message, by the ids of their requests."""
    logging_event: str
    """The last event id of a call that had logged."""
    unprimed_event: str
    """The last event id of the call of `unprimed`."""
    batch_event: str
    """The last event id of a batch, some of whose requests were answered."""
    received: EventStream
    """A stream of `/mcp/receive` at the second live process, open all the time."""


@pytest.fixture(scope="module")
async def killed(cluster: Cluster) -> AsyncGenerator[KilledProcess]:
    doomed_server, live_server, other_server = cluster.servers
    async with open_wire(live_server) as client, AsyncExitStack() as streams:
        wire = await client.open_session(capabilities={"elicitation": {}})
        unprimed = await client.new_client().open_session(UNPRIMED)
        batching = await client.new_client().open_session("2025-03-26")
        listening = await client.new_client().open_session()

        async def start_call(caller: Wire, message: Any, number: int = 1) -> str:
            """Call at the process that will be killed, and return the id of the event with this number."""
            events = await streams.enter_async_context(caller.at(doomed_server).post_stream(message))
            return (await events.read_frames(number))[-1].id or ""

        silent_events = {
            each: await start_call(wire, wire.tool_request("wait_at", gate=f"{each}", id=each)) for each in IDS
        }
        logging_call = wire.tool_request("logs_then_wait", gate="logging", before=5, after=1, id="logs")
        logging_event = await start_call(wire, logging_call, 3)
        unprimed_call = unprimed.tool_request("logs_then_wait", gate="older", before=1, after=1, id="older")
        unprimed_event = await start_call(unprimed, unprimed_call)
        batch = [
            batching.tool_request("logs", number=1, id="answered"),
            batching.tool_request("wait_at", gate="b", id="unanswered"),
            batching.tool_request("wait_at", gate="c", id=3),
        ]
        batch_event = await start_call(batching, batch, 2)
        received = await streams.enter_async_context(
            wire.at(other_server).get_stream(path="/receive", Accept="text/event-stream")
        )
        for tool, each in (("wait_at", "job"), ("logs_then_wait", "logging job")):
            more = {"before": 2, "after": 1} if tool == "logs_then_wait" else {}
            call = wire.tool_request(tool, gate=each, id=each, **more)
            accepted = await wire.at(doomed_server).post(call, "/send")
            assert accepted.status_code == 202
            await wire.at(doomed_server).call_tool("wait_for_note", note=f"{each}: started")
        # A reply that goes through the mailbox of the process, so that the mailbox is not empty.
        async with wire.at(doomed_server).post_stream(wire.tool_request("elicit")) as events:
            question = await events.next_message()
            await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
            await events.read_to_end()
        log: Any = await streams.enter_async_context(open_store(cluster.store_url, {}, system_clock))
        name = process_name(logging_event)
        assert await log.read(f"@{name}", None) != []
        await streams.enter_async_context(listening.at(doomed_server).get_stream())
        cluster.kill(doomed_server)
        yield KilledProcess(
            wire=wire,
            unprimed=unprimed,
            batching=batching,
            listening=listening,
            other_server=other_server,
            log=log,
            name=name,
            silent_events=silent_events,
            logging_event=logging_event,
            unprimed_event=unprimed_event,
            batch_event=batch_event,
            received=received,
        )


async def test_a_get_replaces_one_at_a_killed_process_at_once(killed: KilledProcess) -> None:
    """The GET has no event id, and it need not wait until the process counts as dead."""
    async with killed.listening.get_stream() as events:
        assert events.response.status_code == 200
        await killed.listening.at(killed.other_server).call_tool("change")
        assert await events.next_message()
        async with killed.listening.at(killed.other_server).get_stream() as refused:
            await refused.response.aread()
            assert (refused.response.status_code, error_code(refused.response)) == (409, "SESSION_CONFLICT")


async def test_every_call_is_answered_with_an_error_for_its_id(killed: KilledProcess) -> None:
    answers: dict[Any, Any] = {}

    async def resume(request_id: str | int, event_id: str) -> None:
        async with killed.wire.get_stream(event_id) as events:
            (answer,) = await events.read_to_end()
        answers[request_id] = answer.message

    async with anyio.create_task_group() as tasks:
        for request_id, event_id in killed.silent_events.items():
            tasks.start_soon(resume, request_id, event_id)
    assert {answer["error"]["code"] for answer in answers.values()} == {-32000}
    assert {request_id: answer["id"] for request_id, answer in answers.items()} == {each: each for each in answers}


async def test_the_messages_of_a_call_come_before_the_error(killed: KilledProcess) -> None:
    async with killed.wire.get_stream(killed.logging_event) as events:
        frames = await events.read_to_end()
    assert log_data(frames) == ["2:", "3:", "4:"]
    assert (frames[-1].message["id"], frames[-1].message["error"]["code"]) == ("logs", -32000)
    assert len(frames) == 4


async def test_a_call_of_a_revision_without_priming_events_is_answered(killed: KilledProcess) -> None:
    async with killed.unprimed.get_stream(killed.unprimed_event) as events:
        (answer,) = await events.read_to_end()
    assert (answer.message["id"], answer.message["error"]["code"]) == ("older", -32000)


async def test_the_open_requests_of_a_batch_are_answered(killed: KilledProcess) -> None:
    async with killed.batching.get_stream(killed.batch_event) as events:
        answers = [frame.message for frame in await events.read_to_end()]
    assert sorted((str(answer["id"]), answer["error"]["code"]) for answer in answers) == [
        ("3", -32000),
        ("unanswered", -32000),
    ]


async def test_background_calls_are_answered_on_an_open_stream(killed: KilledProcess) -> None:
    messages: list[Any] = []
    while sum("error" in message for message in messages) < 2:
        messages.append(await killed.received.next_message())
    logged = [message["params"]["data"] for message in messages if "params" in message]
    assert logged == ["0:", "1:"]
    errors = [(message["id"], message["error"]["code"]) for message in messages if "error" in message]
    assert sorted(errors) == [("job", -32000), ("logging job", -32000)]


async def test_background_calls_are_answered_to_a_poll(killed: KilledProcess) -> None:
    def has_two_errors(events: list[Any]) -> bool:
        return sum("error" in event["message"] for event in events) >= 2

    events, _ = await killed.wire.receive_until(has_two_errors)
    failed = [event["message"]["id"] for event in events if "error" in event["message"]]
    assert sorted(failed) == ["job", "logging job"]


async def test_a_call_is_answered_once_with_the_same_event_at_every_process(killed: KilledProcess) -> None:
    event_ids: set[str] = set()
    for server in (killed.wire.server, killed.other_server):
        async with killed.wire.at(server).get_stream(killed.silent_events[7]) as events:
            frames = await events.read_to_end()
        assert len(frames) == 1
        event_ids.add(frames[0].id or "")
        async with killed.wire.at(server).get_stream(frames[0].id) as events:
            assert await events.read_to_end() == []
    assert len(event_ids) == 1


async def test_the_heartbeat_and_the_mailbox_of_the_process_are_removed(killed: KilledProcess) -> None:
    """Its heartbeat lease expires, and its mailbox is deleted."""

    async def has_no_heartbeat() -> bool:
        return await killed.log.claim(f"alive:{killed.name}", "another owner", 0.1)

    assert await wait_until(has_no_heartbeat, "the heartbeat lease has expired")
    assert await wait_until(partial(has_empty_mailbox, killed), "the mailbox is empty")


async def has_empty_mailbox(killed: KilledProcess) -> bool:
    return await killed.log.read(f"@{killed.name}", None) == []


async def test_messages_for_the_process_are_accepted_without_delay(killed: KilledProcess) -> None:
    """Replies and cancellations are accepted and have no effect."""
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": f"{killed.name}.1", "result": {}}
    assert (await killed.wire.post(answer)).status_code == 202
    cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await killed.wire.post(cancellation)).status_code == 202
    aborted = await killed.wire.post({"requestId": 7}, "/abort")
    assert (aborted.status_code, error_code(aborted)) == (404, "REQUEST_NOT_FOUND")
    assert await killed.wire.call_tool("echo", text="still served") == "still served"


async def test_a_late_reply_for_the_process_is_removed(killed: KilledProcess) -> None:
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": f"{killed.name}.1", "result": {}}
    assert (await killed.wire.post(answer)).status_code == 202
    assert await wait_until(partial(has_empty_mailbox, killed), "the mailbox is empty")
