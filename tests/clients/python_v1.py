"""The client of the official Python SDK 1.x: `python_v1.py URL` prints its results as one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl

TIMEOUT_SECONDS = 50
"""Timeout of the program. It is shorter than that of the test, so that the traceback shows what the program awaited."""


async def answer_elicitation(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def answer_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle")


async def main(url: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    logs: list[str] = []
    progress: list[Any] = []
    change_sender, change_receiver = anyio.create_memory_object_stream[str](100)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        progress.append([done, total, message])

    async def on_message(message: Any) -> None:
        notification = getattr(message, "root", None)
        if isinstance(notification, types.ToolListChangedNotification):
            await change_sender.send("tools")
        elif isinstance(notification, types.ResourceUpdatedNotification):
            await change_sender.send(str(notification.params.uri))

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
        change_receiver,
        change_sender,
        streamable_http_client(url) as (read, write, _),
        ClientSession(read, write, **callbacks) as client,
    ):
        results["revision"] = (await client.initialize()).protocolVersion
        results["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        results["weather"] = await call("weather", city="Ulm")
        results["counted"] = (await call("count", steps=3))["result"]
        results["progress"], results["logs"] = progress[:], logs[:]

        results["prompts"] = [prompt.name for prompt in (await client.list_prompts()).prompts]
        results["prompt"] = (await client.get_prompt("introduce", {"name": "Ada"})).messages[0].content.text
        reference = types.PromptReference(type="ref/prompt", name="introduce")
        results["completed"] = (await client.complete(reference, {"name": "name", "value": "a"})).completion.values
        results["resources"] = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = (await client.list_resource_templates()).resourceTemplates
        results["templates"] = [template.uriTemplate for template in templates]
        results["greeting"] = (await client.read_resource(AnyUrl("memo://greeting"))).contents[0].text
        results["notes"] = (await client.read_resource(AnyUrl("memo://ada/notes"))).contents[0].text

        results["greeted"] = (await call("greet"))["result"]
        results["quoted"] = (await call("quote"))["result"]

        await client.subscribe_resource(AnyUrl("memo://ada/notes"))
        await call("change")
        results["changes"] = [await change_receiver.receive() for _ in range(2)]
        for tool in ("reconnect", "wait"):
            logs.clear()
            result = (await call(tool))["result"]
            results[tool] = [*logs, result]
        await call("change")
        results["changes later"] = [await change_receiver.receive() for _ in range(2)]
    return results


async def run(*arguments: str) -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        print(json.dumps(await main(*arguments)))


if __name__ == "__main__":
    anyio.run(run, *sys.argv[1:])
