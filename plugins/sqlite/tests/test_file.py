"""The file of the store: how it is created, files of other applications, and files that disappear."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def enter_refused(path, make_store, read_folder):
    """Return a function that enters a store, checks that it fails and changes nothing, and returns the message."""

    async def enter():
        before = read_folder(path.parent)
        with pytest.raises(StoreUnavailable) as caught:
            await make_store().__aenter__()
        assert read_folder(path.parent) == before
        assert [thread.name for thread in threading.enumerate() if "sqlite" in thread.name] == []
        assert str(path) in str(caught.value)
        return str(caught.value)

    return enter


# Creating the file


async def test_the_files_can_be_read_by_their_owner_only(store, make_session, tmp_path):
    before = os.umask(0)
    try:
        async with sqlite_store(f"sqlite:///{tmp_path}/another.db", {}, store._clock) as another:
            await another.create(make_session())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("another*")}
    finally:
        os.umask(before)
    assert modes == {"another.db": 0o600, "another.db-wal": 0o600, "another.db-shm": 0o600}


async def test_an_existing_empty_file_keeps_its_permissions(path, make_store, make_session):
    path.touch(0o640)
    async with make_store() as store:
        await store.create(make_session())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_closing_leaves_only_the_database_file_and_no_threads(make_store, make_session, path):
    threads = threading.enumerate()
    async with make_store() as store:
        await store.create(make_session())
        await store.wait("@p", None, 0)
    assert list(path.parent.iterdir()) == [path]
    assert threading.enumerate() == threads
    if os.path.isdir("/proc/self/fd"):
        assert [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(path) in link] == []


async def test_closing_a_store_keeps_the_locks_of_another_store_in_this_process(make_store, make_session, path):
    """POSIX releases all locks of a process on a file when the process closes any descriptor of that file."""
    async with make_store() as remaining:
        async with make_store():
            pass
        # If the locks were gone, the process below would take itself for the last user and remove the -wal file.
        script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM leases'); c.close()"
        subprocess.run([sys.executable, "-c", script, path], check=True)
        await remaining.create(make_session())
        async with make_store() as later:
            assert await later.get("key-0001") == make_session()


# Files of other applications


@pytest.mark.parametrize(
    "content", [b"just a text\n", b"\n", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(4080), os.urandom(10_000)]
)
async def test_a_file_that_is_not_a_database_is_refused_and_unchanged(path, enter_refused, content):
    path.write_bytes(content)
    assert "name another file" in await enter_refused()


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)",
        "CREATE TABLE sessions (key TEXT)",
        "PRAGMA application_id = 1; CREATE TABLE theirs (a)",
        "PRAGMA user_version = 2; CREATE TABLE theirs (a)",
        "PRAGMA journal_mode = WAL; CREATE TABLE theirs (a)",
        "CREATE TABLE theirs (a); DROP TABLE theirs",
    ],
)
async def test_a_database_of_another_application_is_refused_and_unchanged(path, enter_refused, script):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    assert "another application" in await enter_refused()


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_the_journal_of_another_application_is_not_applied(path, enter_refused, tmp_path_factory, mode):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with closing(sqlite3.connect(elsewhere / "sessions.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        for number in range(100):
            connection.execute("INSERT INTO theirs VALUES (?)", (str(number) * 5000,))
        if mode == "WAL":
            connection.execute("COMMIT")
        for file in elsewhere.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, path.parent)
    assert len(list(path.parent.iterdir())) == 2, "there is a journal"
    assert "another application" in await enter_refused()


async def test_a_folder_is_refused(path, enter_refused):
    path.mkdir()
    assert "name another" in await enter_refused()


async def test_a_pipe_is_refused(path, make_store):
    os.mkfifo(path)
    with pytest.raises(StoreUnavailable):
        await make_store().__aenter__()
    assert stat.S_ISFIFO(path.stat().st_mode)


async def test_a_missing_folder_is_named_and_not_created(tmp_path, clock):
    with pytest.raises(StoreUnavailable, match=f"no folder {tmp_path}/missing: make it"):
        await sqlite_store(f"sqlite:///{tmp_path}/missing/sessions.db", {}, clock).__aenter__()
    assert list(tmp_path.iterdir()) == []


async def test_a_file_in_the_place_of_the_folder_is_refused_and_unchanged(tmp_path, clock):
    (tmp_path / "file").write_text("a text")
    with pytest.raises(StoreUnavailable):
        await sqlite_store(f"sqlite:///{tmp_path}/file/sessions.db", {}, clock).__aenter__()
    assert (tmp_path / "file").read_text() == "a text"


@pytest.fixture
def public_folder():
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def unprivileged():
    """Run the test as a user without privileges, because root ignores permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def private_file(public_folder):
    """A file that every user can read and nobody can write."""
    file = public_folder / "sessions.db"
    file.touch()
    file.chmod(0o444)
    return file


async def test_a_file_without_write_permission_is_refused_with_the_reason(private_file, unprivileged, clock):
    with pytest.raises(StoreUnavailable, match="allowed to read and write"):
        await sqlite_store(f"sqlite:///{private_file}", {}, clock).__aenter__()
    assert private_file.read_bytes() == b""


async def test_a_folder_without_write_permission_is_refused_with_the_reason(public_folder, unprivileged, clock):
    if os.geteuid() == public_folder.stat().st_uid:
        public_folder.chmod(0o555)
    with pytest.raises(StoreUnavailable, match="allowed to read and write"):
        await sqlite_store(f"sqlite:///{public_folder}/sessions.db", {}, clock).__aenter__()
    assert list(public_folder.iterdir()) == []


# Files that disappear or are replaced


async def test_a_file_that_disappears_is_reported_and_not_created_again(store, make_session, path, tmp_path):
    await store.create(make_session())
    path.rename(tmp_path / "elsewhere")
    for operation in (store.get("key-0001"), store.delete("key-0001"), store.wait("@p", None, 0)):
        with pytest.raises(StoreUnavailable, match="not where it was"):
            await operation
    assert not path.exists()
    (tmp_path / "elsewhere").rename(path)
    assert await store.get("key-0001") == make_session()
    assert await store.delete("key-0001") is True


async def test_a_backup_that_replaces_the_file_is_used(make_store, make_session, start_waiting, path, tmp_path):
    async with make_store() as store:
        await store.create(make_session(key="in the backup"))
    backup = tmp_path / "backup"
    shutil.copy(path, backup)
    async with make_store() as store:
        await store.create(make_session(key="later"))
        waiting = await start_waiting(store, "@p")
        for file in tmp_path.glob("sessions.db*"):
            file.unlink()
        backup.rename(path)
        assert await store.get("later") is None
        assert await store.get("in the backup") is not None
        await store.create(make_session(key="after"))
        async with make_store() as another:
            await another.append("@p", "s", {})
        assert await waiting is True, "woken, not timed out"
    async with make_store() as store:
        assert [session.key for session in await store.page(None, 10)] == ["after", "in the backup"]


async def test_a_backup_beside_the_wal_file_of_the_replaced_database_is_refused_and_unchanged(
    make_store, make_session, path, tmp_path
):
    """SQLite would apply the -wal file of the replaced database to the backup."""
    async with make_store() as store:
        await store.create(make_session(key="in the backup"))
    backup = tmp_path / "backup"
    shutil.copy(path, backup)
    content = backup.read_bytes()
    async with make_store() as store:
        await store.create(make_session(key="later"))
        backup.replace(path)
        for operation in (store.get("later"), store.create(make_session(key="more")), store.ping()):
            with pytest.raises(StoreUnavailable, match=r"sessions\.db-wal belongs to the one before"):
                await operation
        assert path.read_bytes() == content


async def test_a_text_file_that_replaces_the_database_is_refused_and_unchanged(store, make_session, path):
    for file in path.parent.iterdir():
        file.unlink()
    path.write_text("a text")
    for operation in (store.get("key-0001"), store.create(make_session())):
        with pytest.raises(StoreUnavailable, match="not an SQLite database"):
            await operation
    assert path.read_text() == "a text"
