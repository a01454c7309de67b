"""Values that are allowed, and values that are not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import ValidationError

from mcp_tornado.settings import (
    ConfigError,
    LogSettings,
    ServerSettings,
    Settings,
    load_settings,
    settings_from_sections,
)
from tests.settings.conftest import KEY, section_of, value_of, write


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
        ("server.allowed_hosts", ("*.example.com", "*.example.com:8443")),
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
def test_a_value_that_is_allowed_is_accepted(key: str, value: object) -> None:
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
        ("server.allowed_hosts", ["*example.com"]),
        ("server.allowed_hosts", ["a.*.example.com"]),
        ("server.allowed_hosts", ["*.[::1]"]),
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
def test_a_value_that_is_not_allowed_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_sections(**section_of(key, value))

    assert str(caught.value).startswith(f"{key}: {value!r} is not allowed: ")


@pytest.mark.parametrize("keys", [KEY, [KEY[1:]], [KEY, KEY], [KEY, [KEY]], [KEY, 1]])
def test_sealing_keys_that_are_not_allowed_are_refused_and_not_shown(keys: object) -> None:
    with pytest.raises(ConfigError, match=r"^sessions.request_state_keys: .* 32 random characters$") as caught:
        settings_from_sections(sessions={"request_state_keys": keys})

    assert KEY[1:] not in str(caught.value)


@pytest.mark.parametrize("app", ["pkg.mod:", ":server", "pkg.mod:1", "", 5])
def test_an_app_that_is_no_name_is_refused(app: object) -> None:
    with pytest.raises(ConfigError, match=r"^app: .* is not allowed"):
        load_settings(overrides={"app": app})


@pytest.mark.parametrize(
    "app", ["pkg.mod:server", "pkg.mod", "path/to my/file.py", "path/to my/file.py:make.server", r"C:\x.py:mcp"]
)
def test_an_app_is_a_module_or_a_file(app: str) -> None:
    assert load_settings(overrides={"app": app}).settings.app == app


@pytest.mark.parametrize("level", ["warning", "Warning", "WARNING"])
def test_the_case_of_the_log_level_does_not_matter(level: str) -> None:
    assert settings_from_sections(log={"level": level}).log.level == "WARNING"


def test_store_options_are_copied() -> None:
    options = {"driver": "motor"}

    settings = settings_from_sections(sessions={"store_options": options})
    options["driver"] = "pymongo"

    assert settings.sessions.store_options == {"driver": "motor"}


def test_a_section_that_is_not_a_table_is_refused(directory: Path) -> None:
    write(directory, "[default]\nserver = 5")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    message = "server: 5 is not allowed: a table of settings (from settings.toml [default])"
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [{"localhost"}, {"localhost": 1}, iter(["localhost"])])
def test_a_list_setting_takes_only_lists_and_tuples(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^server\.allowed_hosts: .* is not allowed: a list "):
        settings_from_sections(server={"allowed_hosts": value})


@pytest.mark.parametrize("value", [2, 2.0, 2.5])
def test_a_number_of_seconds_keeps_its_type(value: float) -> None:
    seconds = settings_from_sections(server={"keepalive_seconds": value}).server.keepalive_seconds

    assert (seconds, type(seconds)) == (value, type(value))


def test_store_options_are_taken_from_any_mapping() -> None:
    options = MappingProxyType({"driver": "motor", "pools": [1]})

    assert settings_from_sections(sessions={"store_options": options}).sessions.store_options == options


def test_a_section_that_is_constructed_directly_is_validated() -> None:
    assert ServerSettings(port=9000, allowed_hosts=("*",)).port == 9000
    with pytest.raises(ValidationError, match="port"):
        ServerSettings(port=99999)
    with pytest.raises(ValidationError, match="prot"):
        ServerSettings(prot=9000)  # pyright: ignore[reportCallIssue]


def test_settings_can_be_copied_with_changes() -> None:
    settings = Settings(server=ServerSettings(port=9000))
    copied = settings.model_copy(update={"log": LogSettings(level="DEBUG")})

    assert (copied.server.port, copied.log.level, settings.log.level) == (9000, "DEBUG", "INFO")
    assert copy.deepcopy(settings) == pickle.loads(pickle.dumps(settings)) == settings
