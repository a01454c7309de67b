"""Tools that ask the client in the stateless era: their results require input, and the client sends it in a new round.

`server.py` registers them. It imports this module by its plain name, because the directory of a served file is on the
import path.
"""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import json
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError


def sampling_message(text: str) -> types.SamplingMessage:
    return types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))


def sampled_text(result: types.CreateMessageResult) -> str:
    return result.content.text if isinstance(result.content, types.TextContent) else result.content.type


def question(message: str, field: str, kind: str = "string") -> types.ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling_request(text: str, max_tokens: int) -> types.CreateMessageRequest:
    params = types.CreateMessageRequestParams(messages=[sampling_message(text)], max_tokens=max_tokens)
    return types.CreateMessageRequest(params=params)


def read_answer(ctx: Context, key: str, field: str) -> Any:
    """Return a field of the user's answer; `None` if there is no answer, or none yet."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content.get(field) if isinstance(answer, types.ElicitResult) and answer.content else None


async def test_input_required_result_elicitation(ctx: Context) -> str | types.InputRequiredResult:
    """Ask the user."""
    if name := read_answer(ctx, "user_name", "name"):
        return f"Hello, {name}!"
    return types.InputRequiredResult(input_requests={"user_name": question("What is your name?", "name")})


async def test_streaming_elicitation(ctx: Context) -> str | types.InputRequiredResult:
    """Report progress, and ask the user."""
    await ctx.report_progress(1, 2)
    return await test_input_required_result_elicitation(ctx)


async def test_input_required_result_sampling(ctx: Context) -> str | types.InputRequiredResult:
    """Ask the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, types.CreateMessageResult):
        return sampled_text(answer)
    requests = {"capital_question": sampling_request("What is the capital of France?", 100)}
    return types.InputRequiredResult(input_requests=requests)


async def test_input_required_result_list_roots(ctx: Context) -> str | types.InputRequiredResult:
    """Ask for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, types.ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots)
    return types.InputRequiredResult(input_requests={"client_roots": types.ListRootsRequest()})


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | types.InputRequiredResult:
    """Ask three questions at once."""
    requests = {
        "user_name": question("What is your name?", "name"),
        "greeting": sampling_request("Generate a greeting", 50),
        "client_roots": types.ListRootsRequest(),
    }
    if ctx.request_state == "asked" and requests.keys() <= (ctx.input_responses or {}).keys():
        return "All answered."
    return types.InputRequiredResult(input_requests=requests, request_state="asked")


async def _confirm(ctx: Context) -> str | types.InputRequiredResult:
    if ctx.request_state == "asked" and read_answer(ctx, "confirm", "ok") is not None:
        return "state-ok"
    confirm = question("Please confirm", "ok", "boolean")
    return types.InputRequiredResult(input_requests={"confirm": confirm}, request_state="asked")


async def test_input_required_result_request_state(ctx: Context) -> str | types.InputRequiredResult:
    """Ask, and let the client hold the state of the call."""
    return await _confirm(ctx)


async def test_input_required_result_tampered_state(ctx: Context) -> str | types.InputRequiredResult:
    """Ask, and let the client hold the state of the call, which the suite modifies."""
    return await _confirm(ctx)


async def test_input_required_result_multi_round(ctx: Context) -> str | types.InputRequiredResult:
    """Ask two questions, one after the other."""
    state: dict[str, Any] = json.loads(ctx.request_state or "{}")
    name = state.get("name") or read_answer(ctx, "step1", "name")
    if name is None:
        requests = {"step1": question("Step 1: What is your name?", "name")}
        return types.InputRequiredResult(input_requests=requests, request_state=json.dumps({}))
    color = read_answer(ctx, "step2", "color")
    if color is None:
        requests = {"step2": question("Step 2: What is your favorite color?", "color")}
        return types.InputRequiredResult(input_requests=requests, request_state=json.dumps({"name": name}))
    return f"{name} likes {color}."


async def test_input_required_result_capabilities(ctx: Context) -> types.InputRequiredResult:
    """Ask only questions for which the client has the capability."""
    capabilities = ctx.client_capabilities or types.ClientCapabilities()
    requests: dict[str, types.InputRequest] = {}
    if capabilities.sampling is not None:
        requests["line"] = sampling_request("Say hello", 50)
    if capabilities.elicitation is not None:
        requests["user_name"] = question("What is your name?", "name")
    return types.InputRequiredResult(input_requests=requests, request_state="asked")


async def test_missing_capability(ctx: Context) -> str:
    """Refuse a client that cannot sample."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        needed = types.ClientCapabilities(sampling=types.SamplingCapability())
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "The client cannot sample",
            {"requiredCapabilities": needed.model_dump(by_alias=True, exclude_none=True)},
        )
    return "The client can sample."


INPUT_REQUIRED_TOOLS = [
    test_input_required_result_elicitation,
    test_streaming_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_multiple_inputs,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
    test_missing_capability,
]
