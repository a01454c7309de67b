"""The sessions of the memory store, compared with a model that is obviously correct: a dict.

The test runs the coroutines of the store step by step, so that it can suspend a sweep or a count while it runs other
operations.
"""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_tornado.sessions import ClientInfo, DuplicateSession, RevisionConflict, Session
from mcp_tornado.stores import memory
from mcp_tornado.stores.memory import MemoryStore

KEYS = st.sampled_from([f"key-{number:02}" for number in range(12)])
PRINCIPALS = st.sampled_from([None, "one", "two"])
LIVES = st.one_of(st.integers(0, 4_000_000), st.integers(1, 8).map(lambda count: count * 500_000))
"""Microseconds until a session expires: a few seconds, so that many sessions expire in the same second."""
BEHIND = st.sampled_from([0, 0, 1, 300_000, 2_000_000])
"""Microseconds by which the clock of the caller of `sweep` is behind the clock of the store."""


def microseconds(count):
    return timedelta(microseconds=count)


def finish(coroutine):
    """Run a coroutine of the store to its end. It never waits; it only yields to the event loop."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value


class StoreAgainstModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.batch_size = mock.patch.object(memory, "_BATCH_SIZE", 2)
        self.batch_size.start()
        self.now = datetime(2026, 11, 1, 12, 0, 0, 250_000, tzinfo=UTC)  # fixed, so that a run can be repeated
        self.store = MemoryStore(lambda: self.now)
        self.model = {}
        self.suspended = []

    @initialize()
    def enter(self):
        finish(self.store.__aenter__())

    def teardown(self):
        for coroutine in self.suspended:
            coroutine.close()
        self.batch_size.stop()

    def live(self):
        return {key: session for key, session in self.model.items() if session.expires_at > self.now}

    @rule(key=KEYS, principal=PRINCIPALS, lives=LIVES)
    def create(self, key, principal, lives):
        session = Session(
            key=key,
            created_at=self.now,
            last_seen_at=self.now,
            expires_at=self.now + microseconds(lives),
            client=ClientInfo(),
            principal=principal,
            protocol_version="2025-11-25",
        )
        stored = finish(self.store.get(key))
        if key in self.live():
            assert stored is not None, "a live session is stored"
        if stored is not None:
            with pytest.raises(DuplicateSession):
                finish(self.store.create(session))
        else:
            finish(self.store.create(session))
            self.model[key] = session

    @rule(key=KEYS, seen=st.integers(-1_000_000, 1_000_000), lives=LIVES)
    def touch(self, key, seen, lives):
        last_seen_at, expires_at = self.now + microseconds(seen), self.now + microseconds(lives)
        session = self.live().get(key)
        forward = session is not None and last_seen_at >= session.last_seen_at and expires_at >= session.expires_at
        assert finish(self.store.touch(key, last_seen_at, expires_at)) is forward
        if forward:
            self.model[key] = dataclasses.replace(session, last_seen_at=last_seen_at, expires_at=expires_at)

    @rule(key=KEYS, principal=PRINCIPALS, lives=st.none() | LIVES, state=st.integers(), behind=st.booleans())
    def update(self, key, principal, lives, state, behind):
        changes = {"principal": principal, "state": {"n": state % 1000}}
        session = self.live().get(key)
        if lives is not None:
            moment = self.now + microseconds(lives)
            changes["expires_at"] = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // microseconds(1)
        revision = session.revision if session is not None else 0
        if session is not None and behind:
            with pytest.raises(RevisionConflict):
                finish(self.store.update(key, changes, revision + 1))
            return
        changed = finish(self.store.update(key, changes, revision))
        if session is None:
            assert changed is None
        else:
            expected = dataclasses.replace(
                session,
                principal=principal,
                state=changes["state"],
                revision=revision + 1,
                expires_at=session.expires_at if lives is None else moment,
            )
            assert changed == expected
            self.model[key] = expected

    @rule(key=KEYS)
    def delete(self, key):
        stored = finish(self.store.get(key)) is not None
        assert finish(self.store.delete(key)) is stored
        self.model.pop(key, None)

    @rule(step=st.one_of(st.integers(0, 3_000_000), st.just(500_000), st.just(10_000_000)))
    def advance(self, step):
        self.now += microseconds(step)

    @rule(limit=st.integers(0, 15), behind=BEHIND)
    def sweep(self, limit, behind):
        moment = self.now - microseconds(behind)
        dead = [key for key, session in self.model.items() if session.expires_at <= moment]
        dead = [key for key in dead if finish(self.store.get(key)) is not None]
        assert finish(self.store.sweep(moment, limit)) == min(limit, len(dead))
        left = [key for key in dead if finish(self.store.get(key)) is not None]
        assert len(left) == max(0, len(dead) - limit)

    @precondition(lambda self: len(self.suspended) < 3)
    @rule(operation=st.sampled_from(["sweep", "count", "count of one"]), limit=st.integers(1, 15), behind=BEHIND)
    def start_and_suspend(self, operation, limit, behind):
        self.suspended.append(
            self.store.sweep(self.now - microseconds(behind), limit)
            if operation == "sweep"
            else self.store.count("one" if operation == "count of one" else None)
        )

    @precondition(lambda self: self.suspended)
    @rule(index=st.integers(0, 2))
    def resume(self, index):
        coroutine = self.suspended[index % len(self.suspended)]
        try:
            coroutine.send(None)
        except StopIteration:
            self.suspended.remove(coroutine)

    @precondition(lambda self: self.suspended)
    @rule(index=st.integers(0, 2))
    def cancel(self, index):
        coroutine = self.suspended.pop(index % len(self.suspended))
        if coroutine.cr_suspended:
            with pytest.raises(asyncio.CancelledError):
                coroutine.throw(asyncio.CancelledError())
        coroutine.close()

    @invariant()
    def the_store_holds_the_live_sessions_of_the_model(self):
        for key, session in self.live().items():
            assert finish(self.store.get(key)) == session

    @rule(after=st.none() | KEYS, limit=st.integers(1, 20))
    def page(self, after, limit):
        live = self.live()
        keys = sorted(key for key in live if after is None or key > after)[:limit]
        assert finish(self.store.page(after, limit)) == [live[key] for key in keys]

    @rule()
    def count(self):
        live = self.live()
        assert finish(self.store.count()) == len(live)
        for principal in ("one", "two", "nobody"):
            expected = sum(session.principal == principal for session in live.values())
            assert finish(self.store.count(principal)) == expected


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=200, stateful_step_count=60, deadline=None, database=None)
