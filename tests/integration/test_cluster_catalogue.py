"""A low-level server in several processes: lists in pages, and resource subscriptions."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Generator

import pytest

from tests.integration.changes import CHANGED_URI, RESOURCES_CHANGED, next_change
from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer, connect_client
from tests.integration.server_process import app_name
from tests.integration.stateless_era import NEVER_STREAM, MirroredTool, encode_header, send_stateless
from tests.integration.wire import Wire, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with run_cluster("sqlite", size=2, app=app_name("changing", "lowlevel"), **NEVER_STREAM) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield wire


async def test_a_resource_update_reaches_its_subscribers_only(wire: Wire, balancer: LoadBalancer) -> None:
    first, second = balancer.servers
    await wire.open_session()
    other, former = await wire.new_client().open_session(), await wire.new_client().open_session()
    for each, method in ((wire, "subscribe"), (former, "subscribe"), (former, "unsubscribe")):
        answer = await each.at(first).send_request(each.request(f"resources/{method}", {"uri": CHANGED_URI}))
        assert answer["result"] == {}
    async with (
        wire.at(first).get_stream() as events,
        other.at(second).get_stream() as other_events,
        former.at(second).get_stream() as former_events,
    ):
        for server in (second, first):  # the second process has served no request of the session
            server.send_signal(signal.SIGUSR2)
            assert [await next_change(events) for _ in range(2)] == [RESOURCES_CHANGED, CHANGED_URI]
        for stream in (other_events, former_events):
            assert [await next_change(stream) for _ in range(2)] == [RESOURCES_CHANGED, RESOURCES_CHANGED]


async def test_pages_of_one_list_come_from_different_processes(balancer: LoadBalancer) -> None:
    async with connect_client(balancer) as client:
        names: list[str] = []
        processes: set[str | None] = set()
        cursor = None
        while True:
            page = await client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            assert len(names) <= 5, names
            processes |= {tool.description for tool in page.tools}
            if (cursor := page.next_cursor) is None:
                break
    assert names == ["tool-0", "tool-1", "tool-2", "tool-3", "routed"]
    assert processes == {str(server.pid) for server in balancer.servers}


@pytest.mark.parametrize(("kind", "hints"), [("tools", (600_000, "public")), ("resources", (1_000, "public"))])
async def test_pages_in_the_stateless_era_come_from_different_processes_with_cache_hints(
    wire: Wire, balancer: LoadBalancer, kind: str, hints: tuple[int, str]
) -> None:
    names: list[str] = []
    processes: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = await send_stateless(wire, f"{kind}/list", **cursor)
        assert (page["ttlMs"], page["cacheScope"]) == hints
        names += [each.get("uri") or each["name"] for each in page[kind]]
        assert len(names) <= 5, names
        processes |= {each.get("description") or each["name"] for each in page[kind]}
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert len(names) == len(set(names)) == 5
    assert processes == {str(server.pid) for server in balancer.servers}


async def test_a_schema_with_mirrored_arguments_may_be_on_a_later_page(cluster: Cluster) -> None:
    """Every process finds the schema in the list of the server itself."""
    async with open_wire(cluster.servers[0]) as wire:
        for server in cluster.servers:
            routed = MirroredTool(wire.at(server), "routed")
            assert not await routed.refuses({"region": "ä"}, Mcp_Param_Region=encode_header("ä"))
            assert await routed.refuses({"region": "ä"}, Mcp_Param_Region="a")
            assert await routed.refuses({"region": "ä"})
            assert not await MirroredTool(wire.at(server), "tool-0").refuses({"region": "ä"})
            assert not await MirroredTool(wire.at(server), "unlisted").refuses({"region": "ä"}, Mcp_Param_Region="a")
