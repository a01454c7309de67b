"""Masking of secrets in listings, errors and `repr`."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_tornado.settings import (
    ConfigError,
    SessionSettings,
    describe,
    load_settings,
    masked,
    settings_from_sections,
)
from mcp_tornado.settings.masking import is_secret_name
from mcp_tornado.settings.table import SETTINGS
from tests.settings.conftest import DEFAULTS, KEY, write

SECRET_KEYS = [key for key, setting in SETTINGS.items() if setting.secrecy != "none"]
URL = "redis://me:hunter2@db"
WRONG_VALUES = {
    "a credential without a scheme": "me:hunter2@db",
    "a parameter": "password=hunter2",
    "bytes": b"hunter2",
    "a URL in bytes": URL.encode(),
    "a list": ["hunter2"],
    "a tuple": ("hunter2",),
    "a list of URLs": [URL],
    "a set": {"hunter2"},
    "a set of URLs": {URL},
    "a nested list": [["hunter2"], [URL]],
    "a list of tables": [{"any": "hunter2"}, {"password": "hunter2"}],
    "a table": {"password": "hunter2", 1: 2},
    "a table of tables": {"tls": {"passphrase": ["hunter2"]}, "url": URL, 1: 2},
    "an exception": ValueError(URL),
}
"""Values that no secret setting allows, all with the secret `hunter2`."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("memory://", "memory://"),
        ("sqlite:////var/keys/token.db?mode=ro", "sqlite:////var/keys/token.db?mode=ro"),
        ("redis://db:6379/0", "redis://db:6379/0"),
        ("redis://:hunter2@db:6379/0", "redis://***@db:6379/0"),
        ("mongodb://me:hunter2@a:1,b:2/x?w=1", "mongodb://***@a:1,b:2/x?w=1"),
        ("mongodb://me:hun/te?r#@2@db/x", "mongodb://***@db/x"),
        ("redis://db/0?password=hunter2&db=1", "redis://db/0?password=***&db=1"),
        ("blob://db/0?sig=hunter2&pw=hunter2&auth=hunter2", "blob://db/0?sig=***&pw=***&auth=***"),
        ("mongodb://db/0?authSource=admin&signal=1", "mongodb://db/0?authSource=admin&signal=1"),
        ("redis://db/0?db=1&Access_Token=hunter2", "redis://db/0?db=1&Access_Token=***"),
        ("redis://db/0?api%4Bey=hunter2", "redis://db/0?api%4Bey=***"),
        ("redis://db/0?client-secret=a=hunter2", "redis://db/0?client-secret=***"),
        ("redis://db/0?a=1;password=hunter2", "redis://db/0?a=***"),
        ("redis://db/0?a=1#token=hunter2", "redis://db/0?a=***"),
        ("redis://db/0;password=hunter2", "redis://db/0;password=***"),
        ("redis://[hunter2", "redis://***"),
        ("me:hunter2@db/x", "***@db/x"),
        ("host=db password=hunter2", "host=***"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_secrets_in_a_text_are_masked(text: str, shown: str) -> None:
    assert masked("sessions.store", text) == shown


@pytest.mark.parametrize("name", ["DB_PASSWORD", "clientSecret", "token", "key", "credentials"])
def test_entries_of_a_table_with_the_name_of_a_secret_are_masked(name: str) -> None:
    value = {"plain": 1, name: "hunter2", "deep": [{name: {"x": "hunter2"}}], "url": "a://u:hunter2@b"}

    assert masked("sessions.store_options", value) == {
        "plain": 1,
        name: "***",
        "deep": [{name: "***"}],
        "url": "a://***@b",
    }


def test_a_value_is_masked_if_its_key_is_the_name_of_a_secret() -> None:
    assert masked("sessions.store_options.password", 1234) == "***"


def test_an_object_is_masked_as_text() -> None:
    class Url:
        def __str__(self) -> str:
            return "redis://me:hunter2@db"

    assert masked("sessions.store", Url()) == "redis://***@db"


@pytest.mark.parametrize("value", [0, 1.5, True, None])
def test_numbers_booleans_and_none_are_not_masked(value: object) -> None:
    assert masked("server.port", value) is value


@pytest.mark.parametrize(
    "sessions",
    [
        {"store": "me:hunter2@db"},
        {"store": ["redis://me:hunter2@db"]},
        {"store_options": ["redis://me:hunter2@db"]},
        {"store_options": {"password": "hunter2", 1: 2}},
        {"store_password": "hunter2"},
    ],
)
def test_an_error_shows_no_secret(sessions: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_sections(sessions=sessions)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("value", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_an_error_shows_no_secret_for_a_wrong_value_of_any_type(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: ") as caught:
        load_settings(overrides={key: value})

    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("value", [*WRONG_VALUES.values(), "hunter2"], ids=[*WRONG_VALUES, "a text"])
def test_an_error_shows_nothing_of_a_setting_that_is_secret_as_a_whole(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^sessions\.request_state_keys: '\*\*\*' is not allowed: ") as caught:
        settings_from_sections(sessions={"request_state_keys": value})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["SESSIONS", "SESSIONS__STORE_OPTIONS"])
@pytest.mark.parametrize("text", [json.dumps({"password": "hunter2"}), '["hunter2"]', "hunter2"])
def test_an_error_shows_no_text_that_replaces_a_table_with_secrets(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    text: str,
) -> None:
    monkeypatch.setenv(f"MCP_TORNADO_{variable}", text)

    with pytest.raises(ConfigError, match=r"\*\*\*.* is not allowed: a table") as caught:
        load_settings()

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("value", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_an_error_of_pydantic_shows_no_secret(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        SessionSettings(**{key.partition(".")[2]: value})

    assert "hunter2" not in str(caught.value)


def test_an_error_for_an_assignment_shows_no_secret() -> None:
    with pytest.raises(FrozenInstanceError) as caught:
        SessionSettings().store = URL  # pyright: ignore[reportAttributeAccessIssue]

    assert "hunter2" not in str(caught.value)


def test_a_setting_with_the_name_of_a_secret_is_declared_secret() -> None:
    assert [key for key in SETTINGS if is_secret_name(key) and key not in SECRET_KEYS] == []


def test_repr_shows_no_secret() -> None:
    settings = settings_from_sections(
        sessions={
            "store": "redis://me:hunter2@db",
            "store_options": {"password": "hunter2"},
            "request_state_keys": [KEY],
        }
    )

    assert "hunter2" not in repr(settings)
    assert KEY not in repr(settings)


def test_describe_lists_every_setting_with_its_source(directory: Path) -> None:
    write(directory, "[default.server]\nport = 1")

    listed = describe(load_settings(overrides={"server.allowed_hosts": ["a"]}))

    assert sorted(key for key, _, _ in listed) == sorted(DEFAULTS)
    assert ("server.port", 1, "settings.toml [default]") in listed
    assert ("server.allowed_hosts", ["a"], "command line") in listed
    assert ("log.level", "INFO", "default") in listed


def test_describe_masks_no_default() -> None:
    assert "***" not in str(describe(load_settings()))


def test_describe_masks_secrets(directory: Path) -> None:
    more = f'store_options = {{password = "hunter2", db = 1}}\nrequest_state_keys = ["{KEY}"]'
    write(directory, f'[default.sessions]\nstore = "redis://me:hunter2@db"\n{more}', ".secrets.toml")

    listed = describe(load_settings())

    assert ("sessions.store", "redis://***@db", ".secrets.toml [default]") in listed
    assert ("sessions.store_options", {"password": "***", "db": 1}, ".secrets.toml [default]") in listed
    assert ("sessions.request_state_keys", "***", ".secrets.toml [default]") in listed
