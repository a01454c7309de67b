"""Error messages: unknown names, values that are not allowed, broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_tornado.settings import ConfigError, Settings, load_settings, settings_from_sections
from tests.settings.conftest import write


@pytest.mark.parametrize("name", ["settings.toml", ".secrets.toml"])
def test_an_unknown_name_in_a_file_is_refused_and_the_nearest_is_named(directory: Path, name: str) -> None:
    write(directory, "[default.sessions]\nidle_timeout = 60", name)

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert str(caught.value) == (
        f"sessions.idle_timeout is not a setting; did you mean sessions.idle_timeout_seconds? (from {name} [default])"
    )


@pytest.mark.parametrize(
    ("variable", "key", "nearest"),
    [
        ("MCP_TORNADO_SERVER__PORTT", "server.portt", "server.port"),
        ("MCP_TORNADO_SERVER_PORT", "server_port", "server.port"),
        ("MCP_TORNADO_SESION__MODE", "sesion", "sessions"),
        ("MCP_TORNADO_ENVIRONMENT", "environment", None),
    ],
)
def test_an_unknown_name_in_a_variable_is_refused_and_the_nearest_is_named(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    key: str,
    nearest: str | None,
) -> None:
    monkeypatch.setenv(variable, "1")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert str(caught.value).startswith(f"{key} is not a setting; did you mean {nearest or ''}")
    assert str(caught.value).endswith(f"? (from {variable})")


def test_an_unknown_name_on_the_command_line_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides={"server.prot": 1})

    message = "server.prot is not a setting; did you mean server.port? (from command line)"
    assert str(caught.value) == message


def test_unknown_names_of_an_embedder_are_refused_and_the_nearest_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_sections(sesions={"mode": "off"}, server={"prot": 1}, app={})

    assert sorted(str(caught.value).splitlines()) == [
        "app is not a section",
        "server.prot is not a setting; did you mean server.port?",
        "sesions is not a setting; did you mean sessions?",
    ]


def test_settings_outside_an_environment_are_refused(directory: Path) -> None:
    write(directory, 'app = "a:b"\n[server]\nport = 1')

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert str(caught.value).splitlines() == [
        "settings.toml: app belongs to no environment; put it under [default] or [development]",
        "settings.toml: server belongs to no environment; put it under [default] or [development]",
    ]


def test_names_that_dynaconf_knows_are_unknown_names(directory: Path) -> None:
    write(directory, '[default]\nstore = "memory://"\ndynaconf_include = ["x.toml"]')

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "store",
        "dynaconf_include",
    ]


def test_an_error_names_the_allowed_values_and_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = "server.port: 99999 is not allowed: a whole number from 0 to 65535"
    with pytest.raises(ConfigError) as from_section:
        settings_from_sections(server={"port": 99999})
    assert str(from_section.value) == message

    monkeypatch.setenv("MCP_TORNADO_SERVER__PORT", "99999")
    with pytest.raises(ConfigError) as from_variable:
        load_settings()
    assert str(from_variable.value) == f"{message} (from MCP_TORNADO_SERVER__PORT)"


def test_an_error_lists_all_problems(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(directory, "[server]\n[default.server]\nport = -1\nworker = 2")
    monkeypatch.setenv("MCP_TORNADO_LOG__LEVEL", "LOUD")

    with pytest.raises(ConfigError) as caught:
        load_settings(overrides={"sessions.store": "redis"})

    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "settings.toml:",
        "server.worker",
        "server.port:",
        "log.level:",
        "sessions.store:",
    ]


def test_the_error_for_broken_toml_names_the_file_and_the_position(directory: Path) -> None:
    write(directory, "[default.server]\nport = = 1\n")

    with pytest.raises(ConfigError, match=r"settings\.toml: .*\(at line 2, column 8\)"):
        load_settings()


def test_the_error_for_a_broken_secrets_file_names_it(directory: Path) -> None:
    write(directory, "[default", ".secrets.toml")

    with pytest.raises(ConfigError, match=r"\.secrets\.toml: "):
        load_settings()


def test_the_error_for_a_file_that_is_not_utf_8_names_it(directory: Path) -> None:
    (directory / "settings.toml").write_bytes(b'[default.server]\nhost = "\xe9"')

    with pytest.raises(ConfigError, match=r"settings\.toml: .*utf-8"):
        load_settings()


def test_a_file_that_cannot_be_opened_is_an_error(directory: Path) -> None:
    (directory / ".secrets.toml").mkdir()

    with pytest.raises(ConfigError, match=r"\.secrets\.toml: "):
        load_settings()


def test_an_empty_file_is_allowed(directory: Path) -> None:
    write(directory, "")

    assert load_settings().settings == Settings()
