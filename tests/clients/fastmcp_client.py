"""FastMCP's client: `fastmcp_client.py MODE URL` prints what it got, as one JSON object."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import anyio
import mcp_types as types
from fastmcp import Client
from fastmcp.client.messages import MessageHandler
from mcp.shared.exceptions import MCPDeprecationWarning

# Logging and sampling still exist, and most clients use them.
warnings.simplefilter("ignore", MCPDeprecationWarning)


async def answer_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
    return {"name": "Ada"}


async def answer_sampling(messages: Any, params: Any, context: Any) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle")


async def main(mode: str, url: str) -> dict[str, Any]:
    got: dict[str, Any] = {}
    logs: list[str] = []
    progress: list[Any] = []
    tell, told = anyio.create_memory_object_stream[str](100)

    class Changes(MessageHandler):
        async def on_tool_list_changed(self, message: types.ToolListChangedNotification) -> None:
            await tell.send("tools")

    async def on_log(message: Any) -> None:
        logs.append(message.data["msg"] if isinstance(message.data, dict) else message.data)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        progress.append([done, total, message])

    async def call(tool: str, **arguments: Any) -> Any:
        return (await client.call_tool(tool, arguments)).structured_content

    handlers: dict[str, Any] = {
        "elicitation_handler": answer_elicitation,
        "sampling_handler": answer_sampling,
        "log_handler": on_log,
        "progress_handler": on_progress,
        "message_handler": Changes(),
    }
    async with told, tell, Client(url, mode=mode, **handlers) as client:
        got["revision"] = client.session.protocol_version
        got["tools"] = [tool.name for tool in await client.list_tools()]
        got["weather"] = await call("weather", city="Ulm")
        got["counted"] = (await call("count", steps=3))["result"]
        got["progress"], got["logs"] = progress[:], logs[:]

        got["prompts"] = [prompt.name for prompt in await client.list_prompts()]
        got["prompt"] = (await client.get_prompt("introduce", {"name": "Ada"})).messages[0].content.text
        reference = types.PromptReference(name="introduce")
        got["completed"] = (await client.complete(reference, {"name": "name", "value": "a"})).values
        got["resources"] = [str(resource.uri) for resource in await client.list_resources()]
        got["templates"] = [template.uri_template for template in await client.list_resource_templates()]
        got["greeting"] = (await client.read_resource("memo://greeting"))[0].text
        got["notes"] = (await client.read_resource("memo://ada/notes"))[0].text

        got["greeted"] = (await call("greet"))["result"]
        got["quoted"] = (await call("quote"))["result"]

        if mode == "legacy":
            await call("change")
            got["changes"] = [await told.receive()]
            for tool in ("leave", "wait"):
                logs.clear()
                ended = (await call(tool))["result"]
                got[tool] = [*logs, ended]
            await call("change")
            got["changes later"] = [await told.receive()]
    return got


if __name__ == "__main__":
    print(json.dumps(anyio.run(main, *sys.argv[1:])))
