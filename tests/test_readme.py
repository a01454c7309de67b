"""The README is true: its examples are run unchanged, on another port, and its tables are compared with the code."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcp_tornado.settings import describe, load_settings
from mcp_tornado.stores.plugins import installed_stores
from tests.documents import DEADLINE, REPOSITORY, Document, environment, free_ports, serving

DOCUMENT = Document((REPOSITORY / "README.md").read_text())
README, BLOCKS, block = DOCUMENT.text, DOCUMENT.blocks, DOCUMENT.block

DOCUMENTS = sorted({*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("plugins/**/README.md")})
"""All documents that users read."""

_PACKAGE_INDEX = re.compile(r"https?://(?:[\w-]+\.)*(?:pypi\.org|pythonhosted\.org|npmjs\.com)\b\S*")


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def directory(tmp_path: Path, port: int) -> Path:
    """A directory with every Python file that the README shows."""
    DOCUMENT.write_python_files(tmp_path, {"8000": port})
    return tmp_path


def test_example_server_is_called_with_the_sdk_client(directory: Path, port: int) -> None:
    command = shlex.split(block("sh", "serve weather.py:server --port").replace("8000", str(port)))
    with serving(command, directory, port):
        called = subprocess.run(
            shlex.split(block("sh", "python client.py")),
            cwd=directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    assert called.stdout == "Sunny in Oslo\n", called.stderr


def test_curl_example_sends_receives_and_aborts_a_call(directory: Path, port: int) -> None:
    script = "set -euo pipefail\n" + block("sh", "URL=").replace("8000", str(port))
    with serving(["mcp-tornado", "serve", "--port", str(port)], directory, port):
        ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.returncode == 0, ran.stderr
    assert '{"accepted":1}{"events":[' in ran.stdout
    assert '"method":"notifications/progress","params":{"progressToken":"p","progress":1' in ran.stdout
    streamed = [json.loads(data) for data in re.findall(r"^data: (.*)$", ran.stdout, re.MULTILINE)]
    assert [message.get("method", message.get("id")) for message in streamed] == [
        "notifications/progress",
        "notifications/progress",
        1,
    ]
    assert streamed[-1]["result"]["content"][0]["text"] == "2 steps done"
    assert '{"accepted":2}{"aborted":2}{"key":"' in ran.stdout


def test_session_survives_a_kill_on_a_durable_store(directory: Path, port: int) -> None:
    install, serve = block("sh", "--store sqlite").splitlines()
    assert install == 'pip install "mcp-tornado[sqlite]"'
    command = [*shlex.split(serve), "--port", str(port)]
    with serving(command, directory, port, stop=signal.SIGKILL) as origin:
        headers = {"Mcp-Session-Id": httpx.post(f"{origin}/mcp/session").headers["Mcp-Session-Id"]}
        shown = httpx.get(f"{origin}/mcp/session", headers=headers)
        assert shown.status_code == 200
    with serving(command, directory, port) as origin:
        assert httpx.get(f"{origin}/mcp/session", headers=headers).json() == shown.json()


def test_store_table_names_every_shipped_store() -> None:
    schemes = re.findall(r"`([a-z+]+)://[^`]*`", README[README.index("| store | URL |") :].partition("\n\n")[0])
    assert set(schemes) == {store.scheme for store in installed_stores()}


def test_store_settings_apply_and_the_password_is_masked(tmp_path: Path) -> None:
    for name in ("settings.toml", ".secrets.toml"):
        text = next(text for _, text in BLOCKS if text.startswith(f"# {name}") and "sessions]" in text)
        (tmp_path / name).write_text(text)
    loaded = load_settings(env="production", directory=tmp_path)
    assert loaded.settings.sessions.store == "redis://user:password@redis.example.com:6379/0"
    assert "password" not in str(describe(loaded))


@pytest.mark.parametrize("name", ["embedded.py", "existing.py"])
def test_tornado_examples_serve_sessions(directory: Path, port: int, name: str) -> None:
    with serving([sys.executable, name], directory, port) as origin:
        session_id = httpx.post(f"{origin}/mcp/session").headers["Mcp-Session-Id"]
        shown = httpx.get(f"{origin}/mcp/session", headers={"Mcp-Session-Id": session_id})
        assert shown.json()["protocolVersion"] == "2025-11-25"


def test_embedded_handler_requires_a_session(directory: Path, port: int) -> None:
    with serving([sys.executable, "embedded.py"], directory, port) as origin:
        refused = httpx.post(f"{origin}/upload", content=b"12345")
        assert (refused.status_code, refused.json()["error"]["data"]["code"]) == (400, "SESSION_REQUIRED")
        made = httpx.post(f"{origin}/mcp/session", json={"clientInfo": {"name": "me", "version": "1"}})
        headers = {"Mcp-Session-Id": made.headers["Mcp-Session-Id"]}
        assert httpx.post(f"{origin}/upload", content=b"12345", headers=headers).json() == {"bytes": 5, "of": "me"}


def test_network_settings_apply(tmp_path: Path) -> None:
    text = block("toml", "allowed_hosts")
    assert tomllib.loads(text)
    (tmp_path / "settings.toml").write_text(text)
    settings = load_settings(env="production", directory=tmp_path).settings
    assert settings.server.allowed_hosts == ("mcp.example.com",)
    assert settings.server.host == "0.0.0.0"


def test_settings_table_names_every_setting_with_its_default(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", README, re.MULTILINE)
    documented: dict[str, str] = {}
    for names, defaults in rows:
        keys = re.findall(r"`([^`]+)`", names)
        values = re.findall(r"`([^`]+)`", defaults) or [defaults.strip()] * len(keys)
        documented |= dict(zip(keys, values, strict=True))
    real = {key: value for key, value, _ in describe(load_settings(directory=tmp_path))}
    assert documented.keys() == real.keys()
    for key, value in real.items():
        if documented[key] != "loopback names":
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            assert documented[key] == shown, key


def test_config_command_shows_a_setting_and_its_source(tmp_path: Path) -> None:
    command = block("sh", "mcp-tornado config")
    shown = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("sessions.idle_timeout_seconds")]
    assert line.split() == ["sessions.idle_timeout_seconds", "600", "MCP_TORNADO_SESSIONS__IDLE_TIMEOUT_SECONDS"]


def test_state_example_keeps_state_in_the_session_and_behind_a_handle(directory: Path, port: int) -> None:
    with serving(["mcp-tornado", "serve", "shop.py:server", "--port", str(port)], directory, port) as origin:
        headers = {"Mcp-Session-Id": httpx.post(f"{origin}/mcp/session").headers["Mcp-Session-Id"]}
        headers["Accept"] = "application/json, text/event-stream"

        def call(tool: str, **arguments: str) -> str:
            params = {"name": tool, "arguments": arguments}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            return httpx.post(f"{origin}/mcp", json=message, headers=headers).json()["result"]["content"][0]["text"]

        assert call("add", item="tea") == "tea"
        assert call("add", item="milk") == "tea, milk"
        assert call("show") == "tea, milk"
        handle = call("new_list")
        assert call("note", handle=handle, item="bread") == "bread"
        assert "no state with this handle" in call("note", handle="nonsense", item="bread")


def test_fastmcp_example_keeps_client_data_across_a_restart(directory: Path, port: int) -> None:
    serve = block("sh", "serve basket.py:server")
    command = [*shlex.split(serve), "--port", str(port), "--store", "sqlite:///baskets.db"]
    headers = {"Accept": "application/json, text/event-stream"}

    def result(origin: str, method: str, **params: object) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(f"{origin}/mcp", json=message, headers=headers, timeout=DEADLINE)
        return json.loads(re.findall(r"^(?:data: )?({.*})$", answer.text, re.MULTILINE)[-1])["result"]

    def call(origin: str, tool: str, **arguments: str) -> str:
        return result(origin, "tools/call", name=tool, arguments=arguments)["content"][0]["text"]

    with serving(command, directory, port, stop=signal.SIGKILL) as origin:
        headers["Mcp-Session-Id"] = httpx.post(f"{origin}/mcp/session").headers["Mcp-Session-Id"]
        assert call(origin, "add", item="tea") == "tea"
        session_id = call(origin, "create_session")
        assert call(origin, "note", session_id=session_id, text="buy milk") == "buy milk"
    with serving(command, directory, port) as origin:
        assert call(origin, "add", item="milk") == "tea, milk"
        assert call(origin, "note", session_id=session_id, text="and bread") == "buy milk, and bread"
        assert call(origin, "quiet") == "quiet"
        shown = {tool["name"] for tool in result(origin, "tools/list")["tools"]}
        assert shown == {"quiet", "create_session", "end_session"}


def test_published_change_reaches_a_session(directory: Path, port: int) -> None:
    command = [*shlex.split(block("sh", "serve menu.py:server")), "--port", str(port)]
    with serving(command, directory, port) as origin:
        headers = {"Mcp-Session-Id": httpx.post(f"{origin}/mcp/session").headers["Mcp-Session-Id"]}
        (directory / "kitchen-is-open").touch()
        received = httpx.get(f"{origin}/mcp/receive?wait={DEADLINE:g}", headers=headers, timeout=2 * DEADLINE).json()
        assert [event["message"]["method"] for event in received["events"]] == ["notifications/tools/list_changed"]
        headers["Accept"] = "application/json, text/event-stream"
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert "dish_of_the_day" in httpx.post(f"{origin}/mcp", json=message, headers=headers, timeout=DEADLINE).text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_document_links_to_no_package_index(document: Path) -> None:
    assert _PACKAGE_INDEX.findall(document.read_text()) == []


def test_links_inside_the_readme_lead_to_headings() -> None:
    anchors = re.findall(r"\]\(#([^)]+)\)", README)
    headings = re.findall(r"^#{2,} (.*)$", README, re.MULTILINE)
    assert anchors
    assert set(anchors) <= {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
