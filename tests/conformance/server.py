"""The server under test of the official conformance suite: an `MCPServer` with all that the scenarios require.

The scenarios require these names, texts and schemas. mcp-tornado serves this file, and so does, as the control, the
SDK's own HTTP app: `server.streamable_http_app()`.
"""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import base64
import json
import warnings
from typing import Annotated, Any, Literal

import mcp_types as types
from input_required import INPUT_REQUIRED_TOOLS, question, read_answer, sampled_text, sampling_message
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Audio, Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import BaseModel, Field

warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging is deprecated, but the suite requires it

PAUSE_SECONDS = 0.05
"""The pause that the suite requires between two messages of a tool."""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SILENCE = base64.b64decode("UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=")
"""A WAV file without samples."""


# ---------------------------------------------------------------- a schema that a signature cannot express


def _contact() -> str:
    """Accept arguments that a schema with keywords of JSON Schema 2020-12 describes."""
    return "contact"


_CONTACT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
_contact_tool = Tool.from_function(_contact, name="json_schema_2020_12_tool").model_copy(
    update={"parameters": _CONTACT_SCHEMA}
)

server = MCPServer("conformance", version="1.0.0", tools=[_contact_tool])


# ---------------------------------------------------------------- tools that only return


@server.tool()
async def test_simple_text() -> str:
    """Return a text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content() -> Image:
    """Return an image."""
    return Image(data=PIXEL, format="png")


@server.tool()
async def test_audio_content() -> Audio:
    """Return a sound."""
    return Audio(data=SILENCE, format="wav")


def _embedded(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    resource = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=resource)


@server.tool(structured_output=False)
async def test_embedded_resource() -> types.EmbeddedResource:
    """Return a resource."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


@server.tool(structured_output=False)
async def test_multiple_content_types() -> list[Any]:
    """Return a text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    resource = _embedded("test://mixed-content-resource", "application/json", data)
    return ["Multiple content types test:", Image(data=PIXEL, format="png"), resource]


@server.tool()
async def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool()
async def test_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Accept an argument that is mirrored in a header."""
    return region


# ---------------------------------------------------------------- tools that send notifications


@server.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Log."""
    await ctx.info("Tool execution started")
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.info("Tool processing data")
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.info("Tool execution completed")
    return "logged"


@server.tool()
async def test_logging_tool(ctx: Context) -> str:
    """Log, if the request sets a logging level."""
    await ctx.info("logged")
    return "logged"


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress."""
    await ctx.report_progress(0, 100)
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.report_progress(50, 100)
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.report_progress(100, 100)
    return "done"


@server.tool()
async def test_reconnection(ctx: Context) -> str:
    """Close the connection in the middle of the call, and continue."""
    await ctx.info("before")
    await ctx.close_sse_stream()
    await asyncio.sleep(PAUSE_SECONDS)
    return "resumed"


# ---------------------------------------------------------------- tools that change lists


def _short_lived() -> str:
    """Exist for a moment."""
    return "here"


@server.tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Add a tool and remove it."""
    server.add_tool(_short_lived)
    server.remove_tool(_short_lived.__name__)
    await ctx.notify_tools_changed()
    return "changed"


@server.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Add a prompt and remove it."""
    server.add_prompt(Prompt.from_function(_short_lived))
    server.remove_prompt(_short_lived.__name__)
    await ctx.notify_prompts_changed()
    return "changed"


# ---------------------------------------------------------------- tools that ask the client


@server.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model."""
    result = await ctx.session.create_message(
        [sampling_message(prompt)], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {sampled_text(result)}"


async def _elicit(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"action={answer.action}, content={content}"


class Account(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user."""
    return f"User response: {await _elicit(ctx, message, Account)}"


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


@server.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask the user, and propose an answer."""
    return f"Elicitation completed: {await _elicit(ctx, 'Who are you?', Defaults)}"


def _titled(kind: str) -> list[Any]:
    names = ("First", "Second", "Third")
    return [{"const": f"value{number}", "title": f"{name} {kind}"} for number, name in enumerate(names, 1)]


_OPTIONS: list[Any] = ["option1", "option2", "option3"]


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": _OPTIONS})
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled("Option")})
    legacyEnum: str = Field(
        json_schema_extra={"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    )
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": _OPTIONS}})
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled("Choice")}})


@server.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask the user to choose."""
    return f"Elicitation completed: {await _elicit(ctx, 'What do you choose?', Choices)}"


# ---------------------------------------------------------------- tools that ask the client in the stateless era

for _tool in INPUT_REQUIRED_TOOLS:
    server.add_tool(_tool)


# ---------------------------------------------------------------- resources


@server.resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
async def static_binary() -> bytes:
    """An image."""
    return PIXEL


@server.resource("test://watched-resource", mime_type="text/plain")
async def watched() -> str:
    """A text to which clients subscribe."""
    return "Watched"


@server.resource("test://template/{id}/data", mime_type="application/json")
async def data_of(id: str) -> str:
    """Data for an id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


# ---------------------------------------------------------------- prompts


@server.prompt()
async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@server.prompt()
async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt with a resource in it."""
    resource = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@server.prompt()
async def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image in it."""
    image = Image(data=PIXEL, format="png").to_image_content()
    return [UserMessage(image), UserMessage("Please analyze the image above.")]


@server.prompt()
async def test_input_required_result_prompt(ctx: Context) -> str | types.InputRequiredResult:
    """A prompt that asks the user first."""
    if context := read_answer(ctx, "user_context", "context"):
        return f"Keep in mind: {context}"
    requests = {"user_context": question("What context should the prompt use?", "context")}
    return types.InputRequiredResult(input_requests=requests)


@server.completion()
async def complete(ref: Any, argument: types.CompletionArgument, context: Any) -> types.Completion:
    """Complete the arguments of prompts."""
    cities = [city for city in ("paris", "park", "party") if city.startswith(argument.value)]
    return types.Completion(values=cities, total=len(cities), has_more=False)


# ---------------------------------------------------------------- requests without a decorator of MCPServer


async def _set_level(ctx: ServerRequestContext, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def _subscribe(ctx: ServerRequestContext, params: types.SubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def _unsubscribe(ctx: ServerRequestContext, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


server.streamable_http_app()  # creates the session manager, which has the low-level server
_low_level = server.session_manager.app
_low_level.add_request_handler("logging/setLevel", types.SetLevelRequestParams, _set_level)
_low_level.add_request_handler("resources/subscribe", types.SubscribeRequestParams, _subscribe)
_low_level.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, _unsubscribe)
