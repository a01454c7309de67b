"""Variables, and that no other file or variable is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_tornado.settings import ConfigError, Settings, load_settings, settings_from_sections
from tests.settings.conftest import KEY, value_of, write


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("SERVER__PORT", "9000", "server.port", 9000),
        ("server__port", "9000", "server.port", 9000),
        ("SERVER__XHEADERS", "true", "server.xheaders", True),
        ("SERVER__XHEADERS", "True", "server.xheaders", True),
        ("SERVER__KEEPALIVE_SECONDS", "2.5", "server.keepalive_seconds", 2.5),
        ("SERVER__ALLOWED_HOSTS", '["*"]', "server.allowed_hosts", ("*",)),
        ("SERVER", '{port = 9000, host = "::"}', "server.port", 9000),
        ("LOG__LEVEL", "debug", "log.level", "DEBUG"),
        ("SESSIONS__MODE", "off", "sessions.mode", "off"),
        ("SESSIONS__STORE", "redis://db:6379/0", "sessions.store", "redis://db:6379/0"),
        ("SESSIONS__REQUEST_STATE_KEYS", f'["{KEY}"]', "sessions.request_state_keys", (KEY,)),
        ("SESSIONS__STORE_OPTIONS", "{maxPoolSize = 5}", "sessions.store_options", {"maxPoolSize": 5}),
        ("SESSIONS__STORE_OPTIONS__DRIVER", "motor", "sessions.store_options", {"driver": "motor"}),
        ("SESSIONS__STORE_OPTIONS__maxPoolSize", "5", "sessions.store_options", {"maxPoolSize": 5}),
        ("SESSIONS__STORE_OPTIONS__PIN", '"0123"', "sessions.store_options", {"pin": "0123"}),
        ("SESSIONS__STORE_OPTIONS__PIN", '"123"', "sessions.store_options", {"pin": "123"}),
        ("SESSIONS__STORE_OPTIONS__TLS__CA", "a.pem", "sessions.store_options", {"tls": {"ca": "a.pem"}}),
    ],
)
def test_the_value_of_a_variable_is_read_as_toml_or_as_text(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    text: str,
    key: str,
    value: object,
) -> None:
    monkeypatch.setenv(f"MCP_TORNADO_{variable}", text)

    loaded = load_settings()

    assert value_of(loaded.settings, key) == value
    assert type(value_of(loaded.settings, key)) is type(value)
    assert loaded.sources[key] == f"MCP_TORNADO_{variable}"


def test_the_variable_of_a_setting_is_stronger_than_that_of_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TORNADO_SERVER__PORT", "2")
    monkeypatch.setenv("MCP_TORNADO_SERVER", "{port = 1, workers = 3}")

    server = load_settings().settings.server

    assert (server.port, server.workers) == (2, 3)


def test_variables_of_kubernetes_for_a_service_of_this_name_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MCP_TORNADO_SERVICE_HOST", "10.0.0.7")
    monkeypatch.setenv("MCP_TORNADO_SERVICE_PORT", "8000")
    monkeypatch.setenv("MCP_TORNADO_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("MCP_TORNADO_PORT", "tcp://10.0.0.7:8000")
    monkeypatch.setenv("MCP_TORNADO_PORT_8000_TCP", "tcp://10.0.0.7:8000")
    monkeypatch.setenv("MCP_TORNADO_PORT_8000_TCP_ADDR", "10.0.0.7")

    assert load_settings().settings == Settings()


def test_variables_like_those_of_kubernetes_are_refused_without_such_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TORNADO_PORT", "8000")

    with pytest.raises(ConfigError, match=r"did you mean server\.port\?"):
        load_settings()


@pytest.mark.parametrize("name", ["settings.local.toml", "settings.yaml", "../settings.toml", "config/settings.toml"])
def test_no_other_file_is_read(directory: Path, name: str) -> None:
    (directory / "config").mkdir()
    write(directory, "[default.server]\nport = 1", name)
    write(directory, "[default.server]\nworkers = 2", ".secrets.toml")

    server = load_settings().settings.server

    assert (server.port, server.workers) == (Settings().server.port, 2)


@pytest.mark.parametrize("name", ["../settings.toml", "config/settings.toml", "../.secrets.toml"])
def test_no_file_of_another_directory_is_read_if_there_is_none(directory: Path, name: str) -> None:
    (directory / "config").mkdir()
    write(directory, "[default.server]\nport = 1", name)

    assert load_settings().settings == Settings()


def test_no_dotenv_file_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(directory, "MCP_TORNADO_SERVER__PORT=1", ".env")
    monkeypatch.setenv("LOAD_DOTENV_FOR_DYNACONF", "true")

    assert load_settings().settings == Settings()


def test_no_hooks_of_dynaconf_are_run(directory: Path) -> None:
    write(directory, "[default.server]\nport = 1")
    write(directory, 'def post(settings):\n    return {"SERVER": {"port": 2}}\n', "dynaconf_hooks.py")

    assert load_settings().settings.server.port == 1


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DYNACONF_SERVER__PORT", "2"),
        ("SETTINGS_FILE_FOR_DYNACONF", "other.toml"),
        ("INCLUDES_FOR_DYNACONF", '["other.toml"]'),
        ("PRELOAD_FOR_DYNACONF", '["other.toml"]'),
        ("ENV_FOR_DYNACONF", "production"),
        ("AUTO_CAST_FOR_DYNACONF", "true"),
    ],
)
def test_no_variables_of_dynaconf_are_used(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    text: str,
) -> None:
    write(
        directory,
        '[default]\nserver.port = 1\nsessions.store_options.x = "@int 3"\n[production.server]\nport = 2',
    )
    write(directory, "[default.server]\nport = 2", "other.toml")
    monkeypatch.setenv(variable, text)

    settings = load_settings().settings

    assert settings.server.port == 1
    assert settings.sessions.store_options == {"x": "@int 3"}


def test_a_value_cannot_read_files_or_variables(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(directory, "hidden", "hidden.txt")
    write(
        directory,
        "[default.sessions.store_options]\n"
        'a = "@read_file hidden.txt"\nb = "@format {env[PATH]}"\nc = "@jinja {{ 1 }}"\n',
    )
    monkeypatch.setenv("MCP_TORNADO_SESSIONS__STORE_OPTIONS__D", "@format {env[PATH]}")

    assert load_settings().settings.sessions.store_options == {
        "a": "@read_file hidden.txt",
        "b": "@format {env[PATH]}",
        "c": "@jinja {{ 1 }}",
        "d": "@format {env[PATH]}",
    }


def test_settings_from_sections_reads_no_files_and_variables(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(directory, "[default.server]\nport = 1")
    monkeypatch.setenv("MCP_TORNADO_SERVER__WORKERS", "2")

    assert settings_from_sections(log={"level": "DEBUG"}).server == Settings().server
