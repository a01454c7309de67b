"""The stores that the processes share, and how each becomes unreachable for some seconds."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests.chaos.processes import free_port, wait_until
from tests.chaos.proxy import HOST


class Store(Protocol):
    """A store under test."""

    @property
    def url(self) -> str:
        """The URL that the processes get."""
        ...

    async def start(self) -> None:
        """Start the server of the store, if it has one, and return when it is ready."""
        ...

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        """Make the store unreachable for some seconds; `hard` kills its server instead of stopping it."""
        ...

    def close(self) -> None:
        """Stop the server of the store, if it has one."""
        ...


class RedisStore:
    """A redis-server that syncs each change to disk before it acknowledges it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self._port}"

    async def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not on the PATH: apt-get install redis-server")
        options = ("--bind", HOST, "--port", str(self._port), "--dir", str(self._directory))
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([program, *options, *durable], stdout=log, stderr=log)
        await wait_until(self._is_listening, "redis-server listens")

    def _is_listening(self) -> bool:
        try:
            socket.create_connection((HOST, self._port), timeout=1).close()
        except OSError:
            return False
        return True

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        await wait_until(lambda: process.poll() is not None, "redis-server has ended")
        await asyncio.sleep(seconds)
        await self.start()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class SQLiteStore:
    """A database file. It has no server to stop: its outage is an exclusive lock of another connection."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sessions.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    async def start(self) -> None:
        """Do nothing: the first process creates the file."""

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        await asyncio.to_thread(self._lock, seconds)

    def _lock(self, seconds: float) -> None:
        with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                time.sleep(seconds)
            finally:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Do nothing: the file is deleted with its directory."""


STORES = {"redis": RedisStore, "sqlite": SQLiteStore}
