"""The path of the file in the URL of a store, and the options of the store."""

from __future__ import annotations

import pytest
from mcp_tornado_sqlite import sqlite_store

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("sessions.db", "sessions.db"),
        ("a%20b%3F.db", "a b?.db"),
        ("with space & #+ä.db", "with space & #+ä.db"),
        ("%C3%A4.db", "ä.db"),
        ("100%25.db", "100%.db"),
        ("file:x.db", "file:x.db"),
        ("sub/../sessions.db", "sessions.db"),
    ],
)
async def test_the_file_has_the_name_that_the_url_encodes(tmp_path, clock, written, name):
    (tmp_path / "sub").mkdir()
    async with sqlite_store(f"sqlite:///{tmp_path}/{written}", {}, clock) as store:
        await store.ping()
        assert (tmp_path / name).is_file()


async def test_a_relative_path_is_relative_to_the_working_directory_at_entering(tmp_path, clock, monkeypatch):
    store = sqlite_store("sqlite:///sessions.db", {}, clock)
    monkeypatch.chdir(tmp_path)
    async with store:
        assert (tmp_path / "sessions.db").is_file()
        monkeypatch.chdir("/")
        await store.ping()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///:memory:",
        "sqlite:///%3Amemory%3A",
        "sqlite:///folder/",
        "sqlite:///a%00b.db",
        "sqlite://localhost/sessions.db",
        "sqlite://user:secret@host/sessions.db",
        "sqlite:///sessions.db?mode=memory",
        "sqlite:///sessions.db?password=secret",
        "sqlite+aiosqlite:///sessions.db",
        "memory://",
        "",
    ],
)
async def test_a_url_without_a_file_is_refused_and_not_quoted(clock, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        sqlite_store(url, {}, clock)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"timeout": 5}, {"events": {"max_events": 5}}])
async def test_unknown_options_are_refused(clock, options):
    with pytest.raises(ValueError):
        sqlite_store("sqlite:///sessions.db", options, clock)


async def test_a_store_that_is_not_entered_creates_no_file(make_store, tmp_path):
    make_store()
    assert list(tmp_path.iterdir()) == []
