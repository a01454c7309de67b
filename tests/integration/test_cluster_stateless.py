"""The stateless era with several processes on one store: each request goes to another process than the one before."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated, ToolsListChanged

from tests.integration.changes import CHANGED_URI
from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.sdk import result_text
from tests.integration.server_process import Server, app_name
from tests.integration.stateless_era import (
    ELICITATION_CAPABILITY,
    HEADER_MISMATCH,
    NEVER_STREAM,
    MirroredTool,
    encode_header,
    envelope,
    read_acknowledgement,
    send_stateless,
    stateless_headers,
)
from tests.integration.waiting import DEADLINE_SECONDS, wait_until
from tests.integration.wire import STATELESS, Wire, open_wire

pytestmark = pytest.mark.anyio

REFUSED: Final = (-32602, "Invalid or expired requestState")


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with run_cluster("redis", size=2, app=app_name("changing"), **NEVER_STREAM) as cluster:
        yield cluster


@pytest.fixture
async def wire(cluster: Cluster) -> AsyncGenerator[Wire]:
    async with open_wire(cluster.servers[0]) as wire:
        yield wire


@asynccontextmanager
async def connect_stateless_client(balancer: LoadBalancer, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect a client of the SDK, in the stateless era, through a load balancer."""
    with anyio.fail_after(2 * DEADLINE_SECONDS):
        async with Client(balancer.url, mode=STATELESS, read_timeout_seconds=DEADLINE_SECONDS, **callbacks) as client:
            yield client


# ---------------------------------------------------------------- subscriptions


async def test_subscriptions_get_changes_that_any_process_publishes(balancer: LoadBalancer) -> None:
    """Three clients of the SDK subscribe, at different processes."""
    async with (
        connect_stateless_client(balancer) as one,
        connect_stateless_client(balancer) as two,
        connect_stateless_client(balancer) as three,
        one.listen(resources_list_changed=True, resource_subscriptions=[CHANGED_URI]) as first,
        two.listen(resources_list_changed=True) as second,
        three.listen(resource_subscriptions=[CHANGED_URI]) as third,
    ):
        for server in balancer.servers:
            server.send_signal(signal.SIGUSR2)
            assert [await anext(first) for _ in range(2)] == [ResourcesListChanged(), ResourceUpdated(CHANGED_URI)]
            assert await anext(second) == ResourcesListChanged()
            assert await anext(third) == ResourceUpdated(CHANGED_URI)


async def test_clients_of_both_eras_get_the_same_notifications(wire: Wire, cluster: Cluster) -> None:
    first, second = cluster.servers
    session = await wire.new_client().open_session()
    wanted = {"resourcesListChanged": True}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()})
    async with (
        session.at(second).get_stream() as standalone,
        wire.at(second).post_stream(request, **stateless_headers("subscriptions/listen")) as subscription,
    ):
        assert await read_acknowledgement(subscription) == wanted
        first.send_signal(signal.SIGUSR2)
        received = [await events.next_message() for events in (standalone, subscription)]
        assert [each["method"] for each in received] == ["notifications/resources/list_changed"] * 2


# ---------------------------------------------------------------- caching hints


async def test_every_process_sends_the_cache_hints(wire: Wire, cluster: Cluster) -> None:
    uri = "memo://grüße"
    for server in cluster.servers:
        at = wire.at(server)
        hints = {
            method: (result["ttlMs"], result["cacheScope"])
            for method, result in {
                "tools/list": await send_stateless(at, "tools/list"),
                "prompts/list": await send_stateless(at, "prompts/list"),
                "resources/list": await send_stateless(at, "resources/list"),
                "resources/templates/list": await send_stateless(at, "resources/templates/list"),
                "resources/read": await send_stateless(at, "resources/read", encode_header(uri), uri=uri),
                "server/discover": await send_stateless(at, "server/discover"),
            }.items()
        }
        assert hints.pop("tools/list") == (600_000, "public")
        assert hints.pop("resources/read") == (5_000, "private")
        assert set(hints.values()) == {(0, "private")}, "the default hint"
        assert "ttlMs" not in await send_stateless(at, "tools/call", "process", name="process", arguments={})
    await wire.open_session()
    assert "ttlMs" not in (await wire.send_request(wire.request("tools/list")))["result"], (
        "older revisions have no hints"
    )


async def test_a_caching_client_reloads_a_list_after_a_notification(balancer: LoadBalancer) -> None:
    async with connect_stateless_client(balancer) as client, client.listen(tools_list_changed=True) as subscription:
        before = await client.list_tools()
        assert await client.list_tools() is not None
        for server in balancer.servers:
            server.send_signal(signal.SIGUSR1)
            assert await anext(subscription) == ToolsListChanged()
        after = await client.list_tools()
        assert "added" in {tool.name for tool in after.tools}
        assert (before.ttl_ms, after.ttl_ms) == (600_000, 600_000)
        assert result_text(await client.call_tool("added")) == "added"


# ---------------------------------------------------------------- several rounds of a call


class Rounds:
    """One call in several rounds; each round goes to the next process.

    Args:
        wire: The client.
        servers: The processes, in the order of the rounds.
        tool: The tool.
        headers: More headers of each round.
    """

    def __init__(self, wire: Wire, servers: Sequence[Server], tool: str = "book", **headers: str) -> None:
        self._wire = wire
        self._turns = itertools.cycle(servers)
        self._headers = {**stateless_headers("tools/call", tool), **headers}
        meta = envelope(**ELICITATION_CAPABILITY)
        self._params: dict[str, Any] = {"name": tool, "arguments": {"item": "tea"}, "_meta": meta}

    async def send(self, **params: Any) -> dict[str, Any]:
        """Send the next round, with more or other params, and return its result or its error."""
        request = self._wire.request("tools/call", {**self._params, **params})
        answer = (await self._wire.at(next(self._turns)).post(request, **self._headers)).json()
        return answer["result"] if "result" in answer else answer["error"]

    async def begin(self) -> dict[str, Any]:
        """Send the first round and return the params of the second."""
        return self.answer(await self.send(), "name", "Ada")

    def answer(self, result: dict[str, Any], key: str, value: str) -> dict[str, Any]:
        """Return the params with which the next round answers a question."""
        assert result["resultType"] == "input_required", result
        assert set(result["inputRequests"]) == {key}
        responses = {key: {"action": "accept", "content": {key: value}}}
        return {"inputResponses": responses, "requestState": result["requestState"]}


def is_refused(answer: dict[str, Any]) -> bool:
    return (answer.get("code"), answer.get("message")) == REFUSED


async def test_each_round_may_go_to_another_process(wire: Wire, cluster: Cluster) -> None:
    rounds = Rounds(wire, cluster.servers)
    second = await rounds.begin()
    assert "Ada" not in second["requestState"]
    third = rounds.answer(await rounds.send(**second), "city", "Oslo")
    text = (await rounds.send(**third))["content"][0]["text"]
    one, other = cluster.servers
    assert text == f"tea for Ada at {other.pid}, Oslo at {one.pid}"


async def test_a_client_of_the_sdk_completes_a_call_in_rounds(balancer: LoadBalancer) -> None:
    async def answer(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestFormParams)
        (key,) = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={key: {"name": "Ada", "city": "Ålesund"}[key]})

    async with connect_stateless_client(balancer, elicitation_callback=answer) as client:
        booking = result_text(await client.call_tool("book", {"item": "tea"}))
    assert re.sub(r"\d+", "…", booking) == "tea for Ada at …, Ålesund at …"
    assert len(set(re.findall(r"\d+", booking))) == 2


async def test_a_modified_request_state_is_refused_by_every_process(wire: Wire, cluster: Cluster) -> None:
    rounds = Rounds(wire, cluster.servers)
    second = await rounds.begin()
    state = second["requestState"]
    for broken in (state[:-1], state + "A", state[:20] + ("A" if state[20] != "A" else "B") + state[21:], "v1.", "", 7):
        for _ in cluster.servers:
            answer = await rounds.send(**{**second, "requestState": broken})
            assert answer["code"] == REFUSED[0], broken
    assert rounds.answer(await rounds.send(**second), "city", "Oslo")


async def test_a_request_state_of_another_call_or_user_is_refused_by_every_process(
    wire: Wire, cluster: Cluster
) -> None:
    rounds = Rounds(wire, cluster.servers, User="ada")
    second = await rounds.begin()
    for _ in cluster.servers:
        assert is_refused(await rounds.send(**second, arguments={"item": "coffee"}))
    for other in (
        Rounds(wire, cluster.servers, "book_again", User="ada"),
        Rounds(wire, cluster.servers, User="eve"),
        Rounds(wire, cluster.servers),
    ):
        for _ in cluster.servers:
            assert is_refused(await other.send(**second))
    assert rounds.answer(await rounds.send(**second), "city", "Oslo")


async def test_a_request_state_expires_in_every_process() -> None:
    with run_cluster("sqlite", size=2, app=app_name("changing", "short_lived"), **NEVER_STREAM) as cluster:
        async with open_wire(cluster.servers[0]) as wire:
            rounds = Rounds(wire, cluster.servers)
            second: dict[str, Any] = {}

            async def is_accepted() -> bool:
                second.update(await rounds.begin())
                return not is_refused(await rounds.send(**second))

            async def is_expired() -> bool:
                return is_refused(await rounds.send(**second))

            assert await wait_until(is_accepted, "a process accepts a fresh requestState")
            assert await wait_until(is_expired, "a process refuses the expired requestState")
            assert await is_expired(), "the other process must refuse it too"


# ---------------------------------------------------------------- mirrored headers


async def test_mirrored_arguments_must_equal_their_headers(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        call = MirroredTool(wire.at(server), "route").refuses
        assert not await call({"text": "neither"})
        assert not await call({"region": "eu-west"}, Mcp_Param_Region="eu-west")
        assert not await call({"region": "eu-west"}, mcp_param_REGION="eu-west")
        assert not await call({"region": None})
        assert await call({"region": "eu-west"}), "the header is missing"
        assert await call({"region": "eu-west"}, Mcp_Param_Region="us-east")
        assert await call({"region": "eu-west"}, Mcp_Param_Region="EU-WEST"), "values are case-sensitive"
        assert await call({}, Mcp_Param_Region="eu-west"), "the argument is missing"
        assert await call({"region": None}, Mcp_Param_Region="null")
        # Numbers are compared by value; only the text `true` means true.
        assert not await call({"number": 42}, Mcp_Param_Number="42")
        assert not await call({"number": 42}, Mcp_Param_Number="42.0")
        assert await call({"number": 42}, Mcp_Param_Number="43")
        assert not await call({"urgent": True}, Mcp_Param_Urgent="true")
        assert await call({"urgent": True}, Mcp_Param_Urgent="True")
        # Headers without an annotated argument are ignored.
        assert not await call({"text": "x"}, Mcp_Param_Text="y", Mcp_Param_Other="z")


async def test_mirrored_headers_may_be_encoded(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        call = MirroredTool(wire.at(server), "route").refuses
        for value in ("Ålesund, 世界", " padded ", "line\nbreak", encode_header("literal"), "plain", ""):
            assert not await call({"region": value}, Mcp_Param_Region=encode_header(value)), value
        assert await call({"region": "ä"}, Mcp_Param_Region=encode_header("ö"))
        for broken in ("=?base64?w6?=", "=?base64?w6Q?=", "=?base64?!!!!?=", "=?base64?/w==?=", "=?base64?w6R=?="):
            assert await call({"region": "ä"}, Mcp_Param_Region=broken), broken
        assert await call({"region": "ä"}, Mcp_Param_Region="=?BASE64?w6Q=?="), "the prefix is case-sensitive"


async def test_a_repeated_header_is_refused(wire: Wire, cluster: Cluster) -> None:
    message = wire.tool_request("route", meta=envelope(), region="eu-west")
    right = {"Mcp-Param-Region": "eu-west", **stateless_headers("tools/call", "route")}
    for server in cluster.servers:
        for name in (*right, None):
            twice = [*right.items(), *([(name.lower(), right[name])] if name is not None else [])]
            accept = [("Accept", "application/json, text/event-stream")]
            response = await wire.http.post(server.url, json=message, headers=[*accept, *twice])
            # Identical values of the revision header count once.
            is_refused = name is not None and name != "MCP-Protocol-Version"
            assert (name, response.status_code) == (name, 400 if is_refused else 200)
            assert not is_refused or response.json()["error"]["code"] == HEADER_MISMATCH


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
async def test_headers_with_non_ascii_characters_are_refused(wire: Wire, cluster: Cluster, encoding: str) -> None:
    """Non-ASCII characters are refused even if they equal the body in this encoding."""
    value = "memo://grüße"
    called = {"name": "route", "arguments": {"region": value}}
    for server in cluster.servers:
        for method, name, params, wrong in (
            ("tools/call", "route", called, b"Mcp-Param-Region"),
            ("resources/read", None, {"uri": value}, b"Mcp-Name"),
        ):
            message = wire.request(method, {**params, "_meta": envelope()})
            right = {"Accept": "application/json, text/event-stream", **stateless_headers(method, name)}
            lines = [(name.encode(), each.encode()) for name, each in right.items()]
            response = await wire.http.post(server.url, json=message, headers=[*lines, (wrong, value.encode(encoding))])
            assert (method, response.status_code) == (method, 400)
            assert response.json()["error"]["code"] == HEADER_MISMATCH


async def test_the_name_header_must_equal_the_requested_name(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        at = wire.at(server)
        uri = "memo://grüße"
        assert (await send_stateless(at, "resources/read", encode_header(uri), uri=uri))["contents"][0][
            "text"
        ] == "Grüß Gott"
        assert (await send_stateless(at, "resources/read", encode_header("memo://other"), uri=uri))[
            "code"
        ] == HEADER_MISMATCH
        assert (await send_stateless(at, "resources/read", "=?base64?w6?=", uri=uri))["code"] == HEADER_MISMATCH
        prompt: dict[str, Any] = {"name": "introduce", "arguments": {"name": "Ada"}}
        for right in ("introduce", encode_header("introduce")):
            assert (await send_stateless(at, "prompts/get", right, **prompt))["messages"]
        for wrong in ("Introduce", None):
            assert (await send_stateless(at, "prompts/get", wrong, **prompt))["code"] == HEADER_MISMATCH
        message = wire.request("tools/list", {"_meta": envelope()})
        for other in ({"Mcp-Method": "Tools/List"}, {"Mcp-Method": encode_header("tools/list")}):
            response = await at.post(message, **{**stateless_headers("tools/list"), **other})
            assert (response.status_code, response.json()["error"]["code"]) == (400, HEADER_MISMATCH)


async def test_a_client_of_the_sdk_sends_the_headers_to_every_process(balancer: LoadBalancer) -> None:
    async with connect_stateless_client(balancer) as client:
        await client.list_tools()
        for region in ("eu-west", "Ålesund", " padded ", encode_header("x")):
            arguments = {"region": region, "number": -7, "urgent": True}
            assert result_text(await client.call_tool("route", arguments)) == f"{region}, -7, True, "
