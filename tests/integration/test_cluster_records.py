"""Several processes behind a round robin: what a session's record holds is seen by all, whatever version they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest

from mcp_tornado.sessions import EventLog, RevisionConflict, Session, SessionStore, session_key, system_clock
from mcp_tornado.stores.plugins import open_store
from tests.integration.cluster import Cluster, Front, answer_to, cluster_on, read
from tests.integration.conftest import Wire, text_of, wire_to

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param, app="lowlevel") as cluster:
        yield cluster


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield await wire.open()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncGenerator[Any]:
    """The store as another process has it."""
    async with open_store(cluster.store_url, {}, system_clock) as store:
        yield store


async def ask(wire: Wire, method: str, **params: Any) -> None:
    answer = await answer_to(wire, wire.request(method, params))
    assert answer["result"] == {}, answer


async def seen_everywhere(front: Front, wire: Wire, tool: str) -> set[str]:
    return {text_of(await answer_to(wire.at(server), wire.call(tool))) for server in front.servers}


# ---------------------------------------------------------------- the journal


async def test_the_level_is_seen_by_every_process(front: Front, wire: Wire) -> None:
    for level in ("warning", "debug", "error", "info"):
        await ask(wire, "logging/setLevel", level=level)
        assert await seen_everywhere(front, wire, "level") == {level}


async def test_subscriptions_are_seen_by_every_process_and_so_are_their_ends(front: Front, wire: Wire) -> None:
    for uri in ("memo://a", "memo://b", "memo://c"):
        await ask(wire, "resources/subscribe", uri=uri)
    assert await seen_everywhere(front, wire, "subscriptions") == {"memo://a memo://b memo://c"}
    await ask(wire, "resources/unsubscribe", uri="memo://b")
    assert await seen_everywhere(front, wire, "subscriptions") == {"memo://a memo://c"}
    await ask(wire, "resources/subscribe", uri="memo://b")
    await ask(wire, "resources/unsubscribe", uri="memo://a")
    assert await seen_everywhere(front, wire, "subscriptions") == {"memo://b memo://c"}


async def test_an_update_is_told_by_a_process_that_was_never_asked_to(front: Front, wire: Wire) -> None:
    """Subscribed at one process, updated at the others, listened to through yet another."""
    first, *others = front.servers
    await ask(wire.at(first), "resources/subscribe", uri="memo://mine")
    async with wire.listen() as standalone:
        for server in others:
            await wire.at(server).post(wire.call("update"))
            (frame,) = await read(standalone, 1)
            assert frame.message["method"] == "notifications/resources/updated"
            assert frame.message["params"]["uri"] == "memo://mine"


async def test_no_subscription_is_lost_when_all_processes_get_some_at_once(front: Front, wire: Wire) -> None:
    uris = [f"memo://{index:02}" for index in range(12)]

    async def subscribe(index: int) -> None:
        server = front.servers[index % len(front.servers)]
        await ask(wire.at(server), "resources/subscribe", uri=uris[index])

    async with anyio.create_task_group() as tasks:
        for index in range(12):
            tasks.start_soon(subscribe, index)
    assert await seen_everywhere(front, wire, "subscriptions") == {" ".join(uris)}


# ---------------------------------------------------------------- a rolling upgrade


async def rewritten(store: SessionStore, key: str, **changes: Any) -> Session:
    """Change a session as a newer version would."""
    while True:
        session = await store.get(key)
        assert session is not None
        try:
            updated = await store.update(key, changes, session.revision)
        except RevisionConflict:
            continue
        assert updated is not None
        return updated


async def test_nothing_is_lost_when_a_newer_version_and_this_one_take_turns(
    front: Front, wire: Wire, store: SessionStore
) -> None:
    key = session_key(wire.session_id)
    await ask(wire, "resources/subscribe", uri="memo://a")
    session = await store.get(key)
    assert session is not None
    entry = {"method": "resources/watch", "params": {"uri": "memo://a", "depth": 2}, "since": 5}
    bare = {"method": "future/bare"}
    await rewritten(
        store,
        key,
        future={"a": [1, None, {"ä": 2.5}]},
        client={**session.client.to_dict(), "device": "watch"},
        journal=[*session.journal, entry, bare],
        state={"theirs": 1},
    )
    for turn, level in enumerate(("warning", "debug", "error")):
        for server in front.servers:
            await ask(wire.at(server), "logging/setLevel", level=level)
            await ask(wire.at(server), "resources/subscribe", uri="memo://a")
            await ask(wire.at(server), "resources/subscribe", uri=f"memo://{turn}")
            await ask(wire.at(server), "resources/unsubscribe", uri=f"memo://{turn}")
        await rewritten(store, key, turn=turn)
        assert await seen_everywhere(front, wire, "level") == {level}
        assert await seen_everywhere(front, wire, "subscriptions") == {"memo://a"}
    stored = await store.get(key)
    assert stored is not None
    record = stored.to_dict()
    assert record["future"] == {"a": [1, None, {"ä": 2.5}]}
    assert record["turn"] == 2
    assert record["client"]["device"] == "watch"
    assert (record["client"]["name"], record["state"]) == ("wire", {"theirs": 1})
    assert entry in record["journal"]
    assert bare in record["journal"]


async def test_shaking_hands_anew_keeps_what_a_newer_version_wrote(wire: Wire, store: SessionStore) -> None:
    key = session_key(wire.session_id)
    await rewritten(store, key, future="kept")
    response = await wire.initialize("2025-06-18")
    assert response.status_code == 200
    stored = await store.get(key)
    assert stored is not None
    assert (stored.protocol_version, stored.unknown) == ("2025-06-18", {"future": "kept"})


async def test_mail_of_kinds_that_are_unknown_is_passed_over(front: Front, wire: Wire, store: EventLog) -> None:
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
    for server in front.servers:
        # The end of a session is told by mail, and is so once a process has read all that came before.
        mine = await wire.fork().open()
        async with mine.at(server).listen() as standalone:
            other = next(each for each in front.servers if each is not server)
            assert (await mine.at(other).delete()).status_code == 204
            assert await standalone.next() is None
