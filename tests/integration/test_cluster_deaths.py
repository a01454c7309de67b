"""Several processes, one of which is killed: whoever waits for something of it is told, and what it left is removed.

One process is killed once for all tests of this module; the first of them waits until the others know that it is dead.
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
from tests.integration.cluster import Cluster, cluster_on, process_of, read
from tests.integration.conftest import DEADLINE, UNPRIMED, Events, Server, Wire, error_code, log_data, until, wire_to

pytestmark = pytest.mark.anyio

IDS: Final = (7, -1, "seven", "7", "ä.b/c-d e", "s0123456789.1", "-", ".", '\u00a0\U0001f388\t"', "x" * 200, "x" * 3000)
"""Ids of requests; the last one is too long to stand in the name of a stream."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param) as cluster:
        yield cluster


@dataclass
class Left:
    """What the process left behind that was killed."""

    wire: Wire
    """A client with the session whose requests ran there; it speaks to one that lives."""
    older: Wire
    """The same, of an older revision, which has no priming events."""
    batched: Wire
    """The same, of the revision that has batches."""
    holder: Wire
    """A client that held its standalone stream there, and had got nothing on it."""
    elsewhere: Server
    """Another process that lives."""
    log: EventLog
    """The store."""
    process: str
    """The name of the one that was killed."""
    silent: dict[str | int, str]
    """The event ids that clients of silent calls have, by the ids of their requests."""
    talking: str
    half_answered: str
    unprimed: str
    received: Events
    """A stream of `/mcp/receive` that was open all the time."""


@pytest.fixture(scope="module")
async def left(cluster: Cluster) -> AsyncGenerator[Left]:
    doomed, living, elsewhere = cluster.servers
    async with wire_to(living) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open(capabilities={"elicitation": {}})
        older = await fresh.fork().open(UNPRIMED)
        batched = await fresh.fork().open("2025-03-26")
        holder = await fresh.fork().open()

        async def begun(mine: Wire, message: Any, number: int = 1) -> str:
            """Call at the process that will die; return the id of the event with this number on the stream."""
            events = await streams.enter_async_context(mine.at(doomed).stream(message))
            return (await read(events, number))[-1].id or ""

        silent = {each: await begun(wire, wire.call("wait_at", gate=f"{each}", id=each)) for each in IDS}
        talking = await begun(wire, wire.call("logs_then_wait", gate="talking", before=5, after=1, id="talks"), 3)
        unprimed = await begun(older, older.call("logs_then_wait", gate="older", before=1, after=1, id="older"))
        batch = [
            batched.call("logs", number=1, id="answered"),
            batched.call("wait_at", gate="b", id="unanswered"),
            batched.call("wait_at", gate="c", id=3),
        ]
        half_answered = await begun(batched, batch, 2)
        received = await streams.enter_async_context(
            wire.at(elsewhere).listen(path="/receive", Accept="text/event-stream")
        )
        for tool, each in (("wait_at", "job"), ("logs_then_wait", "talking job")):
            more = {"before": 2, "after": 1} if tool == "logs_then_wait" else {}
            accepted = await wire.at(doomed).post(wire.call(tool, gate=each, id=each, **more), "/send")
            assert accepted.status_code == 202
            await wire.at(doomed).tool("seen", what=f"{each}: started")
        # A reply by way of the mailbox, so that there is something in it.
        async with wire.at(doomed).stream(wire.call("elicit")) as events:
            question = await events.message()
            await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
            await events.rest()
        log: Any = await streams.enter_async_context(open_store(cluster.store_url, {}, system_clock))
        process = process_of(talking)
        assert await log.read(f"@{process}", None) != []
        await streams.enter_async_context(holder.at(doomed).listen())
        cluster.kill(doomed)
        yield Left(
            wire, older, batched, holder, elsewhere, log, process, silent, talking, half_answered, unprimed, received
        )


async def test_a_get_takes_the_place_of_one_at_a_process_that_was_killed(left: Left) -> None:
    """At once, though its client has no event id to take it over with."""
    async with left.holder.listen() as events:
        assert events.response.status_code == 200
        await left.holder.at(left.elsewhere).tool("change")
        assert await events.message()
        async with left.holder.at(left.elsewhere).listen() as refused:
            await refused.response.aread()
            assert (refused.response.status_code, error_code(refused.response)) == (409, "SESSION_CONFLICT")


async def test_every_call_is_answered_with_an_error_for_its_id(left: Left) -> None:
    answers: dict[Any, Any] = {}

    async def resume(request_id: str | int, event_id: str) -> None:
        async with left.wire.listen(event_id) as events:
            (answer,) = await events.rest()
        answers[request_id] = answer.message

    async with anyio.create_task_group() as tasks:
        for request_id, event_id in left.silent.items():
            tasks.start_soon(resume, request_id, event_id)
    assert {answer["error"]["code"] for answer in answers.values()} == {-32000}
    assert {request_id: answer["id"] for request_id, answer in answers.items()} == {each: each for each in answers}


async def test_what_a_call_had_said_comes_before_the_error(left: Left) -> None:
    async with left.wire.listen(left.talking) as events:
        frames = await events.rest()
    assert log_data(frames) == ["2:", "3:", "4:"]
    assert (frames[-1].message["id"], frames[-1].message["error"]["code"]) == ("talks", -32000)
    assert len(frames) == 4


async def test_a_call_of_an_older_revision_is_answered_too(left: Left) -> None:
    async with left.older.listen(left.unprimed) as events:
        (answer,) = await events.rest()
    assert (answer.message["id"], answer.message["error"]["code"]) == ("older", -32000)


async def test_of_a_batch_what_has_no_answer_yet_gets_one(left: Left) -> None:
    async with left.batched.listen(left.half_answered) as events:
        answers = [frame.message for frame in await events.rest()]
    assert sorted((str(answer["id"]), answer["error"]["code"]) for answer in answers) == [
        ("3", -32000),
        ("unanswered", -32000),
    ]


async def test_what_was_sent_is_answered_on_a_stream_that_is_open(left: Left) -> None:
    messages: list[Any] = []
    while sum("error" in message for message in messages) < 2:
        messages.append(await left.received.message())
    said = [message["params"]["data"] for message in messages if "params" in message]
    assert said == ["0:", "1:"]
    ends = [message for message in messages if "error" in message]
    assert sorted((end["id"], end["error"]["code"]) for end in ends) == [("job", -32000), ("talking job", -32000)]


async def test_what_was_sent_is_answered_to_a_poll(left: Left) -> None:
    messages: list[Any] = []
    after = ""
    with anyio.fail_after(DEADLINE):
        while sum("error" in message for message in messages) < 2:
            headers = {**left.wire.headers, "Accept": "application/json"}
            response = await left.wire.http.get(f"{left.wire.server.url}/receive?wait=20{after}", headers=headers)
            assert response.status_code == 200, response.text
            messages += [event["message"] for event in response.json()["events"]]
            after = f"&after={response.json()['after']}"
    ends = [message["id"] for message in messages if "error" in message]
    assert sorted(ends) == ["job", "talking job"]


async def test_it_is_answered_once_and_the_same_wherever_one_looks(left: Left) -> None:
    seen: set[str] = set()
    for server in (left.wire.server, left.elsewhere):
        async with left.wire.at(server).listen(left.silent[7]) as events:
            frames = await events.rest()
        assert len(frames) == 1
        seen.add(frames[0].id or "")
        async with left.wire.at(server).listen(frames[0].id) as events:
            assert await events.rest() == []
    assert len(seen) == 1


async def test_nothing_of_the_dead_is_left(left: Left) -> None:
    """Neither its mailbox nor its heartbeat."""

    async def heart_has_stopped() -> bool:
        return await left.log.claim(f"alive:{left.process}", "somebody else", 0.1)

    assert await until(heart_has_stopped)
    assert await until(partial(mailbox_is_empty, left))


async def mailbox_is_empty(left: Left) -> bool:
    return await left.log.read(f"@{left.process}", None) == []


async def test_what_waits_for_the_dead_does_not_wait(left: Left) -> None:
    """Replies and cancellations for it are taken, and come to nothing."""
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": f"{left.process}.1", "result": {}}
    assert (await left.wire.post(answer)).status_code == 202
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert (await left.wire.post(note)).status_code == 202
    aborted = await left.wire.post({"requestId": 7}, "/abort")
    assert (aborted.status_code, error_code(aborted)) == (404, "REQUEST_NOT_FOUND")
    assert await left.wire.tool("echo", text="the session goes on") == "the session goes on"


async def test_a_late_reply_for_the_dead_is_removed_too(left: Left) -> None:
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": f"{left.process}.1", "result": {}}
    assert (await left.wire.post(answer)).status_code == 202
    assert await until(partial(mailbox_is_empty, left))
