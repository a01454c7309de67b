"""The data of a session: the JSON form loses nothing."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_tornado.sessions import ClientInfo, Session

AT = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC)
AT_MICROSECONDS = 1_795_395_723_456_789


def whole_session():
    """Return a session in which every field differs from its default."""
    return Session(
        key="k" * 43,
        created_at=AT,
        last_seen_at=AT + timedelta(microseconds=1),
        expires_at=AT + timedelta(hours=1),
        client=ClientInfo(remote_addr="192.0.2.1", user_agent="agent/1", name="name", version="2", unknown={"os": "x"}),
        principal="someone",
        protocol_version="2025-06-18",
        client_params={"capabilities": {"roots": {"listChanged": True}}, "clientInfo": {"name": "name"}},
        initialized=True,
        journal=({"method": "logging/setLevel", "params": {"level": "info"}},),
        state={"n": 1, "deep": {"list": [1, 2.5, None, "ä", True]}},
        server_state={"": {"n": {"value": 1}}},
        revision=7,
        unknown={"colour": {"of": ["the", "day"]}},
    )


def test_a_session_comes_back_from_its_json_form_unchanged():
    session = whole_session()
    assert Session.from_dict(json.loads(json.dumps(session.to_dict()))) == session


def test_the_sample_session_leaves_no_field_at_its_default():
    for model in (whole_session(), whole_session().client):
        for field in dataclasses.fields(model):
            default = field.default_factory() if callable(field.default_factory) else field.default
            assert getattr(model, field.name) != default, field.name


def test_a_session_with_defaults_only_comes_back_unchanged():
    session = Session(
        key="k", created_at=AT, last_seen_at=AT, expires_at=AT, client=ClientInfo(), protocol_version="2025-11-25"
    )
    assert Session.from_dict(json.loads(json.dumps(session.to_dict()))) == session


def test_the_json_form_names_every_field_of_the_contract():
    data = dataclasses.replace(whole_session(), server_state={}).to_dict()
    assert set(data) == {
        "key", "created_at", "last_seen_at", "expires_at", "client", "principal", "protocol_version",
        "client_params", "initialized", "journal", "state", "revision", "colour",
    }  # fmt: skip
    assert set(data["client"]) == {"remote_addr", "user_agent", "name", "version", "os"}
    assert set(whole_session().to_dict()) == {*data, "server_state"}


def test_times_are_integer_microseconds_since_the_epoch():
    data = whole_session().to_dict()
    assert data["created_at"] == AT_MICROSECONDS
    assert data["last_seen_at"] == AT_MICROSECONDS + 1
    assert data["expires_at"] == AT_MICROSECONDS + 3_600_000_000
    assert {type(data[name]) for name in ("created_at", "last_seen_at", "expires_at")} == {int}


@settings(database=None, deadline=None)
@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_times_are_exact_to_the_microsecond(moment):
    session = dataclasses.replace(whole_session(), expires_at=moment)
    assert Session.from_dict(session.to_dict()).expires_at == moment


def test_times_of_any_time_zone_come_back_aware_in_utc():
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    session = Session.from_dict(dataclasses.replace(whole_session(), created_at=elsewhere).to_dict())
    assert session.created_at == AT
    assert session.created_at.utcoffset() == timedelta(0)


def test_fields_of_a_newer_version_are_kept_in_the_session_and_in_the_client():
    data = {**whole_session().to_dict(), "from_2030": {"a": [1]}}
    data["client"] = {**data["client"], "locale": "de"}
    assert Session.from_dict(data).to_dict() == data


def test_reading_does_not_change_the_given_data():
    data = whole_session().to_dict()
    before = json.dumps(data)
    Session.from_dict(data)
    assert json.dumps(data) == before


def test_fields_that_an_older_version_did_not_write_have_their_defaults():
    data = whole_session().to_dict()
    for name in ("principal", "initialized", "journal", "state", "server_state", "revision"):
        del data[name]
    session = Session.from_dict(data)
    assert (session.principal, session.initialized, tuple(session.journal), session.revision) == (None, False, (), 0)
    assert (dict(session.state), dict(session.server_state)) == ({}, {})


@pytest.mark.parametrize("missing", ["key", "created_at", "expires_at", "client", "protocol_version"])
def test_a_missing_field_without_a_default_is_an_error(missing):
    data = whole_session().to_dict()
    del data[missing]
    with pytest.raises(KeyError, match=missing):
        Session.from_dict(data)


def test_a_session_and_its_client_are_frozen():
    session = whole_session()
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.revision = 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.client.name = "other"
