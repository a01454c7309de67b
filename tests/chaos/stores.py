"""The stores that processes share, and how each of them goes away for a while and comes back."""

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
    """A store as the suite handles it."""

    @property
    def url(self) -> str:
        """What the processes are told."""
        ...

    async def start(self) -> None:
        """Make it ready."""
        ...

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        """Take it away for a while; `hard` where it gets no chance to say goodbye, if that makes a difference."""
        ...

    def end(self) -> None:
        """Leave nothing behind."""
        ...


class RedisStore:
    """A redis-server that writes down every change before it acknowledges it."""

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
        where = ("--bind", HOST, "--port", str(self._port), "--dir", str(self._directory))
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([program, *where, *durable], stdout=log, stderr=log)
        await wait_until(self._listens, "redis-server listening")

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self._port), timeout=1).close()
        except OSError:
            return False
        return True

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        await wait_until(lambda: process.poll() is not None, "the end of redis-server")
        await asyncio.sleep(seconds)
        await self.start()

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class SQLiteStore:
    """A database in a file. It has no server that could be restarted: its outage is a lock that somebody holds."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sessions.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    async def start(self) -> None:
        """Do nothing: the first process makes the file."""

    async def interrupt(self, seconds: float, *, hard: bool) -> None:
        await asyncio.to_thread(self._lock, seconds)

    def _lock(self, seconds: float) -> None:
        with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                time.sleep(seconds)  # nobody can write meanwhile
            finally:
                connection.execute("ROLLBACK")

    def end(self) -> None:
        """Do nothing: the file goes with its directory."""


STORES = {"redis": RedisStore, "sqlite": SQLiteStore}
