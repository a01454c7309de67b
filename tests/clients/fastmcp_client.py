"""FastMCP's client: `fastmcp_client.py MODE URL` prints its results as one JSON object."""

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

# Logging and sampling are deprecated, but most clients use them.
warnings.simplefilter("ignore", MCPDeprecationWarning)


TIMEOUT_SECONDS = 50
"""Timeout of the program. It is shorter than that of the test, so that the traceback shows what the program awaited."""


async def answer_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
    return {"name": "Ada"}


async def answer_sampling(messages: Any, params: Any, context: Any) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle")


async def main(mode: str, url: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    logs: list[str] = []
    progress: list[Any] = []
    change_sender, change_receiver = anyio.create_memory_object_stream[str](100)

    class ChangeHandler(MessageHandler):
        async def on_tool_list_changed(self, message: types.ToolListChangedNotification) -> None:
            await change_sender.send("tools")

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
        "message_handler": ChangeHandler(),
    }
    async with change_receiver, change_sender, Client(url, mode=mode, **handlers) as client:
        results["revision"] = client.session.protocol_version
        results["tools"] = [tool.name for tool in await client.list_tools()]
        results["weather"] = await call("weather", city="Ulm")
        results["counted"] = (await call("count", steps=3))["result"]
        results["progress"], results["logs"] = progress[:], logs[:]

        results["prompts"] = [prompt.name for prompt in await client.list_prompts()]
        results["prompt"] = (await client.get_prompt("introduce", {"name": "Ada"})).messages[0].content.text
        reference = types.PromptReference(name="introduce")
        results["completed"] = (await client.complete(reference, {"name": "name", "value": "a"})).values
        results["resources"] = [str(resource.uri) for resource in await client.list_resources()]
        results["templates"] = [template.uri_template for template in await client.list_resource_templates()]
        results["greeting"] = (await client.read_resource("memo://greeting"))[0].text
        results["notes"] = (await client.read_resource("memo://ada/notes"))[0].text

        results["greeted"] = (await call("greet"))["result"]
        results["quoted"] = (await call("quote"))["result"]

        if mode == "legacy":
            await call("change")
            results["changes"] = [await change_receiver.receive()]
            for tool in ("reconnect", "wait"):
                logs.clear()
                result = (await call(tool))["result"]
                results[tool] = [*logs, result]
            await call("change")
            results["changes later"] = [await change_receiver.receive()]
    return results


async def run(*arguments: str) -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        print(json.dumps(await main(*arguments)))


if __name__ == "__main__":
    anyio.run(run, *sys.argv[1:])
