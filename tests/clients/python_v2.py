"""The client of the official Python SDK 2.x: `python_v2.py MODE URL` prints its results as one JSON object."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
from mcp.client.client import Client
from mcp.client.subscriptions import ResourceUpdated
from mcp.shared.exceptions import MCPDeprecationWarning

# Logging and sampling are deprecated, but most clients use them.
warnings.simplefilter("ignore", MCPDeprecationWarning)


TIMEOUT_SECONDS = 50
"""Timeout of the program. It is shorter than that of the test, so that the traceback shows what the program awaited."""


async def answer_elicitation(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def answer_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle")


async def main(mode: str, url: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    logs: list[str] = []
    progress: list[Any] = []
    change_sender, change_receiver = anyio.create_memory_object_stream[str](100)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        progress.append([done, total, message])

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            await change_sender.send("tools")
        elif isinstance(message, types.ResourceUpdatedNotification):
            await change_sender.send(str(message.params.uri))

    async def call(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments, progress_callback=on_progress)
        assert not result.is_error, result
        return result.structured_content

    callbacks: dict[str, Any] = {
        "elicitation_callback": answer_elicitation,
        "sampling_callback": answer_sampling,
        "logging_callback": on_log,
        "message_handler": on_message,
    }
    async with change_receiver, change_sender, Client(url, mode=mode, log_level="info", **callbacks) as client:
        results["revision"] = client.protocol_version
        results["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        results["weather"] = await call("weather", city="Ulm")
        results["counted"] = (await call("count", steps=3))["result"]
        results["progress"], results["logs"] = progress[:], logs[:]

        results["prompts"] = [prompt.name for prompt in (await client.list_prompts()).prompts]
        prompt = await client.get_prompt("introduce", {"name": "Ada"})
        results["prompt"] = prompt.messages[0].content.text
        reference = types.PromptReference(name="introduce")
        results["completed"] = (await client.complete(reference, {"name": "name", "value": "a"})).completion.values
        results["resources"] = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = (await client.list_resource_templates()).resource_templates
        results["templates"] = [template.uri_template for template in templates]
        results["greeting"] = (await client.read_resource("memo://greeting")).contents[0].text
        results["notes"] = (await client.read_resource("memo://ada/notes")).contents[0].text

        results["greeted"] = (await call("greet"))["result"]
        results["quoted"] = (await call("quote"))["result"]

        if mode == "legacy":
            await client.subscribe_resource("memo://ada/notes")
            await call("change")
            results["changes"] = [await change_receiver.receive() for _ in range(2)]
            for tool in ("reconnect", "wait"):
                logs.clear()
                result = (await call(tool))["result"]
                results[tool] = [*logs, result]
            await call("change")
            results["changes later"] = [await change_receiver.receive() for _ in range(2)]
        else:
            author = uuid4().hex
            mine = ResourceUpdated(uri=f"memo://{author}/notes")
            notified: set[Any] = set()
            async with client.listen(tools_list_changed=True, resource_subscriptions=[mine.uri]) as subscription:
                await call("publish", author=author)
                while mine not in notified:
                    notified.add(await anext(subscription))
            results["notified"] = sorted("mine" if event == mine else "tools" for event in notified)
    return results


async def run(*arguments: str) -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        print(json.dumps(await main(*arguments)))


if __name__ == "__main__":
    anyio.run(run, *sys.argv[1:])
