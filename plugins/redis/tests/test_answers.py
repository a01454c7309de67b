"""Errors of the server: the message for the operator, and that the store works again when the cause is gone."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t"


async def enter(url, clock):
    async with redis_store(url, {}, clock):
        pass


@pytest.mark.parametrize("credentials", ["", f"x:{SECRET}@", f":{SECRET}@", f"default:{SECRET}@"])
async def test_a_refused_login_names_what_to_check_and_no_password(start_server, clock, credentials):
    server = start_server("--requirepass", "another")
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port} refuses the login: .*password") as caught:
        await enter(f"redis://{credentials}127.0.0.1:{server.port}", clock)
    assert SECRET not in str(caught.value)
    await enter(f"redis://:another@127.0.0.1:{server.port}", clock)


async def test_a_password_for_a_server_without_one_is_reported(server, clock):
    with pytest.raises(StoreUnavailable, match="refuses the login"):
        await enter(f"redis://:{SECRET}@127.0.0.1:{server.port}", clock)


async def test_an_address_where_no_server_listens_is_named(clock):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} does not answer .*is it running") as caught:
        await enter(f"redis://user:{SECRET}@127.0.0.1:{port}", clock)
    assert SECRET not in str(caught.value)


async def test_an_unknown_host_name_is_named(clock):
    with pytest.raises(StoreUnavailable, match=r"redis\.invalid does not answer"):
        await enter("redis://redis.invalid", clock)


async def test_a_database_that_the_server_does_not_have_is_reported(server, clock):
    with pytest.raises(StoreUnavailable, match="has no database with the number"):
        await enter(f"{server.url}/999", clock)


async def test_a_cluster_is_refused(start_server, clock):
    server = start_server("--cluster-enabled", "yes")
    with pytest.raises(StoreUnavailable, match="runs as a cluster"):
        await enter(server.url, clock)


async def test_a_cluster_that_denies_info_is_refused(start_server, clock):
    server = start_server("--cluster-enabled", "yes")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
    with pytest.raises(StoreUnavailable, match="is a Redis Cluster"):
        await enter(server.url, clock)


async def test_a_server_that_is_too_old_is_refused(clock):
    async def answer(reader, writer):
        while request := await reader.read(1000):
            writer.write(b"-ERR unknown\r\n" * request.count(b"SETINFO"))
            if b"$4\r\nINFO\r\n" in request:
                writer.write(b"$22\r\nredis_version:6.2.14\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as old:
        port = old.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable, match=r"has the version 6: .* needs 7\.0 or newer"):
            await enter(f"redis://127.0.0.1:{port}", clock)


@pytest.mark.parametrize("change", ["?ssl_ca_certs=/no/such/file", "?client_name=x"])
async def test_a_certificate_of_an_unknown_authority_is_reported(tls_server, clock, change):
    with pytest.raises(StoreUnavailable, match="check its certificate, ssl_ca_certs"):
        await enter(f"rediss://localhost:{tls_server.port}{change}", clock)


async def test_a_certificate_for_another_host_is_reported(tls_server, clock):
    with pytest.raises(StoreUnavailable, match="check its certificate"):
        await enter(tls_server.url.replace("localhost", "127.0.0.1"), clock)


async def test_a_replica_is_reported_until_it_is_the_primary(server, store, make_session):
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(StoreUnavailable, match=r"is a replica.*must name the primary"):
                await store.create(make_session())
            client.config_set("replica-serve-stale-data", "no")
            with pytest.raises(StoreUnavailable, match="is a replica that has lost its primary"):
                await store.count()
        finally:
            client.config_set("replica-serve-stale-data", "yes")
            client.replicaof("NO", "ONE")
    await store.create(make_session())


async def test_a_server_out_of_memory_is_reported_and_no_write_is_done_in_part(server, store, make_session, clock):
    await store.create(make_session())
    with server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            for write in (
                store.create(make_session("key-0002", principal="someone")),
                store.touch("key-0001", clock(), clock() + timedelta(seconds=200)),
                store.update("key-0001", {"state": {}}, 0),
                store.append("key-0001", "get", {}),
                store.append("@p", "get", {}),
                store.claim("lease", "me", 10),
            ):
                with pytest.raises(StoreUnavailable, match="out of memory: raise maxmemory"):
                    await write
            assert await store.get("key-0001") == make_session()
            assert await store.count("someone") == 0
        finally:
            client.config_set("maxmemory", "0")
    await store.create(make_session("key-0002", principal="someone"))
    assert await store.append("key-0001", "get", {}) == (await store.read("key-0001", None))[0].id
    assert await store.count() == 2


async def test_a_server_out_of_memory_can_delete_and_sweep(server, store, make_session, clock):
    await store.create(make_session())
    await store.create(make_session("key-0002"))
    with server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            assert await store.delete("key-0001") is True
            clock.advance(100)
            assert await store.sweep(clock(), 10) == 1
        finally:
            client.config_set("maxmemory", "0")


async def test_a_server_with_too_few_replicas_is_reported(server, store, make_session):
    with server.client() as client:
        client.config_set("min-replicas-to-write", "1")
        try:
            with pytest.raises(StoreUnavailable, match="fewer replicas than its configuration demands"):
                await store.create(make_session())
        finally:
            client.config_set("min-replicas-to-write", "0")
    await store.create(make_session())


async def test_a_server_that_loads_its_data_is_reported(start_server, clock, make_session, retry_until_available):
    server = start_server()
    async with redis_store(server.url, {}, clock) as store:
        await store.create(make_session())
        with server.client() as client, client.pipeline(transaction=False) as pipeline:
            for number in range(60_000):
                pipeline.hset("other", str(number), "x")
            pipeline.execute()
        server.kill()
        server.start("--key-load-delay", "200")
        with pytest.raises(StoreUnavailable, match="is still loading its data"):
            await store.ping()
        with pytest.raises(StoreUnavailable, match="is still loading its data"):
            await enter(server.url, clock)
        server.kill()
        server.start()
        assert await retry_until_available(lambda: store.get("key-0001")) == make_session()


async def test_the_rights_that_the_readme_lists_are_sufficient(server, clock, make_session):
    rights = "~mcp-tornado:* &mcp-tornado:* +@read +@write +@connection +eval +evalsha +publish +subscribe +info"
    url = f"redis://limited:{SECRET}@127.0.0.1:{server.port}"
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", f">{SECRET}", *rights.split())
        try:
            async with redis_store(url, {}, clock) as store:
                await store.create(make_session(principal="someone"))
                assert await store.touch("key-0001", clock(), clock() + timedelta(seconds=200)) is True
                await store.update("key-0001", {"principal": None}, 0)
                await store.append("key-0001", "get", {}, final=True)
                assert await store.wait("key-0001", None, 0) is True
                assert len(await store.read("key-0001", None)) == await store.count() == 1
                assert await store.claim("lease", "me", 1) is True
                await store.release("lease", "me")
                assert [session.key for session in await store.page(None, 10)] == ["key-0001"]
                assert await store.sweep(clock.advance(200), 10) == 1
                assert await store.delete("key-0001") is False
            client.execute_command("ACL", "SETUSER", "limited", "resetchannels")
            with pytest.raises(StoreUnavailable, match=r"does not permit this to the user.*README"):
                await enter(url, clock)
            client.execute_command("ACL", "SETUSER", "limited", "allchannels", "-evalsha")
            with pytest.raises(StoreUnavailable, match=r"does not permit this to the user.*README"):
                await enter(url, clock)
        finally:
            client.acl_deluser("limited")
