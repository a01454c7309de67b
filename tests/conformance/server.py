"""What the official conformance suite is run against: an `MCPServer` with everything that its scenarios ask for.

The names, texts and schemas are those that the suite's scenarios demand. The same file is served by mcp-tornado and,
as the control, by the SDK's own HTTP app: `server.streamable_http_app()`.
"""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import base64
import json
import warnings
from typing import Annotated, Any, Literal

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Audio, Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import BaseModel, Field

warnings.simplefilter("ignore", MCPDeprecationWarning)  # the handshake era has logging, and the suite asks for it

PAUSE = 0.05
"""Seconds that the suite wants between two messages of a tool."""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SILENCE = base64.b64decode("UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=")
"""A WAV file without samples."""


# ---------------------------------------------------------------- a schema that no function's signature gives


def _contact() -> str:
    """Takes what a schema with keywords of JSON Schema 2020-12 describes."""
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


# ---------------------------------------------------------------- tools that answer


@server.tool()
async def test_simple_text() -> str:
    """Answers with a text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content() -> Image:
    """Answers with an image."""
    return Image(data=PIXEL, format="png")


@server.tool()
async def test_audio_content() -> Audio:
    """Answers with a sound."""
    return Audio(data=SILENCE, format="wav")


def _embedded(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    resource = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=resource)


@server.tool(structured_output=False)
async def test_embedded_resource() -> types.EmbeddedResource:
    """Answers with a resource."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


@server.tool(structured_output=False)
async def test_multiple_content_types() -> list[Any]:
    """Answers with a text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    resource = _embedded("test://mixed-content-resource", "application/json", data)
    return ["Multiple content types test:", Image(data=PIXEL, format="png"), resource]


@server.tool()
async def test_error_handling() -> str:
    """Fails."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool()
async def test_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that a header repeats."""
    return region


# ---------------------------------------------------------------- tools that talk


@server.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Logs."""
    await ctx.info("Tool execution started")
    await asyncio.sleep(PAUSE)
    await ctx.info("Tool processing data")
    await asyncio.sleep(PAUSE)
    await ctx.info("Tool execution completed")
    return "logged"


@server.tool()
async def test_logging_tool(ctx: Context) -> str:
    """Logs, where the request asked for it."""
    await ctx.info("logged")
    return "logged"


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Reports its progress."""
    await ctx.report_progress(0, 100)
    await asyncio.sleep(PAUSE)
    await ctx.report_progress(50, 100)
    await asyncio.sleep(PAUSE)
    await ctx.report_progress(100, 100)
    return "done"


@server.tool()
async def test_reconnection(ctx: Context) -> str:
    """Closes the connection in the middle of the call, and goes on."""
    await ctx.info("before")
    await ctx.close_sse_stream()
    await asyncio.sleep(PAUSE)
    return "came back"


# ---------------------------------------------------------------- tools that change what there is


def _short_lived() -> str:
    """Is there for a moment."""
    return "here"


@server.tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Adds a tool and removes it."""
    server.add_tool(_short_lived)
    server.remove_tool(_short_lived.__name__)
    await ctx.notify_tools_changed()
    return "changed"


@server.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Adds a prompt and removes it."""
    server.add_prompt(Prompt.from_function(_short_lived))
    server.remove_prompt(_short_lived.__name__)
    await ctx.notify_prompts_changed()
    return "changed"


# ---------------------------------------------------------------- tools that ask, in the handshake era


def _sampling_message(text: str) -> types.SamplingMessage:
    return types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))


def _text_of(result: types.CreateMessageResult) -> str:
    return result.content.text if isinstance(result.content, types.TextContent) else result.content.type


@server.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model."""
    result = await ctx.session.create_message(
        [_sampling_message(prompt)], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {_text_of(result)}"


async def _elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"action={answer.action}, content={content}"


class Account(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user."""
    return f"User response: {await _elicited(ctx, message, Account)}"


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


@server.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks the user, and proposes an answer."""
    return f"Elicitation completed: {await _elicited(ctx, 'Who are you?', Defaults)}"


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
    """Asks the user to choose."""
    return f"Elicitation completed: {await _elicited(ctx, 'What do you choose?', Choices)}"


# ---------------------------------------------------------------- tools that ask, in the stateless era


def _question(message: str, field: str, kind: str = "string") -> types.ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _prompt_for_model(text: str, max_tokens: int) -> types.CreateMessageRequest:
    params = types.CreateMessageRequestParams(messages=[_sampling_message(text)], max_tokens=max_tokens)
    return types.CreateMessageRequest(params=params)


def _answer(ctx: Context, key: str, field: str) -> Any:
    """Return a field of what the user answered; `None` where they did not, or not yet."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content.get(field) if isinstance(answer, types.ElicitResult) and answer.content else None


@server.tool()
async def test_input_required_result_elicitation(ctx: Context) -> str | types.InputRequiredResult:
    """Asks the user."""
    if name := _answer(ctx, "user_name", "name"):
        return f"Hello, {name}!"
    return types.InputRequiredResult(input_requests={"user_name": _question("What is your name?", "name")})


@server.tool()
async def test_streaming_elicitation(ctx: Context) -> str | types.InputRequiredResult:
    """Reports its progress, and asks the user."""
    await ctx.report_progress(1, 2)
    return await test_input_required_result_elicitation(ctx)


@server.tool()
async def test_input_required_result_sampling(ctx: Context) -> str | types.InputRequiredResult:
    """Asks the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, types.CreateMessageResult):
        return _text_of(answer)
    question = _prompt_for_model("What is the capital of France?", 100)
    return types.InputRequiredResult(input_requests={"capital_question": question})


@server.tool()
async def test_input_required_result_list_roots(ctx: Context) -> str | types.InputRequiredResult:
    """Asks for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, types.ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots)
    return types.InputRequiredResult(input_requests={"client_roots": types.ListRootsRequest()})


@server.tool()
async def test_input_required_result_multiple_inputs(ctx: Context) -> str | types.InputRequiredResult:
    """Asks for three things at once."""
    requests = {
        "user_name": _question("What is your name?", "name"),
        "greeting": _prompt_for_model("Generate a greeting", 50),
        "client_roots": types.ListRootsRequest(),
    }
    if ctx.request_state == "asked" and requests.keys() <= (ctx.input_responses or {}).keys():
        return "All answered."
    return types.InputRequiredResult(input_requests=requests, request_state="asked")


async def _confirm(ctx: Context) -> str | types.InputRequiredResult:
    if ctx.request_state == "asked" and _answer(ctx, "confirm", "ok") is not None:
        return "state-ok"
    confirm = _question("Please confirm", "ok", "boolean")
    return types.InputRequiredResult(input_requests={"confirm": confirm}, request_state="asked")


@server.tool()
async def test_input_required_result_request_state(ctx: Context) -> str | types.InputRequiredResult:
    """Asks, and has the client hold what it has to know then."""
    return await _confirm(ctx)


@server.tool()
async def test_input_required_result_tampered_state(ctx: Context) -> str | types.InputRequiredResult:
    """Asks, and the client changes what it holds."""
    return await _confirm(ctx)


@server.tool()
async def test_input_required_result_multi_round(ctx: Context) -> str | types.InputRequiredResult:
    """Asks twice, one after the other."""
    state: dict[str, Any] = json.loads(ctx.request_state or "{}")
    name = state.get("name") or _answer(ctx, "step1", "name")
    if name is None:
        question = _question("Step 1: What is your name?", "name")
        return types.InputRequiredResult(input_requests={"step1": question}, request_state=json.dumps({}))
    color = _answer(ctx, "step2", "color")
    if color is None:
        question = _question("Step 2: What is your favorite color?", "color")
        return types.InputRequiredResult(input_requests={"step2": question}, request_state=json.dumps({"name": name}))
    return f"{name} likes {color}."


@server.tool()
async def test_input_required_result_capabilities(ctx: Context) -> types.InputRequiredResult:
    """Asks for what the client can do, and nothing else."""
    able = ctx.client_capabilities or types.ClientCapabilities()
    requests: dict[str, types.InputRequest] = {}
    if able.sampling is not None:
        requests["line"] = _prompt_for_model("Say hello", 50)
    if able.elicitation is not None:
        requests["user_name"] = _question("What is your name?", "name")
    return types.InputRequiredResult(input_requests=requests, request_state="asked")


@server.tool()
async def test_missing_capability(ctx: Context) -> str:
    """Needs a client that has a model."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        needed = types.ClientCapabilities(sampling=types.SamplingCapability())
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "The client cannot sample",
            {"requiredCapabilities": needed.model_dump(by_alias=True, exclude_none=True)},
        )
    return "The client can sample."


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
    """A text that clients subscribe to."""
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
    if context := _answer(ctx, "user_context", "context"):
        return f"Keep in mind: {context}"
    question = _question("What context should the prompt use?", "context")
    return types.InputRequiredResult(input_requests={"user_context": question})


@server.completion()
async def complete(ref: Any, argument: types.CompletionArgument, context: Any) -> types.Completion:
    """Completes the arguments of prompts."""
    cities = [city for city in ("paris", "park", "party") if city.startswith(argument.value)]
    return types.Completion(values=cities, total=len(cities), has_more=False)


# ---------------------------------------------------------------- what an MCPServer has no decorator for


async def _set_level(ctx: ServerRequestContext, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def _subscribe(ctx: ServerRequestContext, params: types.SubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def _unsubscribe(ctx: ServerRequestContext, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


server.streamable_http_app()  # the documented way to the low-level server: its session manager has it
_low_level = server.session_manager.app
_low_level.add_request_handler("logging/setLevel", types.SetLevelRequestParams, _set_level)
_low_level.add_request_handler("resources/subscribe", types.SubscribeRequestParams, _subscribe)
_low_level.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, _unsubscribe)
