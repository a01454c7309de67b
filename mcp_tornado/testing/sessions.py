"""The contract of `SessionStore` as tests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import pytest

from mcp_tornado.sessions.errors import DuplicateSession, RevisionConflict, StoreUnavailable
from mcp_tornado.sessions.model import ClientInfo, Session, to_microseconds
from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing import base
from mcp_tornado.testing.base import (
    KEY,
    OTHER,
    MakeSession,
    MakeStore,
    OpenStore,
    Pair,
    StoreContract,
    back,
    seconds,
    settle,
)
from mcp_tornado.testing.clock import FakeClock

_WRITERS: Final = 50


def _nested(depth: int) -> Any:
    value: Any = "the innermost"
    for level in range(depth):
        value = {"level": level, "in": [value]}
    return value


STATES: Final[dict[str, Any]] = {
    "empty": {},
    "every type of JSON": {"n": None, "t": True, "f": False, "i": 0, "d": 2.5, "s": "", "l": [], "o": {}},
    "numbers": {"l": [1, 1.0, -0.5, 1e-300, 1e300, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 + 1, 10**30]},
    "Unicode": {"ä": "日本語", "🙂": "e\u0301 \u200d \ufeff", "line\u2028": "\u0000\u0001\x7f\r\n\t"},
    "a lone surrogate": {"s": "\ud800"},
    "names that databases know": {
        "$set": {"$gt": 1},
        "a.b": {"": "no name"},
        "_id": 1,
        "__proto__": 2,
        "'; --": '"`%s{}',
    },
    "order of members": {"z": 1, "a": 2, "m": 3},
    "nested": _nested(50),
    "large": {f"member {number}": "x" * 1000 for number in range(1000)},
    "many members": {str(number): number for number in range(10_000)},
}

UNENCODABLE: Final[dict[str, Any]] = {"a set": {1, 2}, "an object": object(), "bytes": b"bytes"}

OPERATIONS: Final[dict[str, Callable[[SessionStore, Session, datetime], Coroutine[Any, Any, Any]]]] = {
    "create": lambda store, session, now: store.create(session),
    "get": lambda store, session, now: store.get(session.key),
    "touch": lambda store, session, now: store.touch(session.key, now, now),
    "update": lambda store, session, now: store.update(session.key, {}, 0),
    "delete": lambda store, session, now: store.delete(session.key),
    "sweep": lambda store, session, now: store.sweep(now, 1),
    "count": lambda store, session, now: store.count(),
    "page": lambda store, session, now: store.page(None, 1),
    "ping": lambda store, session, now: store.ping(),
}


async def keys_of(store: SessionStore, after: str | None = None, limit: int = 100) -> list[str]:
    """Return the keys of a page."""
    return [session.key for session in await store.page(after, limit)]


class SessionStoreContract(StoreContract):
    """What every store of sessions must do; see `StoreContract` for how to subclass it."""

    # create and get: what is stored comes back

    async def test_every_field_of_a_session_comes_back(self, store: SessionStore, clock: FakeClock) -> None:
        session = Session(
            key="k" * 43,
            created_at=clock() - seconds(5.000001),
            last_seen_at=clock() + timedelta(microseconds=1),
            expires_at=clock() + seconds(100.123456),
            client=ClientInfo(remote_addr="::1", user_agent="ä/1 🙂", name="name", version="1", unknown={"new": [1]}),
            principal="someone@example.com",
            protocol_version="2025-03-26",
            client_params={"capabilities": {"sampling": {}, "elicitation": {"form": {}}}, "clientInfo": {"name": "ä"}},
            initialized=True,
            journal=(
                {"method": "logging/setLevel", "params": {"level": "info"}},
                {"method": "resources/subscribe", "params": {"uri": "x://ä"}},
            ),
            state={"deep": {"list": [1, None, 2.5, True, "x"]}},
            server_state={"of": {"deep": [1, None, 2.5, True, "ä"]}},
            revision=3,
            unknown={"from a newer version": {"a": 1}},
        )
        await store.create(session)
        assert await store.get(session.key) == session
        assert await store.page(None, 1) == [session]

    async def test_a_session_with_nothing_but_the_least_comes_back(self, store: SessionStore, clock: FakeClock) -> None:
        session = Session(
            key="-",
            created_at=clock(),
            last_seen_at=clock(),
            expires_at=clock() + seconds(1),
            client=ClientInfo(),
            protocol_version="",
        )
        await store.create(session)
        assert await store.get("-") == session

    @pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
    async def test_a_state_comes_back_exactly(
        self, store: SessionStore, make_session: MakeSession, state: dict[str, Any]
    ) -> None:
        await store.create(make_session(state=state))
        changed = await store.update(KEY, {"state": {**state, "changed": True}}, 0)
        assert changed is not None
        assert changed.state == {**state, "changed": True}
        await store.update(KEY, {"state": state}, 1)
        stored = await store.get(KEY)
        assert stored is not None
        assert stored.state == (await store.page(None, 1))[0].state == state
        # Equality does not tell 1 from 1.0 and True, nor one order of members from another.
        assert repr(stored.state) == repr(state)

    async def test_texts_come_back_exactly(self, store: SessionStore, make_session: MakeSession) -> None:
        text = "ä 日本 🙂 \u0000 \u2028 ' \" \\ $x.y %s {}"
        session = make_session(principal=text, protocol_version=text, client=ClientInfo(name=text, user_agent=text))
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.count(text) == 1

    @pytest.mark.parametrize("zone", [timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))], ids=str)
    async def test_times_of_any_time_zone_come_back_as_the_same_moments_in_utc(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock, zone: timezone
    ) -> None:
        moment = clock().astimezone(zone)
        await store.create(make_session(created_at=moment, last_seen_at=moment, expires_at=moment + seconds(10)))
        assert await store.touch(KEY, moment + seconds(1), moment + seconds(20))
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.created_at, stored.last_seen_at, stored.expires_at) == (
            moment,
            moment + seconds(1),
            moment + seconds(20),
        )
        assert {time.utcoffset() for time in (stored.created_at, stored.last_seen_at, stored.expires_at)} == {
            timedelta(0)
        }

    async def test_times_come_back_to_the_microsecond(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        odd = clock().replace(microsecond=123_457)
        session = make_session(created_at=odd, last_seen_at=odd, expires_at=odd + seconds(100.000_001))
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.touch(KEY, odd + seconds(1.000_001), odd + seconds(101.000_003))
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.last_seen_at, stored.expires_at) == (odd + seconds(1.000_001), odd + seconds(101.000_003))

    async def test_a_session_may_live_for_a_century(self, store: SessionStore, make_session: MakeSession) -> None:
        session = make_session(lives=100 * 365 * 86_400)
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.count() == 1

    async def test_keys_that_are_alike_are_told_apart(self, store: SessionStore, make_session: MakeSession) -> None:
        keys = ["key-0001", "key-0001-and-so-on", "KEY-0001-AND-SO-ON", "key-0001_and-so-on"]
        sessions = [make_session(key=key, principal=key, state={"key": key}) for key in keys]
        for session in sessions:
            await store.create(session)
        assert [await store.get(key) for key in keys] == sessions
        assert [await store.count(key) for key in keys] == [1] * len(keys)
        assert await keys_of(store) == sorted(keys)
        assert await store.delete(keys[1]) is True
        assert await keys_of(store) == sorted(set(keys) - {keys[1]})

    async def test_an_unknown_key_is_nothing(self, store: SessionStore) -> None:
        assert await store.get("unknown") is None

    async def test_creating_never_overwrites(self, store: SessionStore, make_session: MakeSession) -> None:
        first = make_session(state={"mine": 1})
        await store.create(first)
        with pytest.raises(DuplicateSession):
            await store.create(make_session(state={"mine": 2}, principal="thief"))
        assert await store.get(KEY) == first
        assert await store.count() == 1
        assert await store.count("thief") == 0

    async def test_of_many_who_create_the_same_key_one_succeeds(self, pair: Pair, make_session: MakeSession) -> None:
        results: list[object] = await asyncio.gather(
            *(pair[number % 2].create(make_session(state={"n": number})) for number in range(20)),
            return_exceptions=True,
        )
        assert results.count(None) == 1
        assert sum(isinstance(result, DuplicateSession) for result in results) == 19
        assert (await pair.two.get(KEY)).state == {"n": results.index(None)}

    async def test_a_duplicate_is_told_without_the_whole_key(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session())
        with pytest.raises(DuplicateSession) as caught:
            await store.create(make_session())
        assert KEY not in str(caught.value)

    async def test_changing_what_was_given_or_returned_changes_nothing_stored(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        state: dict[str, Any] = {"list": [1]}
        journal: list[dict[str, Any]] = [{"method": "m", "params": {"uri": "a"}}]
        await store.create(make_session(state=state, journal=journal))
        expected = await store.get(KEY)
        state["list"].append(2)
        journal[0]["params"]["uri"] = "b"
        assert await store.get(KEY) == expected
        for returned in [await store.get(KEY), (await store.page(None, 1))[0]]:
            assert returned is not None
            returned.state["list"].append(3)
        assert await store.get(KEY) == expected
        new_state: dict[str, Any] = {"list": [4]}
        updated = await store.update(KEY, {"state": new_state}, 0)
        assert updated is not None
        new_state["list"].append(5)
        updated.state["list"].append(6)
        stored = await store.get(KEY)
        assert stored is not None
        assert stored.state == {"list": [4]}

    @pytest.mark.parametrize("value", UNENCODABLE.values(), ids=UNENCODABLE.keys())
    async def test_a_session_that_is_no_json_leaves_nothing_behind(
        self, store: SessionStore, make_session: MakeSession, value: object
    ) -> None:
        with pytest.raises((TypeError, ValueError)):
            await store.create(make_session(state={"bad": value}, principal="someone"))
        assert (await store.get(KEY), await store.count(), await store.count("someone")) == (None, 0, 0)
        await store.create(make_session(principal="someone"))
        assert await store.count("someone") == 1

    # touch: forward only, and only the living

    async def test_a_touch_moves_both_times_and_nothing_else(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(state={"a": 1}, revision=4)
        await store.create(session)
        now = clock.advance(10)
        assert await store.touch(KEY, now, now + seconds(200)) is True
        touched = dataclasses.replace(session, last_seen_at=now, expires_at=now + seconds(200))
        assert await store.get(KEY) == touched
        assert await store.page(None, 1) == [touched]

    async def test_a_touch_with_the_same_times_succeeds(self, store: SessionStore, make_session: MakeSession) -> None:
        session = make_session()
        await store.create(session)
        assert await store.touch(KEY, session.last_seen_at, session.expires_at) is True
        assert await store.get(KEY) == session

    async def test_a_touch_of_an_unknown_session_makes_none(self, store: SessionStore, clock: FakeClock) -> None:
        assert await store.touch("unknown", clock(), clock() + seconds(100)) is False
        assert await store.get("unknown") is None
        assert await store.count() == 0

    @pytest.mark.parametrize(("seen", "expires"), [(-0.000001, 0), (0, -0.000001), (-5, 50), (5, -50)])
    async def test_a_touch_never_moves_a_time_backwards(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock, seen: float, expires: float
    ) -> None:
        clock.advance(50)
        session = make_session()
        await store.create(session)
        later = session.last_seen_at + seconds(seen), session.expires_at + seconds(expires)
        assert await store.touch(KEY, *later) is False
        assert await store.get(KEY) == session

    async def test_touches_that_arrive_out_of_order_leave_the_latest(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await pair.one.create(make_session(lives=1000))
        clock.advance(100)
        moments = [clock() - seconds(age) for age in (30, 10, 50, 0, 20)]
        await asyncio.gather(
            *(pair[number % 2].touch(KEY, at, at + seconds(2000)) for number, at in enumerate(moments))
        )
        stored = await pair.one.get(KEY)
        assert (stored.last_seen_at, stored.expires_at) == (clock(), clock() + seconds(2000))

    async def test_a_session_lives_until_its_expiry_exactly(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(lives=100, principal="someone")
        await store.create(session)
        clock.advance(99.999999)
        assert await store.count() == await store.count("someone") == 1
        assert await keys_of(store) == [KEY]
        assert await store.touch(KEY, session.last_seen_at, session.expires_at)
        clock.advance(microseconds=1)
        assert await store.count() == await store.count("someone") == 0
        assert await keys_of(store) == []
        assert not await store.touch(KEY, clock(), clock() + seconds(100))

    async def test_a_touch_never_resurrects_an_expired_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(principal="someone")
        await store.create(session)
        clock.advance(100)
        assert await store.touch(KEY, clock(), clock() + seconds(100)) is False
        assert await store.get(KEY) in (None, session)
        assert (await store.count(), await store.count("someone"), await store.page(None, 10)) == (0, 0, [])

    async def test_an_update_never_resurrects_an_expired_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(principal="someone")
        await store.create(session)
        clock.advance(100)
        later = to_microseconds(clock() + seconds(100))
        assert await store.update(KEY, {"expires_at": later}, 0) is None
        assert await store.get(KEY) in (None, session)
        assert (await store.count(), await store.count("someone"), await store.page(None, 10)) == (0, 0, [])

    async def test_a_deleted_session_is_not_resurrected(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session())
        await store.delete(KEY)
        assert await store.touch(KEY, clock(), clock() + seconds(100)) is False
        assert await store.update(KEY, {"initialized": True}, 0) is None
        assert await store.get(KEY) is None
        assert await store.count() == 0

    async def test_a_touch_that_races_with_a_deletion_resurrects_nothing(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(20):
            key = f"key-{number}"
            await pair.one.create(make_session(key=key))
            later = clock() + seconds(200)
            await asyncio.gather(
                pair.one.touch(key, clock(), later), pair.two.delete(key), pair.one.touch(key, clock(), later)
            )
            assert await pair.one.get(key) is None
        assert await pair.two.count() == 0

    # update: compare-and-set

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
        (won,) = [result for result in results if isinstance(result, Session)]
        assert sum(isinstance(result, RevisionConflict) for result in results) == _WRITERS - 1
        assert await pair.one.get(KEY) == await pair.two.get(KEY) == won

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
                    await asyncio.sleep(0)
                else:
                    return

        async with asyncio.timeout(base.PATIENCE):
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

    # delete

    async def test_deleting_says_whether_there_was_a_session_and_is_idempotent(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session(principal="one"))
        assert await store.delete(KEY) is True
        assert await store.delete(KEY) is False
        assert await store.delete("unknown") is False
        assert (await store.get(KEY), await store.count(), await store.count("one")) == (None, 0, 0)

    async def test_of_many_who_delete_a_session_one_did(self, pair: Pair, make_session: MakeSession) -> None:
        await pair.one.create(make_session())
        results = await asyncio.gather(*(pair[number % 2].delete(KEY) for number in range(20)))
        assert sorted(results) == [False] * 19 + [True]

    async def test_a_key_can_be_used_again_after_a_deletion(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session(state={"old": 1}, principal="one", revision=7))
        await store.delete(KEY)
        fresh = make_session()
        await store.create(fresh)
        assert await store.get(KEY) == fresh
        assert (await store.count(), await store.count("one")) == (1, 0)

    # sweep

    async def test_a_sweep_removes_what_has_expired_and_no_live_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="dead", lives=10, principal="one"))
        live = make_session(key="live", lives=10.000001, principal="one")
        await store.create(live)
        assert await store.sweep(clock(), 100) == 0
        clock.advance(10)
        assert await store.sweep(clock(), 100) == 1
        assert await store.get("dead") is None
        assert await store.get("live") == live
        assert await store.count() == await store.count("one") == 1
        assert await store.sweep(clock(), 100) == 0

    async def test_a_sweep_removes_no_more_than_the_limit(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(10):
            await store.create(make_session(key=f"key-{number}", lives=10))
        clock.advance(50)
        assert await store.sweep(clock(), 4) == 4
        assert sum([await store.get(f"key-{number}") is not None for number in range(10)]) == 6
        assert await store.count() == 0
        assert await store.sweep(clock(), 0) == 0
        assert await store.sweep(clock(), 100) == 6

    async def test_a_touched_session_is_not_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="touched", lives=10))
        await store.create(make_session(key="left alone", lives=10))
        clock.advance(9)
        assert await store.touch("touched", clock(), clock() + seconds(10))
        clock.advance(5)
        assert await store.sweep(clock(), 100) == 1
        assert await keys_of(store) == ["touched"]
        clock.advance(5)
        assert await store.sweep(clock(), 100) == 1
        assert await store.get("touched") is None

    async def test_a_sweep_checks_each_session_again_before_it_removes_it(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """Whoever sweeps may have a clock that is ahead; a session touched meanwhile must stay."""
        keys = [f"key-{number:02}" for number in range(20)]
        for key in keys:
            await pair.one.create(make_session(key=key, lives=10))
        later = clock() + seconds(1000)
        removed, *touched = await asyncio.gather(
            pair.two.sweep(clock() + seconds(20), 100), *(pair.one.touch(key, clock(), later) for key in keys)
        )
        left = await keys_of(pair.one)
        assert left == [key for key, alive in zip(keys, touched, strict=True) if alive]
        assert removed + len(left) == len(keys)

    async def test_a_sweep_leaves_what_had_not_expired_at_the_moment_it_is_given(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        earlier = clock()
        session = make_session(lives=10)
        await store.create(session)
        clock.advance(15)
        assert await store.sweep(earlier, 10) == 0
        assert await store.sweep(clock(), 10) == 1, "it was there still"

    async def test_two_sweeps_at_once_remove_each_session_once(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(100):
            await pair.one.create(make_session(key=f"key-{number}", lives=1 + number % 7, principal="one"))
        clock.advance(20)
        assert sum(await asyncio.gather(*(pair[number % 2].sweep(clock(), 60) for number in range(4)))) == 100
        assert await pair.one.count("one") == await pair.two.count() == 0

    async def test_a_session_stored_after_its_expiry_is_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(lives=-10))
        assert await store.count() == 0
        assert await store.sweep(clock(), 10) == 1
        assert await store.get(KEY) is None

    # count and page: the living only

    async def test_expired_sessions_are_not_counted_and_not_listed_before_they_are_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="dead", lives=10, principal="one"))
        await store.create(make_session(key="live", lives=20, principal="one"))
        clock.advance(10)
        assert (await store.count(), await store.count("one")) == (1, 1)
        assert await keys_of(store) == ["live"]

    async def test_counting_is_for_everybody_or_for_one_principal(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        for number, principal in enumerate(["one", "one", "two", None, ""]):
            await store.create(make_session(key=f"key-{number}", principal=principal))
        assert await store.count() == 5
        assert [await store.count(principal) for principal in ("one", "two", "three", "")] == [2, 1, 0, 1]

    async def test_counts_hold_when_sessions_come_expire_and_are_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(30):
            await store.create(make_session(key=f"key-{number}", lives=1 + number, principal=f"p{number % 3}"))
        for elapsed in range(1, 31):
            clock.advance(1)
            assert await store.count() == 30 - elapsed
            if elapsed % 5 == 0:
                await store.sweep(clock(), 2)
            assert sum([await store.count(f"p{number}") for number in range(3)]) == 30 - elapsed

    async def test_pages_are_in_key_order_after_the_given_key(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        for key in ["b", "d", "a", "C", "-", "_", "e"]:
            await store.create(make_session(key=key))
        assert await keys_of(store) == ["-", "C", "_", "a", "b", "d", "e"]
        assert await keys_of(store, limit=2) == ["-", "C"]
        assert await keys_of(store, after="C", limit=2) == ["_", "a"]
        assert await keys_of(store, after="c", limit=2) == ["d", "e"], "a key that is not there is a place all the same"
        assert await keys_of(store, after="e") == []
        assert await keys_of(store, limit=0) == []

    async def test_a_page_is_full_although_some_sessions_have_expired(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(30):
            await store.create(make_session(key=f"key-{number:02}", lives=10 if number % 3 else 100))
        clock.advance(10)
        assert await keys_of(store, limit=5) == ["key-00", "key-03", "key-06", "key-09", "key-12"]

    async def test_paging_shows_every_session_that_stays_once_while_others_come_and_go(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        staying = [f"{number:02}-stays" for number in range(20)]
        going = [f"{number:02}-goes" for number in range(20)]
        for key in staying + going:
            await store.create(make_session(key=key))
        seen: list[str] = []
        after: str | None = None
        while page := await keys_of(store, after, 3):
            seen += page
            assert len(seen) == len(set(seen)), "no session is shown twice"
            after = page[-1]
            if going:
                await store.delete(going.pop())
                await store.delete(after)
                await store.create(make_session(key=f"{after}-later"))
        assert [key for key in staying if key not in seen] == []
        assert seen == sorted(seen)

    # Open, closed, shared, out of reach

    async def test_stores_on_the_same_data_see_the_same_sessions_if_the_store_says_so(
        self, store: SessionStore, open_store: OpenStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """`shared` promises that; of a store that does not promise it nothing is asked."""
        if not type(store).shared:
            return
        await store.create(make_session())
        other: SessionStore = await open_store()
        assert await store.get(KEY) == await other.get(KEY) is not None
        assert await other.touch(KEY, clock(), clock() + seconds(300))
        assert await other.update(KEY, {"state": {"by": "other"}}, 0) is not None
        assert await store.get(KEY) == await other.get(KEY)
        await other.create(make_session(key=OTHER, principal="one"))
        assert (await store.count(), await store.count("one"), await keys_of(store)) == (2, 1, [KEY, OTHER])
        assert await store.delete(OTHER) is True
        assert await other.get(OTHER) is None

    async def test_what_was_stored_is_there_after_closing_if_the_store_is_shared(
        self, make_store: MakeStore, make_session: MakeSession, anyio_backend: str
    ) -> None:
        session = make_session()
        async with make_store() as store:
            await store.create(session)
        if type(store).shared:
            async with make_store() as store:
                assert await store.get(KEY) == session

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_a_store_that_was_not_entered_or_is_closed_is_unavailable(
        self, make_store: MakeStore, make_session: MakeSession, clock: FakeClock, anyio_backend: str, operation: str
    ) -> None:
        store = make_store()
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store, make_session(), clock())
        async with store as entered:
            assert entered is store
            await OPERATIONS[operation](store, make_session(), clock())
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store, make_session(), clock())

    async def test_an_open_store_answers(self, store: SessionStore) -> None:
        await store.ping()

    async def test_an_operation_that_is_given_up_harms_no_other(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        """Not even where the answer to what was given up arrives when the next one is waited for."""
        keys = [f"key-{number}" for number in range(5)]
        sessions = [make_session(key=key, state={"key": key}) for key in keys]
        for session in sessions:
            await store.create(session)
        async with asyncio.timeout(base.PATIENCE):
            for turns in range(20):
                given_up = [asyncio.ensure_future(call) for call in (store.get(keys[0]), store.count(), store.ping())]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in given_up:
                    task.cancel()
                assert await asyncio.gather(*(store.get(key) for key in keys)) == sessions
                await asyncio.gather(*given_up, return_exceptions=True)
            assert await store.page(None, 10) == sessions
            assert await store.count() == len(keys)

    async def test_a_store_out_of_reach_is_unavailable_in_bounded_time_and_works_again_afterwards(
        self,
        store: SessionStore,
        make_session: MakeSession,
        clock: FakeClock,
        outage: AbstractAsyncContextManager[object] | None,
    ) -> None:
        if outage is None:
            pytest.skip("has no server that could be out of reach; where there is one, define the fixture outage")
        session = make_session()
        await store.create(session)
        async with outage:
            async with asyncio.timeout(base.PATIENCE):
                results: list[object] = await asyncio.gather(
                    *(operation(store, make_session(key=OTHER), clock()) for operation in OPERATIONS.values()),
                    return_exceptions=True,
                )
            assert {name: type(result) for name, result in zip(OPERATIONS, results, strict=True)} == dict.fromkeys(
                OPERATIONS, StoreUnavailable
            )
        await back(store)
        assert await store.get(KEY) == session
        assert await store.touch(KEY, clock(), clock() + seconds(200))
        await store.create(make_session(key="key-0003"))
        assert await keys_of(store, after=OTHER) == ["key-0003"]

    async def test_a_store_out_of_reach_cannot_be_entered(
        self, make_store: MakeStore, outage: AbstractAsyncContextManager[object] | None, anyio_backend: str
    ) -> None:
        if outage is None:
            pytest.skip("has no server that could be out of reach; where there is one, define the fixture outage")
        async with outage, asyncio.timeout(base.PATIENCE):
            with pytest.raises(StoreUnavailable):
                await make_store().__aenter__()
        store = make_store()
        await _entered(store)
        await settle(store)
        await store.__aexit__(None, None, None)


async def _entered(store: SessionStore) -> None:
    async with asyncio.timeout(base.PATIENCE):
        while True:
            try:
                await store.__aenter__()
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return
