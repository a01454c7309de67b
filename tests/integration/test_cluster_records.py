"""Several processes behind a load balancer: all use the session's record, also during a rolling upgrade."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest

from mcp_tornado.sessions import EventLog, RevisionConflict, SessionStore, session_key, system_clock
from mcp_tornado.stores.plugins import open_store
from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.server_process import LOWLEVEL
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param, app=LOWLEVEL) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield await wire.open_session()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncGenerator[Any]:
    """The store, opened by another process."""
    async with open_store(cluster.store_url, {}, system_clock) as store:
        yield store


async def request_success(wire: Wire, method: str, **params: Any) -> None:
    """Send a request whose result is empty."""
    answer = await wire.send_request(wire.request(method, params))
    assert answer["result"] == {}, answer


async def call_everywhere(balancer: LoadBalancer, wire: Wire, tool: str) -> set[str]:
    """Call a tool at every process and return its different results."""
    return {await wire.at(server).call_tool(tool) for server in balancer.servers}


# ---------------------------------------------------------------- the journal


async def test_every_process_uses_the_logging_level(balancer: LoadBalancer, wire: Wire) -> None:
    for level in ("warning", "debug", "error", "info"):
        await request_success(wire, "logging/setLevel", level=level)
        assert await call_everywhere(balancer, wire, "level") == {level}


async def test_every_process_uses_the_subscriptions(balancer: LoadBalancer, wire: Wire) -> None:
    for uri in ("memo://a", "memo://b", "memo://c"):
        await request_success(wire, "resources/subscribe", uri=uri)
    assert await call_everywhere(balancer, wire, "subscriptions") == {"memo://a memo://b memo://c"}
    await request_success(wire, "resources/unsubscribe", uri="memo://b")
    assert await call_everywhere(balancer, wire, "subscriptions") == {"memo://a memo://c"}
    await request_success(wire, "resources/subscribe", uri="memo://b")
    await request_success(wire, "resources/unsubscribe", uri="memo://a")
    assert await call_everywhere(balancer, wire, "subscriptions") == {"memo://b memo://c"}


async def test_a_process_sends_an_update_for_a_subscription_of_another_process(
    balancer: LoadBalancer, wire: Wire
) -> None:
    """The subscription is made at one process; the updates come from the others."""
    first, *others = balancer.servers
    await request_success(wire.at(first), "resources/subscribe", uri="memo://mine")
    async with wire.get_stream() as standalone:
        for server in others:
            await wire.at(server).post(wire.tool_request("update"))
            (frame,) = await standalone.read_frames(1)
            assert frame.message["method"] == "notifications/resources/updated"
            assert frame.message["params"]["uri"] == "memo://mine"


async def test_concurrent_subscriptions_at_all_processes_are_all_kept(balancer: LoadBalancer, wire: Wire) -> None:
    uris = [f"memo://{index:02}" for index in range(12)]

    async def subscribe(index: int) -> None:
        server = balancer.servers[index % len(balancer.servers)]
        await request_success(wire.at(server), "resources/subscribe", uri=uris[index])

    async with anyio.create_task_group() as tasks:
        for index in range(12):
            tasks.start_soon(subscribe, index)
    assert await call_everywhere(balancer, wire, "subscriptions") == {" ".join(uris)}


# ---------------------------------------------------------------- a rolling upgrade


async def update_session(store: SessionStore, key: str, **changes: Any) -> None:
    """Change the record of a session, as a process of a newer version does."""

    async def update() -> bool:
        session = await store.get(key)
        assert session is not None
        try:
            assert await store.update(key, changes, session.revision) is not None
        except RevisionConflict:
            return False
        return True

    await wait_until(update, "the session is updated without a conflict")


async def test_fields_of_a_newer_version_are_kept(balancer: LoadBalancer, wire: Wire, store: SessionStore) -> None:
    key = session_key(wire.session_id)
    await request_success(wire, "resources/subscribe", uri="memo://a")
    session = await store.get(key)
    assert session is not None
    entry = {"method": "resources/watch", "params": {"uri": "memo://a", "depth": 2}, "since": 5}
    bare = {"method": "future/bare"}
    await update_session(
        store,
        key,
        future={"a": [1, None, {"ä": 2.5}]},
        client={**session.client.to_dict(), "device": "watch"},
        journal=[*session.journal, entry, bare],
        state={"other": 1},
    )
    for turn, level in enumerate(("warning", "debug", "error")):
        for server in balancer.servers:
            await request_success(wire.at(server), "logging/setLevel", level=level)
            await request_success(wire.at(server), "resources/subscribe", uri="memo://a")
            await request_success(wire.at(server), "resources/subscribe", uri=f"memo://{turn}")
            await request_success(wire.at(server), "resources/unsubscribe", uri=f"memo://{turn}")
        await update_session(store, key, turn=turn)
        assert await call_everywhere(balancer, wire, "level") == {level}
        assert await call_everywhere(balancer, wire, "subscriptions") == {"memo://a"}
    stored = await store.get(key)
    assert stored is not None
    record = stored.to_dict()
    assert record["future"] == {"a": [1, None, {"ä": 2.5}]}
    assert record["turn"] == 2
    assert record["client"]["device"] == "watch"
    assert (record["client"]["name"], record["state"]) == ("wire", {"other": 1})
    assert entry in record["journal"]
    assert bare in record["journal"]


async def test_a_second_handshake_keeps_fields_of_a_newer_version(wire: Wire, store: SessionStore) -> None:
    key = session_key(wire.session_id)
    await update_session(store, key, future="kept")
    response = await wire.initialize("2025-06-18")
    assert response.status_code == 200
    stored = await store.get(key)
    assert stored is not None
    assert (stored.protocol_version, stored.unknown) == ("2025-06-18", {"future": "kept"})


async def test_unknown_messages_in_mailboxes_are_ignored(balancer: LoadBalancer, wire: Wire, store: EventLog) -> None:
    names = {str((event.message or {}).get("process")) for event in await store.read("@processes", None)}
    for key in ("@everybody", *(f"@{name}" for name in names)):
        for number, message in enumerate(
            (
                {"id": "future.1", "kind": "unheard-of", "from": "s00future00", "receipt": "s00future00.2", "x": [1]},
                {"kind": 7, "from": None},
                {"id": "future.4", "kind": "cancel", "from": "s00future00", "request": {"new": "form"}},
                None,
            )
        ):
            await store.append(key, f"mail-{number}", message)
    for server in balancer.servers:
        # The end of a session is a message in the mailbox. The process reads all older messages before it.
        other_session = await wire.new_client().open_session()
        async with other_session.at(server).get_stream() as standalone:
            other = next(each for each in balancer.servers if each is not server)
            assert (await other_session.at(other).delete()).status_code == 204
            assert await standalone.next_frame() is None
