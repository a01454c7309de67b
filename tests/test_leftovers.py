"""An application leaves no tasks, sockets or connections behind after its lifespan."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psutil
import pytest
from mcp.server.mcpserver import Context, MCPServer
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from mcp_tornado import create_app

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 30

JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def make_server(started: asyncio.Event) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("leftovers")

    @server.tool()
    async def never(ctx: Context[Any, Any]) -> str:
        await ctx.report_progress(1)
        started.set()
        await asyncio.Event().wait()
        return "never"

    return server


def call(name: str, **arguments: object) -> bytes:
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


async def test_a_drain_leaves_no_task_and_no_socket_of_running_calls_and_streams() -> None:
    started, streaming = asyncio.Event(), asyncio.Event()
    tasks, connections = asyncio.all_tasks(), len(psutil.Process().net_connections())
    app = create_app(make_server(started), events={"stream_after_seconds": 0.01})
    listening, port = bind_unused_port()
    url = f"http://127.0.0.1:{port}/mcp"
    http = HTTPServer(app)
    client = AsyncHTTPClient(force_instance=True)
    async with asyncio.timeout(DEADLINE_SECONDS), app.lifespan():
        http.add_socket(listening)
        created = await client.fetch(f"{url}/session", method="POST", body=b"")
        headers = {**JSON, "Mcp-Session-Id": created.headers["Mcp-Session-Id"]}
        await client.fetch(f"{url}/send", method="POST", headers=headers, body=call("never"))
        await started.wait()
        stream = HTTPRequest(
            url,
            method="POST",
            headers=headers,
            body=call("never"),
            streaming_callback=lambda _: streaming.set(),
        )
        standalone = HTTPRequest(url, headers={**headers, "Accept": "text/event-stream"})
        waiting = [asyncio.ensure_future(client.fetch(request)) for request in (stream, standalone)]
        await streaming.wait()
        await app.drain(0)
        await asyncio.gather(*waiting)
    http.stop()
    await http.close_all_connections()
    client.close()
    left = {task for task in asyncio.all_tasks() - tasks if not task.done()}
    if left:
        await asyncio.wait(left, timeout=5)
    assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()
    assert len(psutil.Process().net_connections()) == connections


async def test_the_end_of_the_lifespan_without_a_drain_ends_running_calls() -> None:
    started = asyncio.Event()
    tasks = asyncio.all_tasks()
    app = create_app(make_server(started))
    listening, port = bind_unused_port()
    url = f"http://127.0.0.1:{port}/mcp"
    http = HTTPServer(app)
    client = AsyncHTTPClient(force_instance=True)
    async with asyncio.timeout(DEADLINE_SECONDS), app.lifespan():
        http.add_socket(listening)
        created = await client.fetch(f"{url}/session", method="POST", body=b"")
        headers = {**JSON, "Mcp-Session-Id": created.headers["Mcp-Session-Id"]}
        await client.fetch(f"{url}/send", method="POST", headers=headers, body=call("never"))
        await started.wait()
    http.stop()
    await http.close_all_connections()
    client.close()
    assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()
