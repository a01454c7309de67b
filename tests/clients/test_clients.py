"""Third-party clients, each run as a program; a load balancer sends their requests to several processes in turn.

`make test` runs the TypeScript clients, `make clients` runs all of them.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos.proxy import Proxy
from tests.clients.running import (
    assert_spread,
    open_gates,
    run_client,
    run_client_during,
    run_program,
    server_of,
    wait_for_call,
    wait_for_resumption,
)
from tests.conftest import DID_NOT_RUN
from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import ports_of
from tests.integration.wire import LATEST, STATELESS, error_code, open_wire
from tests.javascript import tools as javascript

HERE: Final = Path(__file__).parent
SDK_1: Final = HERE.parents[1] / ".venv-mcp1"
"""The virtual environment of the SDK 1.x, which cannot be installed together with 2.x."""

pytestmark = pytest.mark.anyio
only_in_make_clients = pytest.mark.more_clients

Command = Callable[[], list[str]]
"""Returns the command that starts a client, or skips the test if the client is not installed."""


def python(program: str, *arguments: str) -> Command:
    return lambda: [sys.executable, str(HERE / program), *arguments]


def python_v1() -> list[str]:
    if not (SDK_1 / ".installed").exists():
        pytest.skip(f"{DID_NOT_RUN}the Python SDK 1.x is not installed (make clients does it)")
    return [str(SDK_1 / "bin" / "python"), str(HERE / "python_v1.py")]


def typescript(program: str, *arguments: str) -> Command:
    def command() -> list[str]:
        javascript.require()
        return javascript.node(javascript.DIRECTORY / program, *arguments)

    return command


def inspector(*arguments: str) -> list[str]:
    javascript.require()
    return javascript.program("mcp-inspector", "--cli", "--format", "json", *arguments)


# ---------------------------------------------------------------- the servers


# On a busy machine, Redis may not answer in time. The results of the clients must be the same nevertheless.
run_cluster_of_app = partial(run_cluster, "redis", app=f"{HERE / 'app.py'}:server", expected_errors=["store.error"])


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with run_cluster_of_app() as cluster:
        yield cluster


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncGenerator[Proxy]:
    async with Proxy(ports_of(cluster)) as proxy:
        yield proxy
    print(*proxy.records, sep="\n")  # pytest shows this if the test fails


# ---------------------------------------------------------------- results of the clients

TOOLS: Final = ["weather", "count", "greet", "quote", "change", "publish", "reconnect", "wait"]
FEATURES: Final[dict[str, Any]] = {
    "tools": TOOLS,
    "weather": {"city": "Ulm", "celsius": 21.5},
    "counted": "counted",
    "progress": [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]],
    "logs": ["at 1", "at 2", "at 3"],
    "prompts": ["introduce"],
    "prompt": "Introduce Ada.",
    "completed": ["Ada", "Alan"],
    "resources": ["memo://greeting"],
    "templates": ["memo://{author}/notes"],
    "greeting": "Grüß Gott",
    "notes": "notes by ada",
    "greeted": "Hello Ada",
    "quoted": "oracle says ho ho",
}
BROKEN_CALLS: Final = {
    "reconnect": ["before", "while away", "after", "reconnected"],
    "wait": ["before", "after", "waited"],
}
"""The log messages and the result of calls whose streams break: nothing is lost, and nothing comes twice."""


def session_results(subscribes: bool) -> dict[str, Any]:
    """Return the results of a client in a session."""
    changes = ["tools", "memo://ada/notes"] if subscribes else ["tools"]
    return {"revision": LATEST, **FEATURES, **BROKEN_CALLS, "changes": changes, "changes later": changes}


async def finish_closed_call(cluster: Cluster, proxy: Proxy) -> None:
    """Let the call whose stream the server closes finish, after the client has reconnected."""
    call = await wait_for_call(proxy, "reconnect")
    await wait_for_resumption(proxy, call)
    open_gates(cluster, call)


async def finish_broken_call(cluster: Cluster, proxy: Proxy) -> None:
    """Break the connections during a call, and let the call finish after the client has reconnected."""
    call = await wait_for_call(proxy, "wait")
    proxy.break_connections()
    await wait_for_resumption(proxy, call)
    open_gates(cluster, call)


async def finish_both_calls(cluster: Cluster, proxy: Proxy) -> None:
    await finish_closed_call(cluster, proxy)
    await finish_broken_call(cluster, proxy)


async def drain_and_finish_both_calls(cluster: Cluster, proxy: Proxy) -> None:
    """Do the same, and drain the process that runs the first call."""
    call = await wait_for_call(proxy, "reconnect")
    await wait_for_resumption(proxy, call)
    draining = server_of(cluster, call)
    draining.send_signal()
    await draining.wait_until_logged("server.draining")
    open_gates(cluster, call)
    assert await draining.wait_for_exit() == 0
    await finish_broken_call(cluster, proxy)


IN_SESSIONS: Final = [
    pytest.param(python("python_v2.py", "legacy"), True, marks=only_in_make_clients, id="python-v2"),
    pytest.param(python_v1, True, marks=only_in_make_clients, id="python-v1"),
    pytest.param(python("fastmcp_client.py", "legacy"), False, marks=only_in_make_clients, id="fastmcp"),
    pytest.param(typescript("client_v1.mjs"), True, id="typescript-v1"),
    pytest.param(typescript("client_v2.mjs", "legacy"), True, id="typescript-v2"),
]
"""Clients of the handshake era, and whether each can subscribe to a resource."""


@pytest.mark.parametrize(("command", "subscribes"), IN_SESSIONS)
async def test_a_client_uses_a_session(
    cluster: Cluster, proxy: Proxy, tmp_path: Path, command: Command, subscribes: bool
) -> None:
    """The client uses every feature, and reconnects when its streams break."""
    results = await run_client_during([*command(), proxy.url], tmp_path, partial(finish_both_calls, cluster, proxy))
    assert results == session_results(subscribes)
    assert_spread(cluster, proxy)

    # The client has ended its only session, so every process refuses it.
    (session,) = {each.new_session for each in proxy.records if each.new_session is not None}
    for server in cluster.servers:
        async with open_wire(server) as wire:
            response = await wire.post(wire.request("ping"), Mcp_Session_Id=session)
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")


@only_in_make_clients
@pytest.mark.parametrize(("command", "subscribes"), IN_SESSIONS)
async def test_a_client_loses_nothing_when_a_process_drains(tmp_path: Path, command: Command, subscribes: bool) -> None:
    start = command()
    with run_cluster_of_app() as cluster:
        async with Proxy(ports_of(cluster)) as proxy:
            action = partial(drain_and_finish_both_calls, cluster, proxy)
            results = await run_client_during([*start, proxy.url], tmp_path, action)
        assert results == session_results(subscribes)
        assert_spread(cluster, proxy)


@pytest.mark.parametrize(
    ("command", "subscribes"),
    [
        pytest.param(python("python_v2.py", STATELESS), True, marks=only_in_make_clients, id="python-v2"),
        pytest.param(python("python_v2.py", "auto"), True, marks=only_in_make_clients, id="python-v2-auto"),
        pytest.param(python("fastmcp_client.py", STATELESS), False, marks=only_in_make_clients, id="fastmcp"),
        pytest.param(python("fastmcp_client.py", "auto"), False, marks=only_in_make_clients, id="fastmcp-auto"),
        pytest.param(typescript("client_v2.mjs", STATELESS), True, id="typescript-v2"),
        pytest.param(typescript("client_v2.mjs", "auto"), True, marks=only_in_make_clients, id="typescript-v2-auto"),
    ],
)
async def test_a_client_uses_the_stateless_era(
    cluster: Cluster, proxy: Proxy, tmp_path: Path, command: Command, subscribes: bool
) -> None:
    """The client uses every feature; `subscribes` is whether it can subscribe to changes."""
    results = await run_client([*command(), proxy.url], tmp_path)
    changes = {"notified": ["mine", "tools"]} if subscribes else {}
    assert results == {"revision": STATELESS, **FEATURES, **changes}
    assert_spread(cluster, proxy)
    assert all(each.session is None and each.new_session is None for each in proxy.records)


# ---------------------------------------------------------------- the Inspector


@only_in_make_clients
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_uses_every_request(cluster: Cluster, proxy: Proxy, tmp_path: Path, era: str) -> None:
    """The Inspector sends one request each time that it is started, and cannot answer questions."""
    at_proxy = ["--server-url", proxy.url, "--transport", "http", "--protocol-era", era]

    def inspect(method: str, *arguments: str) -> list[str]:
        return inspector(*at_proxy, "--method", method, *arguments)

    async def result_of(method: str, *arguments: str) -> Any:
        return (await run_client(inspect(method, *arguments), tmp_path))["result"]

    revision = (await result_of("initialize"))["protocolVersion"]
    assert revision == (LATEST if era == "legacy" else STATELESS)
    assert [tool["name"] for tool in (await result_of("tools/list"))["tools"]] == TOOLS
    weather = await result_of("tools/call", "--tool-name", "weather", "--tool-arg", "city=Ulm")
    assert weather["structuredContent"] == FEATURES["weather"]
    counted = await result_of("tools/call", "--tool-name", "count", "--tool-arg", "steps=3")
    assert counted["content"][0]["text"] == "counted"
    assert [prompt["name"] for prompt in (await result_of("prompts/list"))["prompts"]] == FEATURES["prompts"]
    prompt = await result_of("prompts/get", "--prompt-name", "introduce", "--prompt-args", "name=Ada")
    assert prompt["messages"][0]["content"]["text"] == FEATURES["prompt"]
    assert [resource["uri"] for resource in (await result_of("resources/list"))["resources"]] == FEATURES["resources"]
    templates = (await result_of("resources/templates/list"))["resourceTemplates"]
    assert [template["uriTemplate"] for template in templates] == FEATURES["templates"]
    notes = await result_of("resources/read", "--uri", "memo://ada/notes")
    assert notes["contents"][0]["text"] == FEATURES["notes"]

    failed = await run_program(inspect("tools/call", "--tool-name", "greet"), tmp_path)
    assert failed.returncode != 0
    assert "did not declare the form elicitation capability" in failed.stderr.decode()

    if era == "legacy":
        for tool, finish_call in (("reconnect", finish_closed_call), ("wait", finish_broken_call)):
            call = inspect("tools/call", "--tool-name", tool)
            output = await run_client_during(call, tmp_path, partial(finish_call, cluster, proxy))
            assert output["result"]["content"][0]["text"] == BROKEN_CALLS[tool][-1]
    assert_spread(cluster, proxy)
