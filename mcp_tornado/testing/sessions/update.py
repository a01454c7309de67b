"""`update`: compare-and-set."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

import pytest

from mcp_tornado.sessions.errors import RevisionConflict
from mcp_tornado.sessions.model import ClientInfo, Session, to_microseconds
from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import KEY, MakeSession, Pair, StoreContract, deadline, seconds
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.sessions.values import UNENCODABLE

_WRITERS: Final = 50


class UpdateContract(StoreContract):
    """`update` changes a live session atomically, if the record revision is the expected one."""

    async def test_an_update_changes_the_named_fields_and_counts_the_revision(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        session = make_session(state={"a": 1}, unknown={"newer": 1})
        await store.create(session)
        changed = await store.update(KEY, {"initialized": True, "state": {"b": 2}}, 0)
        assert changed == dataclasses.replace(session, initialized=True, state={"b": 2}, revision=1)
        assert await store.get(KEY) == changed
        again = await store.update(KEY, {}, 1)
        assert again is not None
        assert again.revision == 2

    async def test_an_update_changes_every_field_that_it_names_and_no_other(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        before = make_session(
            principal="one",
            client=ClientInfo(remote_addr="::1", user_agent="agent", name="client", version="1"),
            client_params={"capabilities": {"roots": {}}},
            initialized=True,
            journal=({"method": "logging/setLevel", "params": {"level": "info"}},),
            state={"a": 1},
            server_state={"a": 1},
            unknown={"newer": [1]},
        )
        after = dataclasses.replace(
            before,
            last_seen_at=before.last_seen_at + seconds(1),
            expires_at=before.expires_at + seconds(1),
            client=ClientInfo(remote_addr="::2", user_agent="other", name="other", version="2"),
            principal="two",
            protocol_version="2025-06-18",
            client_params={"capabilities": {}},
            initialized=False,
            journal=({"method": "resources/subscribe", "params": {"uri": "x://y"}},),
            state={"b": 2},
            server_state={"b": 2},
            unknown={"newer": [2]},
        )
        await pair.one.create(before)
        expected = before
        changes = {name: value for name, value in after.to_dict().items() if before.to_dict()[name] != value}
        for revision, (name, value) in enumerate(changes.items()):
            expected = Session.from_dict({**expected.to_dict(), name: value, "revision": revision + 1})
            assert await pair[revision % 2].update(KEY, {name: value}, revision) == expected
            assert await pair.one.get(KEY) == await pair.two.get(KEY) == expected
            assert await pair.two.page(None, 1) == [expected]
        assert expected == dataclasses.replace(after, revision=len(changes))

    async def test_an_update_keeps_what_only_a_newer_version_knows(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        client = ClientInfo(name="client", unknown={"newer": "member"})
        await store.create(make_session(client=client, unknown={"newer": {"field": [1]}}))
        await store.update(KEY, {"state": {"b": 2}, "newest": 5}, 0)
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.unknown, stored.client) == ({"newer": {"field": [1]}, "newest": 5}, client)

    async def test_an_update_from_another_revision_is_a_conflict_and_changes_nothing(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        session = make_session(revision=5)
        await store.create(session)
        for wrong in (0, 4, 6):
            with pytest.raises(RevisionConflict):
                await store.update(KEY, {"initialized": True}, wrong)
        assert await store.get(KEY) == session

    async def test_of_many_updates_from_one_revision_one_succeeds(self, pair: Pair, make_session: MakeSession) -> None:
        await pair.one.create(make_session())
        results: list[object] = await asyncio.gather(
            *(pair[number % 2].update(KEY, {"state": {"n": number}}, 0) for number in range(_WRITERS)),
            return_exceptions=True,
        )
        (stored,) = [result for result in results if isinstance(result, Session)]
        assert sum(isinstance(result, RevisionConflict) for result in results) == _WRITERS - 1
        assert await pair.one.get(KEY) == await pair.two.get(KEY) == stored

    async def test_no_update_of_many_concurrent_writers_is_lost(self, pair: Pair, make_session: MakeSession) -> None:
        await pair.one.create(make_session(state={"count": 0, "writers": []}))

        async def write(number: int) -> None:
            store = pair[number % 2]
            while True:
                session = await store.get(KEY)
                state = {"count": session.state["count"] + 1, "writers": [*session.state["writers"], number]}
                try:
                    assert await store.update(KEY, {"state": state}, session.revision) is not None
                except RevisionConflict:
                    await asyncio.sleep(0)  # yield to the event loop: a store in memory does not
                else:
                    return

        async with deadline("not every concurrent update has succeeded"):
            await asyncio.gather(*(write(number) for number in range(_WRITERS)))
        stored = await pair.one.get(KEY)
        assert (stored.state["count"], stored.revision) == (_WRITERS, _WRITERS)
        assert sorted(stored.state["writers"]) == list(range(_WRITERS))

    async def test_an_update_of_an_unknown_session_makes_none(self, store: SessionStore) -> None:
        assert await store.update("unknown", {"initialized": True}, 0) is None
        assert await store.get("unknown") is None

    async def test_an_update_keeps_the_times_of_the_latest_touch_and_a_touch_keeps_the_update(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session())
        now = clock.advance(10)
        await store.touch(KEY, now, now + seconds(100))
        changed = await store.update(KEY, {"state": {"a": 1}}, 0)
        assert changed is not None
        assert (changed.last_seen_at, changed.expires_at) == (now, now + seconds(100))
        now = clock.advance(10)
        await store.touch(KEY, now, now + seconds(100))
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.state, stored.revision, stored.last_seen_at) == ({"a": 1}, 1, now)

    async def test_neither_a_touch_nor_an_update_is_lost_where_they_race(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(20):
            key = f"key-{number}"
            await pair.one.create(make_session(key=key))
            later = clock() + seconds(500 + number)
            await asyncio.gather(pair.one.update(key, {"state": {"n": number}}, 0), pair.two.touch(key, clock(), later))
            stored = await pair.one.get(key)
            assert (stored.state, stored.expires_at, stored.revision) == ({"n": number}, later, 1)

    async def test_an_update_of_the_expiry_holds(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(lives=1000)
        await store.create(session)
        changed = await store.update(KEY, {"expires_at": to_microseconds(clock() + seconds(100))}, 0)
        assert changed is not None
        assert changed.expires_at == clock() + seconds(100)
        clock.advance(101)
        assert await store.count() == 0
        assert await store.sweep(clock(), 10) == 1
        assert await store.get(KEY) is None

    async def test_a_session_that_changes_its_principal_counts_for_the_new_one(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session(principal="one"))
        await store.update(KEY, {"principal": "two"}, 0)
        assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 1, 1)
        await store.update(KEY, {"principal": None}, 1)
        assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 0, 1)

    @pytest.mark.parametrize("value", UNENCODABLE.values(), ids=UNENCODABLE.keys())
    async def test_an_update_that_is_no_json_leaves_the_session_as_it_was(
        self, store: SessionStore, make_session: MakeSession, value: object
    ) -> None:
        session = make_session(principal="one")
        await store.create(session)
        with pytest.raises((TypeError, ValueError)):
            await store.update(KEY, {"state": {"bad": value}, "principal": "two"}, 0)
        assert await store.get(KEY) == session
        assert (await store.count("one"), await store.count("two"), await store.count()) == (1, 0, 1)
