"""The client of the official Python SDK 1.x: `python_v1.py URL` prints what it got, as one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl


async def answer_elicitation(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def answer_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle")


async def main(url: str) -> dict[str, Any]:
    got: dict[str, Any] = {}
    logs: list[str] = []
    progress: list[Any] = []
    tell, told = anyio.create_memory_object_stream[str](100)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        progress.append([done, total, message])

    async def on_message(message: Any) -> None:
        notification = getattr(message, "root", None)
        if isinstance(notification, types.ToolListChangedNotification):
            await tell.send("tools")
        elif isinstance(notification, types.ResourceUpdatedNotification):
            await tell.send(str(notification.params.uri))

    async def call(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments, progress_callback=on_progress)
        assert not result.isError, result
        return result.structuredContent

    callbacks: dict[str, Any] = {
        "elicitation_callback": answer_elicitation,
        "sampling_callback": answer_sampling,
        "logging_callback": on_log,
        "message_handler": on_message,
    }
    async with (
        told,
        tell,
        streamable_http_client(url) as (read, write, _),
        ClientSession(read, write, **callbacks) as client,
    ):
        got["revision"] = (await client.initialize()).protocolVersion
        got["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        got["weather"] = await call("weather", city="Ulm")
        got["counted"] = (await call("count", steps=3))["result"]
        got["progress"], got["logs"] = progress[:], logs[:]

        got["prompts"] = [prompt.name for prompt in (await client.list_prompts()).prompts]
        got["prompt"] = (await client.get_prompt("introduce", {"name": "Ada"})).messages[0].content.text
        reference = types.PromptReference(type="ref/prompt", name="introduce")
        got["completed"] = (await client.complete(reference, {"name": "name", "value": "a"})).completion.values
        got["resources"] = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = (await client.list_resource_templates()).resourceTemplates
        got["templates"] = [template.uriTemplate for template in templates]
        got["greeting"] = (await client.read_resource(AnyUrl("memo://greeting"))).contents[0].text
        got["notes"] = (await client.read_resource(AnyUrl("memo://ada/notes"))).contents[0].text

        got["greeted"] = (await call("greet"))["result"]
        got["quoted"] = (await call("quote"))["result"]

        await client.subscribe_resource(AnyUrl("memo://ada/notes"))
        await call("change")
        got["changes"] = [await told.receive() for _ in range(2)]
        for tool in ("leave", "wait"):
            logs.clear()
            ended = (await call(tool))["result"]
            got[tool] = [*logs, ended]
        await call("change")
        got["changes later"] = [await told.receive() for _ in range(2)]
    return got


if __name__ == "__main__":
    print(json.dumps(anyio.run(main, *sys.argv[1:])))
