"""Runs the clients of a run; each follows a script that is drawn from its own random generator.

The same seed gives the same scripts again.
"""

from __future__ import annotations

import asyncio
import warnings
from random import Random

from mcp.shared.exceptions import MCPDeprecationWarning

from tests.chaos.client_context import ClientContext
from tests.chaos.plain_client import PlainClient
from tests.chaos.sdk_client import SDKClient


async def run_clients(context: ClientContext, random: Random, number: int) -> None:
    """Run this number of clients, a fifth of them plain ones, until `context.stop` is set and all have finished."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        async with asyncio.TaskGroup() as tasks:
            for index in range(number):
                kind = PlainClient if index % 5 == 4 else SDKClient
                tasks.create_task(kind(context, Random(random.getrandbits(64))).run())
