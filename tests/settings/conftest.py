"""Fixtures and helpers of the tests of the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mcp_tornado.settings import Settings

KEY = "0123456789abcdefghijklmnopqrstuv"
"""A key for `requestState` of the smallest length that is allowed."""

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
    """Run the test in an empty directory, without variables that are settings."""
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
