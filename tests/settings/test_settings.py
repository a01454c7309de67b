"""Settings: defaults, layers, checks, and what is shown of secrets."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mcp_tornado.settings import ConfigError, Settings, describe, load_settings, masked, settings_from_sections

REPOSITORY = Path(__file__).parents[2]
KEY = "0123456789abcdefghijklmnopqrstuv"
"""A key for `requestState`, as short as it may be."""

DEFAULTS = {
    "app": "mcp_tornado.demo:server",
    "server.host": "127.0.0.1",
    "server.port": 8000,
    "server.workers": 1,
    "server.path": "/mcp",
    "server.max_body_bytes": 4194304,
    "server.shutdown_grace_seconds": 30,
    "server.allowed_hosts": ("localhost", "127.0.0.1", "[::1]"),
    "server.allowed_origins": (
        "http://localhost",
        "https://localhost",
        "http://127.0.0.1",
        "https://127.0.0.1",
        "http://[::1]",
        "https://[::1]",
    ),
    "server.xheaders": False,
    "server.keepalive_seconds": 15,
    "server.json_responses": False,
    "sessions.mode": "required",
    "sessions.store": "memory://",
    "sessions.store_options": {},
    "sessions.idle_timeout_seconds": 3600,
    "sessions.lifetime_seconds": 604800,
    "sessions.touch_interval_seconds": 30,
    "sessions.cleanup_interval_seconds": 300,
    "sessions.max_sessions": 100000,
    "sessions.max_per_principal": 0,
    "sessions.max_state_bytes": 65536,
    "sessions.request_state_keys": (),
    "events.max_per_session": 1000,
    "events.max_bytes": 1048576,
    "events.ttl_seconds": 3600,
    "events.stream_after_seconds": 0.5,
    "events.retry_milliseconds": 1000,
    "log.level": "INFO",
    "log.format": "auto",
    "metrics.enabled": True,
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no variable that could be a setting."""
    for name in os.environ:
        if name.startswith("MCP_TORNADO_"):
            monkeypatch.delenv(name)
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def write(directory: Path, text: str, name: str = "settings.toml") -> None:
    (directory / name).write_text(text, encoding="utf-8")


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def section_of(key: str, value: Any) -> dict[str, dict[str, Any]]:
    section, _, name = key.partition(".")
    return {section: {name: value}}


class TestDefaults:
    def test_without_files_and_variables_the_defaults_hold(self) -> None:
        loaded = load_settings()

        assert {key: value_of(loaded.settings, key) for key in loaded.sources} == DEFAULTS
        assert set(loaded.sources.values()) == {"default"}

    def test_an_embedder_gets_the_same_defaults(self) -> None:
        assert settings_from_sections() == load_settings().settings == Settings()

    @pytest.mark.parametrize("env", ["development", "testing", "production"])
    def test_the_defaults_hold_in_every_environment(self, env: str) -> None:
        assert load_settings(env=env).settings == Settings()

    def test_settings_cannot_be_changed(self) -> None:
        loaded = load_settings()

        with pytest.raises(dataclasses.FrozenInstanceError):
            loaded.settings.server.port = 1  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(TypeError):
            loaded.sources["server.port"] = "elsewhere"  # pyright: ignore[reportIndexIssue]


class TestLayers:
    def test_each_source_is_stronger_than_the_one_before(
        self,
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

    def test_the_order_of_the_tables_in_a_file_is_of_no_account(self, directory: Path) -> None:
        write(directory, "[production.server]\nport = 2\n[default.server]\nport = 1")

        assert load_settings(env="production").settings.server.port == 2

    def test_a_section_keeps_what_a_stronger_source_does_not_mention(self, directory: Path) -> None:
        write(directory, '[default.server]\nhost = "0.0.0.0"\nport = 1\n[production.server]\nport = 2')

        loaded = load_settings(env="production")

        assert (loaded.settings.server.host, loaded.settings.server.port) == ("0.0.0.0", 2)
        assert loaded.sources["server.host"] == "settings.toml [default]"
        assert loaded.sources["server.port"] == "settings.toml [production]"

    def test_a_list_replaces_the_weaker_list(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        self,
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

    def test_a_weaker_value_that_is_not_allowed_does_not_matter(self, directory: Path) -> None:
        write(directory, "[default.server]\nport = 99999\n[production.server]\nport = 2")

        assert load_settings(env="production").settings.server.port == 2

    def test_the_app_is_a_setting_without_a_section(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write(directory, '[default]\napp = "mine.server:mcp"')
        assert load_settings().settings.app == "mine.server:mcp"

        monkeypatch.setenv("MCP_TORNADO_APP", "other/server.py:mcp")
        loaded = load_settings()
        assert (loaded.settings.app, loaded.sources["app"]) == ("other/server.py:mcp", "MCP_TORNADO_APP")

        assert load_settings(overrides={"app": "third:mcp"}).settings.app == "third:mcp"

    def test_the_files_are_looked_for_in_the_given_directory(self, directory: Path, tmp_path: Path) -> None:
        write(directory, "[default.server]\nport = 1")
        # Dynaconf splits a list of names at semicolons and takes brackets for a pattern.
        elsewhere = tmp_path / "a.toml; [b]*"
        elsewhere.mkdir()
        write(elsewhere, "[default.server]\nport = 2")
        write(elsewhere, "[default.server]\nworkers = 3", ".secrets.toml")

        server = load_settings(directory=elsewhere).settings.server

        assert (server.port, server.workers) == (2, 3)


class TestEnvironments:
    @pytest.fixture(autouse=True)
    def file(self, directory: Path) -> None:
        write(
            directory,
            "[default.server]\nport = 1\n[development.server]\nport = 2\n"
            "[production.server]\nport = 3\n[Staging.server]\nport = 4\n",
        )

    def test_development_is_the_default(self) -> None:
        assert load_settings().settings.server.port == 2

    def test_the_variable_chooses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MCP_TORNADO_ENV", "production")

        assert load_settings().settings.server.port == 3

    def test_the_argument_beats_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MCP_TORNADO_ENV", "nonsense")

        assert load_settings(env="production").settings.server.port == 3

    def test_case_is_of_no_account(self) -> None:
        assert load_settings(env="PRODUCTION").settings.server.port == 3

    def test_the_file_may_have_further_environments(self) -> None:
        loaded = load_settings(env="staging")

        assert loaded.settings.server.port == 4
        assert loaded.sources["server.port"] == "settings.toml [staging]"

    def test_one_without_a_table_has_the_defaults(self) -> None:
        assert load_settings(env="testing").settings.server.port == 1

    @pytest.mark.parametrize("name", ["prod", "", "default", "production,development"])
    def test_an_unknown_one_is_refused_with_the_known_ones(
        self,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        known = f"{name!r} is not an environment; there are development, testing, production, staging"
        with pytest.raises(ConfigError) as given:
            load_settings(env=name)
        assert str(given.value) == known

        monkeypatch.setenv("MCP_TORNADO_ENV", name)
        with pytest.raises(ConfigError) as switched:
            load_settings()
        assert str(switched.value) == f"{known} (from MCP_TORNADO_ENV)"

    def test_a_table_of_the_secrets_alone_makes_no_environment(self, directory: Path) -> None:
        write(directory, "[hidden.server]\nport = 9", ".secrets.toml")

        with pytest.raises(ConfigError, match="'hidden' is not an environment"):
            load_settings(env="hidden")


class TestVariables:
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
    def test_a_value_is_read_as_toml_or_as_text(
        self,
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

    def test_one_of_a_single_setting_beats_one_of_a_section(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MCP_TORNADO_SERVER__PORT", "2")
        monkeypatch.setenv("MCP_TORNADO_SERVER", "{port = 1, workers = 3}")

        server = load_settings().settings.server

        assert (server.port, server.workers) == (2, 3)

    def test_those_of_kubernetes_for_a_service_of_this_name_are_no_settings(
        self,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("MCP_TORNADO_SERVICE_HOST", "10.0.0.7")
        monkeypatch.setenv("MCP_TORNADO_SERVICE_PORT", "8000")
        monkeypatch.setenv("MCP_TORNADO_SERVICE_PORT_HTTP", "8000")
        monkeypatch.setenv("MCP_TORNADO_PORT", "tcp://10.0.0.7:8000")
        monkeypatch.setenv("MCP_TORNADO_PORT_8000_TCP", "tcp://10.0.0.7:8000")
        monkeypatch.setenv("MCP_TORNADO_PORT_8000_TCP_ADDR", "10.0.0.7")

        assert load_settings().settings == Settings()

    def test_without_such_a_service_they_are_mistakes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MCP_TORNADO_PORT", "8000")

        with pytest.raises(ConfigError, match=r"did you mean server\.port\?"):
            load_settings()


class TestNothingElseIsRead:
    @pytest.mark.parametrize(
        "name", ["settings.local.toml", "settings.yaml", "../settings.toml", "config/settings.toml"]
    )
    def test_no_other_file(self, directory: Path, name: str) -> None:
        (directory / "config").mkdir()
        write(directory, "[default.server]\nport = 1", name)
        write(directory, "[default.server]\nworkers = 2", ".secrets.toml")

        server = load_settings().settings.server

        assert (server.port, server.workers) == (Settings().server.port, 2)

    @pytest.mark.parametrize("name", ["../settings.toml", "config/settings.toml", "../.secrets.toml"])
    def test_no_file_of_another_directory_where_there_is_none(self, directory: Path, name: str) -> None:
        (directory / "config").mkdir()
        write(directory, "[default.server]\nport = 1", name)

        assert load_settings().settings == Settings()

    def test_no_dotenv(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(directory, "MCP_TORNADO_SERVER__PORT=1", ".env")
        monkeypatch.setenv("LOAD_DOTENV_FOR_DYNACONF", "true")

        assert load_settings().settings == Settings()

    def test_no_hooks(self, directory: Path) -> None:
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
    def test_no_variables_of_dynaconf(
        self,
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

    def test_no_files_or_variables_by_way_of_a_value(
        self,
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

    def test_an_embedder_is_spared_files_and_variables(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write(directory, "[default.server]\nport = 1")
        monkeypatch.setenv("MCP_TORNADO_SERVER__WORKERS", "2")

        assert settings_from_sections(log={"level": "DEBUG"}).server == Settings().server


class TestUnknownNames:
    @pytest.mark.parametrize("name", ["settings.toml", ".secrets.toml"])
    def test_in_a_file(self, directory: Path, name: str) -> None:
        write(directory, "[default.sessions]\nidle_timeout = 60", name)

        with pytest.raises(ConfigError) as caught:
            load_settings()

        assert str(caught.value) == (
            "sessions.idle_timeout is not a setting; did you mean sessions.idle_timeout_seconds?"
            f" (from {name} [default])"
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
    def test_in_a_variable(
        self,
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

    def test_on_the_command_line(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_settings(overrides={"server.prot": 1})

        message = "server.prot is not a setting; did you mean server.port? (from command line)"
        assert str(caught.value) == message

    def test_from_an_embedder(self) -> None:
        with pytest.raises(ConfigError) as caught:
            settings_from_sections(sesions={"mode": "off"}, server={"prot": 1}, app={})

        assert sorted(str(caught.value).splitlines()) == [
            "app is not a section",
            "server.prot is not a setting; did you mean server.port?",
            "sesions is not a setting; did you mean sessions?",
        ]

    def test_of_settings_outside_an_environment(self, directory: Path) -> None:
        write(directory, 'app = "a:b"\n[server]\nport = 1')

        with pytest.raises(ConfigError) as caught:
            load_settings()

        assert str(caught.value).splitlines() == [
            "settings.toml: app belongs to no environment; put it under [default] or [development]",
            "settings.toml: server belongs to no environment; put it under [default] or [development]",
        ]

    def test_dynaconf_s_own_names_are_nothing_special(self, directory: Path) -> None:
        write(directory, '[default]\nstore = "memory://"\ndynaconf_include = ["x.toml"]')

        with pytest.raises(ConfigError) as caught:
            load_settings()

        assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
            "store",
            "dynaconf_include",
        ]


class TestAllowedValues:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("server.host", "0.0.0.0"),
            ("server.host", "::1"),
            ("server.port", 0),
            ("server.port", 65535),
            ("server.path", "/a/b-c_d.e~f"),
            ("server.path", "/.well-known/mcp"),
            ("server.path", "/metrics/mcp"),
            ("server.shutdown_grace_seconds", 0),
            ("server.allowed_hosts", ("example.com", "example.com:8443", "[::1]:8000", "my_host")),
            ("server.allowed_hosts", ("*",)),
            ("server.allowed_origins", ()),
            (
                "server.allowed_origins",
                ("https://a.example:8443", "vscode-webview://abc", "http://[::1]:3000"),
            ),
            ("sessions.store", "sqlite:////var/lib/my sessions.db"),
            ("sessions.store", "mongodb+srv://db.example/sessions"),
            ("sessions.idle_timeout_seconds", 0.001),
            ("sessions.idle_timeout_seconds", 3_153_600_000),
            ("sessions.lifetime_seconds", 0),
            ("sessions.touch_interval_seconds", 0),
            ("sessions.max_sessions", 0),
            ("sessions.max_per_principal", 0),
            ("sessions.max_state_bytes", 2),
            ("events.stream_after_seconds", 0),
            ("events.retry_milliseconds", 0),
        ],
    )
    def test_accepts(self, key: str, value: object) -> None:
        assert value_of(settings_from_sections(**section_of(key, value)), key) == value

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("server.host", ""),
            ("server.host", "http://localhost"),
            ("server.host", "[::1]"),
            ("server.host", 127.1),
            ("server.port", -1),
            ("server.port", 65536),
            ("server.port", True),
            ("server.port", "8000"),
            ("server.port", 8000.0),
            ("server.port", None),
            ("server.workers", 0),
            ("server.path", "mcp"),
            ("server.path", "/"),
            ("server.path", "/mcp/"),
            ("server.path", "/mcp\n"),
            ("server.path", "/a b"),
            ("server.path", "/a//b"),
            ("server.path", "/a/../b"),
            ("server.path", "/a%20b"),
            ("server.path", "/(.*)"),
            ("server.path", "/metrics"),
            ("server.path", "/healthz"),
            ("server.max_body_bytes", 0),
            ("server.max_body_bytes", 1.5),
            ("server.shutdown_grace_seconds", -1),
            ("server.shutdown_grace_seconds", False),
            ("server.allowed_hosts", "localhost"),
            ("server.allowed_hosts", []),
            ("server.allowed_hosts", [""]),
            ("server.allowed_hosts", [1]),
            ("server.allowed_hosts", ["::1"]),
            ("server.allowed_hosts", ["http://example.com"]),
            ("server.allowed_hosts", ["*.example.com"]),
            ("server.allowed_hosts", ["*", "example.com"]),
            ("server.allowed_origins", ["example.com"]),
            ("server.allowed_origins", ["https://example.com/"]),
            ("server.allowed_origins", ["null"]),
            ("server.xheaders", "yes"),
            ("server.xheaders", 1),
            ("server.keepalive_seconds", 0),
            ("sessions.mode", "Required"),
            ("sessions.mode", False),
            ("sessions.mode", []),
            ("sessions.store", "memory"),
            ("sessions.store", "://x"),
            ("sessions.store_options", [1]),
            ("sessions.store_options", {1: "x"}),
            ("sessions.idle_timeout_seconds", 0),
            ("sessions.idle_timeout_seconds", "60"),
            ("sessions.idle_timeout_seconds", float("nan")),
            ("sessions.idle_timeout_seconds", float("inf")),
            ("sessions.idle_timeout_seconds", 3_153_600_001),
            ("sessions.idle_timeout_seconds", 10**400),
            ("sessions.lifetime_seconds", -1),
            ("sessions.touch_interval_seconds", -1),
            ("sessions.cleanup_interval_seconds", 0),
            ("sessions.max_sessions", -1),
            ("sessions.max_per_principal", -1),
            ("sessions.max_state_bytes", 0),
            ("events.max_per_session", 0),
            ("events.max_bytes", 0),
            ("events.ttl_seconds", 0),
            ("events.stream_after_seconds", -0.1),
            ("events.retry_milliseconds", -1),
            ("events.retry_milliseconds", 0.5),
            ("log.level", "TRACE"),
            ("log.level", 10),
            ("log.format", "JSON"),
            ("metrics.enabled", 0),
        ],
    )
    def test_refuses(self, key: str, value: object) -> None:
        with pytest.raises(ConfigError) as caught:
            settings_from_sections(**section_of(key, value))

        assert str(caught.value).startswith(f"{key}: {value!r} is not allowed: ")

    @pytest.mark.parametrize("keys", [KEY, [KEY[1:]], [KEY, KEY], [KEY, [KEY]], [KEY, 1]])
    def test_refuses_keys_without_telling_them(self, keys: object) -> None:
        with pytest.raises(ConfigError, match=r"^sessions.request_state_keys: .* 32 random characters$") as caught:
            settings_from_sections(sessions={"request_state_keys": keys})

        assert KEY[1:] not in str(caught.value)

    @pytest.mark.parametrize("app", ["pkg.mod", "pkg.mod:", ":server", "pkg.mod:1", "", 5])
    def test_refuses_an_app_that_names_no_attribute(self, app: object) -> None:
        with pytest.raises(ConfigError, match=r"^app: .* is not allowed"):
            load_settings(overrides={"app": app})

    @pytest.mark.parametrize("app", ["pkg.mod:server", "path/to my/file.py:make.server", r"C:\x.py:mcp"])
    def test_accepts_a_module_or_a_file_as_app(self, app: str) -> None:
        assert load_settings(overrides={"app": app}).settings.app == app

    @pytest.mark.parametrize("level", ["warning", "Warning", "WARNING"])
    def test_the_level_is_read_in_any_case(self, level: str) -> None:
        assert settings_from_sections(log={"level": level}).log.level == "WARNING"

    def test_store_options_are_copied(self) -> None:
        options = {"driver": "motor"}

        settings = settings_from_sections(sessions={"store_options": options})
        options["driver"] = "pymongo"

        assert settings.sessions.store_options == {"driver": "motor"}

    def test_a_section_is_a_table(self, directory: Path) -> None:
        write(directory, "[default]\nserver = 5")

        with pytest.raises(ConfigError) as caught:
            load_settings()

        message = "server: 5 is not allowed: a table of settings (from settings.toml [default])"
        assert str(caught.value) == message


class TestErrors:
    def test_one_says_what_is_allowed_and_where_the_value_came_from(
        self,
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

    def test_all_problems_are_told_at_once(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_broken_toml_names_file_and_position(self, directory: Path) -> None:
        write(directory, "[default.server]\nport = = 1\n")

        with pytest.raises(ConfigError, match=r"settings\.toml: .*\(at line 2, column 8\)"):
            load_settings()

    def test_a_broken_secrets_file_is_named(self, directory: Path) -> None:
        write(directory, "[default", ".secrets.toml")

        with pytest.raises(ConfigError, match=r"\.secrets\.toml: "):
            load_settings()

    def test_a_file_that_is_not_utf_8_is_named(self, directory: Path) -> None:
        (directory / "settings.toml").write_bytes(b'[default.server]\nhost = "\xe9"')

        with pytest.raises(ConfigError, match=r"settings\.toml: .*utf-8"):
            load_settings()

    def test_a_file_that_cannot_be_opened_is_not_passed_over(self, directory: Path) -> None:
        (directory / ".secrets.toml").mkdir()

        with pytest.raises(ConfigError, match=r"\.secrets\.toml: "):
            load_settings()

    def test_an_empty_file_is_fine(self, directory: Path) -> None:
        write(directory, "")

        assert load_settings().settings == Settings()


class TestMasking:
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
    def test_text(self, text: str, shown: str) -> None:
        assert masked("sessions.store", text) == shown

    @pytest.mark.parametrize("name", ["DB_PASSWORD", "clientSecret", "token", "key", "credentials"])
    def test_entries_with_such_names(self, name: str) -> None:
        value = {"plain": 1, name: "hunter2", "deep": [{name: {"x": "hunter2"}}], "url": "a://u:hunter2@b"}

        assert masked("sessions.store_options", value) == {
            "plain": 1,
            name: "***",
            "deep": [{name: "***"}],
            "url": "a://***@b",
        }

    def test_a_key_with_such_a_name(self) -> None:
        assert masked("sessions.store_options.password", 1234) == "***"

    def test_an_object_is_masked_as_text(self) -> None:
        class Url:
            def __str__(self) -> str:
                return "redis://me:hunter2@db"

        assert masked("sessions.store", Url()) == "redis://***@db"

    @pytest.mark.parametrize("value", [0, 1.5, True, None])
    def test_what_cannot_be_secret_is_left(self, value: object) -> None:
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
    def test_errors_tell_no_secret(self, sessions: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            settings_from_sections(sessions=sessions)

        assert "hunter2" not in str(caught.value)

    def test_repr_tells_no_secret(self) -> None:
        settings = settings_from_sections(
            sessions={
                "store": "redis://me:hunter2@db",
                "store_options": {"password": "hunter2"},
                "request_state_keys": [KEY],
            }
        )

        assert "hunter2" not in repr(settings)
        assert KEY not in repr(settings)


class TestDescribe:
    def test_lists_every_setting_with_its_source(self, directory: Path) -> None:
        write(directory, "[default.server]\nport = 1")

        listed = describe(load_settings(overrides={"server.allowed_hosts": ["a"]}))

        assert sorted(key for key, _, _ in listed) == sorted(DEFAULTS)
        assert ("server.port", 1, "settings.toml [default]") in listed
        assert ("server.allowed_hosts", ["a"], "command line") in listed
        assert ("log.level", "INFO", "default") in listed

    def test_masks_no_default(self) -> None:
        assert "***" not in str(describe(load_settings()))

    def test_masks_secrets(self, directory: Path) -> None:
        more = f'store_options = {{password = "hunter2", db = 1}}\nrequest_state_keys = ["{KEY}"]'
        write(directory, f'[default.sessions]\nstore = "redis://me:hunter2@db"\n{more}', ".secrets.toml")

        listed = describe(load_settings())

        assert ("sessions.store", "redis://***@db", ".secrets.toml [default]") in listed
        assert ("sessions.store_options", {"password": "***", "db": 1}, ".secrets.toml [default]") in listed
        assert ("sessions.request_state_keys", "***", ".secrets.toml [default]") in listed


class TestTheFileOfTheRepository:
    @pytest.fixture(autouse=True)
    def file(self, directory: Path) -> None:
        shutil.copy(REPOSITORY / "settings.toml", directory)

    def test_differs_from_the_defaults_only_as_it_says(self) -> None:
        changed = {
            env: {
                key: value
                for key, value, source in describe(load_settings(env=env))
                if source.startswith("settings.toml")
            }
            for env in ("development", "testing", "production")
        }

        assert changed == {
            "development": {"log.format": "console"},
            "testing": {"server.port": 0, "log.level": "WARNING"},
            "production": {"log.format": "json"},
        }
