"""The SDK's own client, and callbacks for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.integration.server_process import Server
from tests.integration.waiting import DEADLINE_SECONDS


@asynccontextmanager
async def connect_to(server: Server, mode: str, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect a client: `mode` is `legacy` for the handshake era, a revision of the stateless era, or `auto`."""
    with anyio.fail_after(2 * DEADLINE_SECONDS):
        async with Client(server.url, mode=mode, read_timeout_seconds=DEADLINE_SECONDS, **callbacks) as client:
            yield client


def result_text(result: types.CallToolResult) -> str:
    """Return the first text of a result, which must be no error."""
    assert not result.is_error, result
    content = result.content[0]
    assert isinstance(content, types.TextContent)
    return content.text


async def failure_text(call: Awaitable[types.CallToolResult]) -> str:
    """Return the text of the failure of a call, which may be a result or an error."""
    try:
        result = await call
    except MCPError as error:
        return f"{error} {error.error.data}"
    assert result.is_error, result
    return str(result.content)


class Inbox:
    """A message handler that collects the notifications of a client."""

    def __init__(self) -> None:
        self.notifications: list[Any] = []
        self._changed = anyio.Event()

    async def __call__(self, message: Any) -> None:
        assert not isinstance(message, Exception), message
        self.notifications.append(message)
        self._changed.set()
        self._changed = anyio.Event()

    def methods(self) -> list[str]:
        return [notification.method for notification in self.notifications]

    async def wait_for(self, *methods: str) -> None:
        """Wait until there is a notification of each of these methods."""
        await self._wait_until(lambda: set(methods) <= set(self.methods()), f"notifications {methods}")

    async def wait_for_count(self, number: int) -> None:
        """Wait until there are at least this many notifications."""
        await self._wait_until(lambda: len(self.notifications) >= number, f"{number} notifications")

    async def _wait_until(self, condition: Callable[[], bool], expected: str) -> None:
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"expected {expected}, got {self.methods()}") from None


def elicitation_callback(action: str, name: str = "Ada") -> Any:
    """Return a callback that answers each question with this action and, if it accepts, with this name."""

    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        content: Any = {"name": name} if action == "accept" else None
        return types.ElicitResult(action=action, content=content)  # pyright: ignore

    return answer


async def repeat_question_number(context: Any, params: Any) -> types.ElicitResult:
    """Answer `question 3` with the name `3`."""
    return types.ElicitResult(action="accept", content={"name": params.message.removeprefix("question ")})


async def answer_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle", stop_reason="endTurn")


async def answer_roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///a"), types.Root(uri="file:///b")])  # pyright: ignore
