"""A program that appends events to a key and prints the id of each acknowledged one."""

import asyncio
import sys

from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.sessions import system_clock


async def main(url, driver, key, name, count):
    async with mongodb_store(url, {"driver": driver}, system_clock) as store:
        for number in range(int(count)):
            print(await store.append(key, name, {"from": name, "n": number}), flush=True)


asyncio.run(main(*sys.argv[1:]))
