"""Several processes on one store: the stateless era, each request at another process than the one before."""

from __future__ import annotations

import base64
import re
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated, ToolsListChanged

from tests.integration.cluster import Cluster, Front, answer_to, cluster_on
from tests.integration.conftest import DEADLINE, STATELESS, Server, Wire, text_of, until, wire_to
from tests.integration.test_cluster_features import CHANGED, CHANGING
from tests.integration.test_sdk_client import text
from tests.integration.test_stateless import HEADER_MISMATCH, acknowledged, envelope, headers

pytestmark = pytest.mark.anyio

REFUSED: Final = (-32602, "Invalid or expired requestState")
PATIENT: Final = 10
"""Seconds after which a call is answered with a stream: a silent one never is, however busy the machine may be."""
CAPABLE: Final[dict[str, Any]] = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with cluster_on("redis", size=2, app=f"{CHANGING}:server", EVENTS__STREAM_AFTER_SECONDS=PATIENT) as cluster:
        yield cluster


@pytest.fixture
async def wire(cluster: Cluster) -> AsyncGenerator[Wire]:
    async with wire_to(cluster.servers[0]) as wire:
        yield wire


@asynccontextmanager
async def client_of(front: Front, **callbacks: Any) -> AsyncGenerator[Client]:
    """Give a client of the SDK that speaks through a proxy, and makes no session."""
    with anyio.fail_after(2 * DEADLINE):
        async with Client(front.url, mode=STATELESS, read_timeout_seconds=DEADLINE, **callbacks) as client:
            yield client


async def ask(wire: Wire, method: str, called: str | None = None, /, **params: Any) -> dict[str, Any]:
    """Make a request, and return the result or the error; what is called stands in a header."""
    response = await wire.post(wire.request(method, {**params, "_meta": envelope()}), **headers(method, called))
    answer = response.json()
    return answer["result"] if "result" in answer else answer["error"]


# ---------------------------------------------------------------- subscriptions


async def test_who_listens_hears_what_no_request_published_in_any_process(front: Front) -> None:
    """The client is the SDK's: three of them, each listening wherever its turn takes it."""
    async with (
        client_of(front) as one,
        client_of(front) as two,
        client_of(front) as three,
        one.listen(resources_list_changed=True, resource_subscriptions=[CHANGED]) as first,
        two.listen(resources_list_changed=True) as second,
        three.listen(resource_subscriptions=[CHANGED]) as third,
    ):
        for server in front.servers:
            server.signal(signal.SIGUSR2)
            assert [await anext(first) for _ in range(2)] == [ResourcesListChanged(), ResourceUpdated(CHANGED)]
            assert await anext(second) == ResourcesListChanged()
            assert await anext(third) == ResourceUpdated(CHANGED)


async def test_a_client_of_either_era_hears_the_same(wire: Wire, cluster: Cluster) -> None:
    first, second = cluster.servers
    session = await wire.fork().open()
    wanted = {"resourcesListChanged": True}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()})
    async with (
        session.at(second).listen() as standalone,
        wire.at(second).stream(request, **headers("subscriptions/listen")) as subscription,
    ):
        assert await acknowledged(subscription) == wanted
        first.signal(signal.SIGUSR2)
        heard = [await events.message() for events in (standalone, subscription)]
        assert [each["method"] for each in heard] == ["notifications/resources/list_changed"] * 2


# ---------------------------------------------------------------- caching hints


async def test_every_process_says_how_long_its_lists_are_fresh(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        at = wire.at(server)
        hints = {
            method: (result["ttlMs"], result["cacheScope"])
            for method, result in {
                "tools/list": await ask(at, "tools/list"),
                "prompts/list": await ask(at, "prompts/list"),
                "resources/list": await ask(at, "resources/list"),
                "resources/templates/list": await ask(at, "resources/templates/list"),
                "resources/read": await ask(at, "resources/read", encoded("memo://grüße"), uri="memo://grüße"),
                "server/discover": await ask(at, "server/discover"),
            }.items()
        }
        assert hints.pop("tools/list") == (600_000, "public")
        assert hints.pop("resources/read") == (5_000, "private")
        assert set(hints.values()) == {(0, "private")}, "the default, of all that may be cached"
        assert "ttlMs" not in await ask(at, "tools/call", "process", name="process", arguments={})
    await wire.open()
    assert "ttlMs" not in (await answer_to(wire, wire.request("tools/list")))["result"], "the older revisions have none"


async def test_a_client_that_caches_asks_anew_once_any_process_has_told_of_a_change(front: Front) -> None:
    async with client_of(front) as client, client.listen(tools_list_changed=True) as subscription:
        before = await client.list_tools()
        assert await client.list_tools() is not None
        for server in front.servers:
            server.signal(signal.SIGUSR1)
            assert await anext(subscription) == ToolsListChanged()
        after = await client.list_tools()
        assert "added" in {tool.name for tool in after.tools}
        assert (before.ttl_ms, after.ttl_ms) == (600_000, 600_000)
        assert text(await client.call_tool("added")) == "added"


# ---------------------------------------------------------------- several rounds


class Rounds:
    """One call in several rounds, each of them at the next process."""

    def __init__(self, wire: Wire, servers: list[Server], tool: str = "book", **more: str) -> None:
        self._wire = wire
        self._servers = servers
        self._headers = {**headers("tools/call", tool), **more}
        self.params: dict[str, Any] = {"name": tool, "arguments": {"what": "tea"}, "_meta": envelope(**CAPABLE)}

    async def go(self, **changes: Any) -> dict[str, Any]:
        """Make the next round with what is changed, and return the result or the error."""
        self._servers.append(self._servers.pop(0))
        request = self._wire.request("tools/call", {**self.params, **changes})
        answer = (await self._wire.at(self._servers[-1]).post(request, **self._headers)).json()
        return answer["result"] if "result" in answer else answer["error"]

    async def begin(self) -> dict[str, Any]:
        """Make the first round, and return the arguments of the next."""
        return self.answer(await self.go(), "name", "Ada")

    def answer(self, result: dict[str, Any], key: str, value: str) -> dict[str, Any]:
        assert result["resultType"] == "input_required", result
        assert set(result["inputRequests"]) == {key}
        responses = {key: {"action": "accept", "content": {key: value}}}
        return {"inputResponses": responses, "requestState": result["requestState"]}


def refused(answer: dict[str, Any]) -> bool:
    return (answer.get("code"), answer.get("message")) == REFUSED


async def test_each_round_may_go_to_another_process(wire: Wire, cluster: Cluster) -> None:
    rounds = Rounds(wire, list(cluster.servers))
    second = await rounds.begin()
    assert "Ada" not in second["requestState"]
    third = rounds.answer(await rounds.go(**second), "city", "Oslo")
    booked = (await rounds.go(**third))["content"][0]["text"]
    one, other = cluster.servers
    assert booked == f"tea for Ada at {other.pid}, Oslo at {one.pid}"


async def test_a_client_of_the_sdk_goes_through_the_rounds(front: Front) -> None:
    async def answer(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestFormParams)
        (key,) = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={key: {"name": "Ada", "city": "Ålesund"}[key]})

    async with client_of(front, elicitation_callback=answer) as client:
        booked = text(await client.call_tool("book", {"what": "tea"}))
    assert re.sub(r"\d+", "…", booked) == "tea for Ada at …, Ålesund at …"
    assert len(set(re.findall(r"\d+", booked))) == 2


async def test_state_that_was_tampered_with_is_refused_by_every_process(wire: Wire, cluster: Cluster) -> None:
    rounds = Rounds(wire, list(cluster.servers))
    second = await rounds.begin()
    state = second["requestState"]
    for broken in (state[:-1], state + "A", state[:20] + ("A" if state[20] != "A" else "B") + state[21:], "v1.", "", 7):
        for _ in cluster.servers:
            answer = await rounds.go(**{**second, "requestState": broken})
            assert answer["code"] == REFUSED[0], broken
    assert rounds.answer(await rounds.go(**second), "city", "Oslo")


async def test_state_of_another_call_or_of_somebody_else_is_refused_by_every_process(
    wire: Wire, cluster: Cluster
) -> None:
    rounds = Rounds(wire, list(cluster.servers), User="ada")
    second = await rounds.begin()
    for _ in cluster.servers:
        assert refused(await rounds.go(**second, arguments={"what": "coffee"}))
    for other in (
        Rounds(wire, list(cluster.servers), "book_again", User="ada"),
        Rounds(wire, list(cluster.servers), User="eve"),
        Rounds(wire, list(cluster.servers)),
    ):
        for _ in cluster.servers:
            assert refused(await other.go(**second))
    assert rounds.answer(await rounds.go(**second), "city", "Oslo")


async def test_state_expires_in_every_process() -> None:
    with cluster_on("sqlite", size=2, app=f"{CHANGING}:hasty", EVENTS__STREAM_AFTER_SECONDS=PATIENT) as cluster:
        async with wire_to(cluster.servers[0]) as wire:
            rounds = Rounds(wire, list(cluster.servers))
            given: dict[str, Any] = {}

            async def taken() -> bool:
                given.update(await rounds.begin())
                return not refused(await rounds.go(**given))

            async def expired() -> bool:
                return refused(await rounds.go(**given))

            assert await until(taken)
            assert await until(expired)
            assert await expired(), "at the other process too"


# ---------------------------------------------------------------- headers


def encoded(value: str) -> str:
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


class Routed:
    """Calls of a tool some of whose arguments stand in headers too."""

    def __init__(self, wire: Wire, tool: str) -> None:
        self.wire = wire
        self.tool = tool

    async def mismatch(self, arguments: dict[str, Any], **given: str) -> bool:
        """Say whether a call is refused because its headers are wrong; else it must succeed."""
        message = self.wire.call(self.tool, meta=envelope(), **arguments)
        response = await self.wire.post(message, **{**headers("tools/call", self.tool), **given})
        if response.status_code == 200:
            assert text_of(response.json())
            return False
        error = response.json()["error"]
        assert (response.status_code, error["code"], response.json()["id"]) == (400, HEADER_MISMATCH, message["id"])
        assert response.headers["Content-Type"] == "application/json"
        return True


async def test_arguments_that_stand_in_headers_must_be_the_same_there(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        call = Routed(wire.at(server), "route").mismatch
        assert not await call({"text": "neither"})
        assert not await call({"region": "eu-west"}, Mcp_Param_Region="eu-west")
        assert not await call({"region": "eu-west"}, mcp_param_REGION="eu-west")
        assert not await call({"region": None})
        assert await call({"region": "eu-west"}), "it is missing"
        assert await call({"region": "eu-west"}, Mcp_Param_Region="us-east")
        assert await call({"region": "eu-west"}, Mcp_Param_Region="EU-WEST"), "values are case-sensitive"
        assert await call({}, Mcp_Param_Region="eu-west"), "nothing in the body says so"
        assert await call({"region": None}, Mcp_Param_Region="null")
        # Numbers are compared as numbers, and nothing else stands for true.
        assert not await call({"number": 42}, Mcp_Param_Number="42")
        assert not await call({"number": 42}, Mcp_Param_Number="42.0")
        assert await call({"number": 42}, Mcp_Param_Number="43")
        assert not await call({"urgent": True}, Mcp_Param_Urgent="true")
        assert await call({"urgent": True}, Mcp_Param_Urgent="True")
        # What no schema names is nobody's business here.
        assert not await call({"text": "x"}, Mcp_Param_Text="y", Mcp_Param_Other="z")


async def test_headers_may_be_encoded(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        call = Routed(wire.at(server), "route").mismatch
        for value in ("Ålesund, 世界", " padded ", "line\nbreak", encoded("literal"), "plain", ""):
            assert not await call({"region": value}, Mcp_Param_Region=encoded(value)), value
        assert await call({"region": "ä"}, Mcp_Param_Region=encoded("ö"))
        for broken in ("=?base64?w6?=", "=?base64?w6Q?=", "=?base64?!!!!?=", "=?base64?/w==?=", "=?base64?w6R=?="):
            assert await call({"region": "ä"}, Mcp_Param_Region=broken), broken
        assert await call({"region": "ä"}, Mcp_Param_Region="=?BASE64?w6Q=?="), "it is no sign of encoding"


async def test_a_header_that_stands_there_twice_is_refused(wire: Wire, cluster: Cluster) -> None:
    message = wire.call("route", meta=envelope(), region="eu-west")
    right = {"Mcp-Param-Region": "eu-west", **headers("tools/call", "route")}
    for server in cluster.servers:
        for name in (*right, None):
            twice = [*right.items(), *([(name.lower(), right[name])] if name is not None else [])]
            accept = [("Accept", "application/json, text/event-stream")]
            response = await wire.http.post(server.url, json=message, headers=[*accept, *twice])
            expected = 400 if name is not None else 200
            assert (name, response.status_code) == (name, expected)
            assert name is None or response.json()["error"]["code"] == HEADER_MISMATCH


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
async def test_headers_hold_nothing_but_ascii(wire: Wire, cluster: Cluster, encoding: str) -> None:
    """Also where they say the same as the body, to whoever reads them in that encoding."""
    value = "memo://grüße"
    called = {"name": "route", "arguments": {"region": value}}
    for server in cluster.servers:
        for method, name, params, wrong in (
            ("tools/call", "route", called, b"Mcp-Param-Region"),
            ("resources/read", None, {"uri": value}, b"Mcp-Name"),
        ):
            message = wire.request(method, {**params, "_meta": envelope()})
            right = {"Accept": "application/json, text/event-stream", **headers(method, name)}
            lines = [(name.encode(), each.encode()) for name, each in right.items()]
            response = await wire.http.post(server.url, json=message, headers=[*lines, (wrong, value.encode(encoding))])
            assert (method, response.status_code) == (method, 400)
            assert response.json()["error"]["code"] == HEADER_MISMATCH


async def test_names_are_compared_with_what_is_asked_for(wire: Wire, cluster: Cluster) -> None:
    for server in cluster.servers:
        at = wire.at(server)
        uri = "memo://grüße"
        assert (await ask(at, "resources/read", encoded(uri), uri=uri))["contents"][0]["text"] == "Grüß Gott"
        assert (await ask(at, "resources/read", encoded("memo://other"), uri=uri))["code"] == HEADER_MISMATCH
        assert (await ask(at, "resources/read", "=?base64?w6?=", uri=uri))["code"] == HEADER_MISMATCH
        prompt: dict[str, Any] = {"name": "introduce", "arguments": {"name": "Ada"}}
        for right in ("introduce", encoded("introduce")):
            assert (await ask(at, "prompts/get", right, **prompt))["messages"]
        for wrong in ("Introduce", None):
            assert (await ask(at, "prompts/get", wrong, **prompt))["code"] == HEADER_MISMATCH
        message = wire.request("tools/list", {"_meta": envelope()})
        for other in ({"Mcp-Method": "Tools/List"}, {"Mcp-Method": encoded("tools/list")}):
            response = await at.post(message, **{**headers("tools/list"), **other})
            assert (response.status_code, response.json()["error"]["code"]) == (400, HEADER_MISMATCH)


async def test_a_client_of_the_sdk_sends_the_headers_wherever_the_list_came_from(front: Front) -> None:
    async with client_of(front) as client:
        await client.list_tools()
        for region in ("eu-west", "Ålesund", " padded ", encoded("x")):
            arguments = {"region": region, "number": -7, "urgent": True}
            assert text(await client.call_tool("route", arguments)) == f"{region}, -7, True, "
