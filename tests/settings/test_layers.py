"""Precedence of the sources of settings, and how their values are merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_tornado.settings import load_settings
from tests.settings.conftest import write


def test_each_source_is_stronger_than_the_one_before(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, str]] = []

    def look(**overrides: int) -> None:
        from_command_line = {f"server.{name}": value for name, value in overrides.items()}
        loaded = load_settings(env="production", overrides=from_command_line)
        seen.append((loaded.settings.server.port, loaded.sources["server.port"]))

    write(directory, "[default.server]\nport = 1")
    look()
    write(directory, "[default.server]\nport = 1\n[production.server]\nport = 2")
    look()
    write(directory, "[default.server]\nport = 3", ".secrets.toml")
    look()
    write(directory, "[default.server]\nport = 3\n[production.server]\nport = 4", ".secrets.toml")
    look()
    monkeypatch.setenv("MCP_TORNADO_SERVER__PORT", "5")
    look()
    look(port=6)

    assert seen == [
        (1, "settings.toml [default]"),
        (2, "settings.toml [production]"),
        (3, ".secrets.toml [default]"),
        (4, ".secrets.toml [production]"),
        (5, "MCP_TORNADO_SERVER__PORT"),
        (6, "command line"),
    ]


def test_the_order_of_the_tables_in_a_file_does_not_matter(directory: Path) -> None:
    write(directory, "[production.server]\nport = 2\n[default.server]\nport = 1")

    assert load_settings(env="production").settings.server.port == 2


def test_a_section_keeps_settings_that_a_stronger_source_does_not_set(directory: Path) -> None:
    write(directory, '[default.server]\nhost = "0.0.0.0"\nport = 1\n[production.server]\nport = 2')

    loaded = load_settings(env="production")

    assert (loaded.settings.server.host, loaded.settings.server.port) == ("0.0.0.0", 2)
    assert loaded.sources["server.host"] == "settings.toml [default]"
    assert loaded.sources["server.port"] == "settings.toml [production]"


def test_a_list_replaces_the_weaker_list(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        directory,
        '[default.server]\nallowed_hosts = ["a", "b"]\n[production.server]\nallowed_hosts = ["c"]',
    )
    assert load_settings(env="production").settings.server.allowed_hosts == ("c",)

    write(directory, '[default.server]\nallowed_hosts = ["d"]', ".secrets.toml")
    assert load_settings(env="production").settings.server.allowed_hosts == ("d",)

    monkeypatch.setenv("MCP_TORNADO_SERVER__ALLOWED_HOSTS", '["e", "f"]')
    assert load_settings(env="production").settings.server.allowed_hosts == ("e", "f")

    overrides = {"server.allowed_hosts": ["g"]}
    loaded = load_settings(env="production", overrides=overrides)
    assert loaded.settings.server.allowed_hosts == ("g",)


def test_store_options_merge_and_name_all_their_sources(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        directory,
        "[default.sessions.store_options]\n"
        'driver = "pymongo"\npools = [1, 2]\ntls = {verify = true, ca = "old"}\n'
        "[production.sessions.store_options]\n"
        'pools = [3]\ntls = {ca = "new"}\n',
    )
    monkeypatch.setenv("MCP_TORNADO_SESSIONS__STORE_OPTIONS__DRIVER", "motor")

    loaded = load_settings(env="production")

    assert loaded.settings.sessions.store_options == {
        "driver": "motor",
        "pools": [3],
        "tls": {"verify": True, "ca": "new"},
    }
    assert loaded.sources["sessions.store_options"] == (
        "settings.toml [default], settings.toml [production], MCP_TORNADO_SESSIONS__STORE_OPTIONS__DRIVER"
    )


def test_a_weaker_value_that_is_not_allowed_does_not_matter(directory: Path) -> None:
    write(directory, "[default.server]\nport = 99999\n[production.server]\nport = 2")

    assert load_settings(env="production").settings.server.port == 2


def test_the_app_is_a_setting_without_a_section(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(directory, '[default]\napp = "mine.server:mcp"')
    assert load_settings().settings.app == "mine.server:mcp"

    monkeypatch.setenv("MCP_TORNADO_APP", "other/server.py:mcp")
    loaded = load_settings()
    assert (loaded.settings.app, loaded.sources["app"]) == ("other/server.py:mcp", "MCP_TORNADO_APP")

    assert load_settings(overrides={"app": "third:mcp"}).settings.app == "third:mcp"


def test_the_files_are_read_from_the_given_directory(directory: Path, tmp_path: Path) -> None:
    write(directory, "[default.server]\nport = 1")
    # Dynaconf splits a list of names at semicolons and takes brackets for a pattern.
    elsewhere = tmp_path / "a.toml; [b]*"
    elsewhere.mkdir()
    write(elsewhere, "[default.server]\nport = 2")
    write(elsewhere, "[default.server]\nworkers = 3", ".secrets.toml")

    server = load_settings(directory=elsewhere).settings.server

    assert (server.port, server.workers) == (2, 3)
