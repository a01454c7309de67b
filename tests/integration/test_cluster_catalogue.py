"""Several processes on one store, with a low-level server: what it lists in pages, and who has subscribed to what."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Generator

import pytest

from tests.integration.cluster import Cluster, Front, answer_to, client_through, cluster_on
from tests.integration.conftest import Wire, wire_to
from tests.integration.test_cluster_features import CHANGED, CHANGING, RESOURCES, heard
from tests.integration.test_cluster_stateless import PATIENT, Routed, ask, encoded

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with cluster_on("sqlite", size=2, app=f"{CHANGING}:lowlevel", EVENTS__STREAM_AFTER_SECONDS=PATIENT) as cluster:
        yield cluster


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield wire


async def test_a_changed_resource_is_told_to_those_who_subscribed_to_it(wire: Wire, front: Front) -> None:
    first, second = front.servers
    await wire.open()
    other, former = await wire.fork().open(), await wire.fork().open()
    for each, method in ((wire, "subscribe"), (former, "subscribe"), (former, "unsubscribe")):
        answer = await answer_to(each.at(first), each.request(f"resources/{method}", {"uri": CHANGED}))
        assert answer["result"] == {}
    async with (
        wire.at(first).listen() as events,
        other.at(second).listen() as others,
        former.at(second).listen() as formers,
    ):
        for server in (second, first):  # the first of them has never met the session
            server.signal(signal.SIGUSR2)
            assert [await heard(events) for _ in range(2)] == [RESOURCES, CHANGED]
        for stream in (others, formers):
            assert [await heard(stream) for _ in range(2)] == [RESOURCES, RESOURCES]


async def test_pages_of_one_list_come_from_different_processes(front: Front) -> None:
    async with client_through(front) as client:
        names: list[str] = []
        processes: set[str | None] = set()
        cursor = None
        while True:
            page = await client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            processes |= {tool.description for tool in page.tools}
            if (cursor := page.next_cursor) is None:
                break
    assert names == ["tool-0", "tool-1", "tool-2", "tool-3", "routed"]
    assert processes == {str(server.pid) for server in front.servers}


@pytest.mark.parametrize(("kind", "hints"), [("tools", (600_000, "public")), ("resources", (1_000, "public"))])
async def test_so_they_do_in_the_stateless_era_and_say_how_fresh_they_are(
    wire: Wire, front: Front, kind: str, hints: tuple[int, str]
) -> None:
    names: list[str] = []
    processes: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = await ask(wire, f"{kind}/list", **cursor)
        assert (page["ttlMs"], page["cacheScope"]) == hints
        names += [each.get("uri") or each["name"] for each in page[kind]]
        processes |= {each.get("description") or each["name"] for each in page[kind]}
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert len(names) == len(set(names)) == 5
    assert processes == {str(server.pid) for server in front.servers}


async def test_a_schema_with_headers_may_stand_on_a_later_page(cluster: Cluster) -> None:
    """The server's own list is where it is looked up, in every process."""
    async with wire_to(cluster.servers[0]) as wire:
        for server in cluster.servers:
            call = Routed(wire.at(server), "routed").mismatch
            assert not await call({"region": "ä"}, Mcp_Param_Region=encoded("ä"))
            assert await call({"region": "ä"}, Mcp_Param_Region="a")
            assert await call({"region": "ä"})
            assert not await Routed(wire.at(server), "tool-0").mismatch({"region": "ä"})
            assert not await Routed(wire.at(server), "unlisted").mismatch({"region": "ä"}, Mcp_Param_Region="a")
