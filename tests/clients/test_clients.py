"""Clients that others wrote, each started for real before several processes, where no request is near the one before.

`make test` runs those in TypeScript, `make clients` all.
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
    call_of,
    go_on,
    outcome_of,
    output_of,
    output_while,
    ports_of,
    return_to,
    server_of,
)
from tests.conftest import DID_NOT_RUN
from tests.integration.cluster import Cluster, cluster_on
from tests.integration.conftest import LATEST, STATELESS, error_code, wire_to
from tests.javascript import tools as javascript

HERE: Final = Path(__file__).parent
SDK_1: Final = HERE.parents[1] / ".venv-mcp1"
"""The virtual environment of the SDK 1.x, which cannot be installed beside 2.x."""

pytestmark = pytest.mark.anyio
only_in_make_clients = pytest.mark.more_clients

Command = Callable[[], list[str]]
"""Returns the command that starts a client, or leaves the test out where that client is not installed."""


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


# ---------------------------------------------------------------- what they are started before


# A machine may be so busy that Redis does not answer in time: then clients must get the same all the same.
cluster_of_app = partial(cluster_on, "redis", app=f"{HERE / 'app.py'}:server", expected=["store.error"])


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with cluster_of_app() as cluster:
        yield cluster


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncGenerator[Proxy]:
    async with Proxy(ports_of(cluster)) as proxy:
        yield proxy
    print(*proxy.records, sep="\n")  # shown where a test fails


# ---------------------------------------------------------------- what they get

TOOLS: Final = ["weather", "count", "greet", "quote", "change", "publish", "leave", "wait"]
ANYWHERE: Final[dict[str, Any]] = {
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
BROKEN: Final = {
    "leave": ["before", "while away", "after", "came back"],
    "wait": ["before", "after", "waited"],
}
"""What was logged in a call whose stream broke, and its result: nothing is lost, and nothing comes twice."""


def of_a_session(subscribes: bool) -> dict[str, Any]:
    """Return all that a client gets in a session."""
    changes = ["tools", "memo://ada/notes"] if subscribes else ["tools"]
    return {"revision": LATEST, **ANYWHERE, **BROKEN, "changes": changes, "changes later": changes}


async def leave(cluster: Cluster, proxy: Proxy) -> None:
    """See a call through whose stream the server closes."""
    call = await call_of(proxy, "leave")
    await return_to(proxy, call)
    go_on(cluster, call)


async def cut(cluster: Cluster, proxy: Proxy) -> None:
    """See a call through during which the network fails."""
    call = await call_of(proxy, "wait")
    proxy.cut()
    await return_to(proxy, call)
    go_on(cluster, call)


async def see_through(cluster: Cluster, proxy: Proxy) -> None:
    """See both calls through."""
    await leave(cluster, proxy)
    await cut(cluster, proxy)


async def drain_and_see_through(cluster: Cluster, proxy: Proxy) -> None:
    """Do the same, while the process that runs the first call is told to stop."""
    call = await call_of(proxy, "leave")
    await return_to(proxy, call)
    leaving = server_of(cluster, call)
    leaving.signal()
    await leaving.line("server.draining")
    go_on(cluster, call)
    assert await leaving.exit_code() == 0
    await cut(cluster, proxy)


IN_SESSIONS: Final = [
    pytest.param(python("python_v2.py", "legacy"), True, marks=only_in_make_clients, id="python-v2"),
    pytest.param(python_v1, True, marks=only_in_make_clients, id="python-v1"),
    pytest.param(python("fastmcp_client.py", "legacy"), False, marks=only_in_make_clients, id="fastmcp"),
    pytest.param(typescript("client_v1.mjs"), True, id="typescript-v1"),
    pytest.param(typescript("client_v2.mjs", "legacy"), True, id="typescript-v2"),
]
"""Clients of the handshake era, and whether they can subscribe to a resource."""


@pytest.mark.parametrize(("command", "subscribes"), IN_SESSIONS)
async def test_a_session(cluster: Cluster, proxy: Proxy, tmp_path: Path, command: Command, subscribes: bool) -> None:
    """Everything that a client does with a session, and that it comes back where its streams break."""
    got = await output_while([*command(), proxy.url], tmp_path, partial(see_through, cluster, proxy))
    assert got == of_a_session(subscribes)
    assert_spread(cluster, proxy)

    # It has ended its one session, everywhere.
    (session,) = {each.new_session for each in proxy.records if each.new_session is not None}
    for server in cluster.servers:
        async with wire_to(server) as wire:
            response = await wire.post(wire.request("ping"), Mcp_Session_Id=session)
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")


@only_in_make_clients
@pytest.mark.parametrize(("command", "subscribes"), IN_SESSIONS)
async def test_a_process_leaves(tmp_path: Path, command: Command, subscribes: bool) -> None:
    """A client misses nothing when the process that runs its call is told to stop."""
    start = command()
    with cluster_of_app() as cluster:
        async with Proxy(ports_of(cluster)) as proxy:
            got = await output_while([*start, proxy.url], tmp_path, partial(drain_and_see_through, cluster, proxy))
        assert got == of_a_session(subscribes)
        assert_spread(cluster, proxy)


@pytest.mark.parametrize(
    ("command", "listens"),
    [
        pytest.param(python("python_v2.py", STATELESS), True, marks=only_in_make_clients, id="python-v2"),
        pytest.param(python("python_v2.py", "auto"), True, marks=only_in_make_clients, id="python-v2-auto"),
        pytest.param(python("fastmcp_client.py", STATELESS), False, marks=only_in_make_clients, id="fastmcp"),
        pytest.param(python("fastmcp_client.py", "auto"), False, marks=only_in_make_clients, id="fastmcp-auto"),
        pytest.param(typescript("client_v2.mjs", STATELESS), True, id="typescript-v2"),
        pytest.param(typescript("client_v2.mjs", "auto"), True, marks=only_in_make_clients, id="typescript-v2-auto"),
    ],
)
async def test_without_a_session(
    cluster: Cluster, proxy: Proxy, tmp_path: Path, command: Command, listens: bool
) -> None:
    """Everything that a client does in the stateless era; `listens` says whether it can listen to changes."""
    got = await output_of([*command(), proxy.url], tmp_path)
    assert got == {"revision": STATELESS, **ANYWHERE, **({"heard": ["mine", "tools"]} if listens else {})}
    assert_spread(cluster, proxy)
    assert all(each.session is None and each.new_session is None for each in proxy.records)


# ---------------------------------------------------------------- the Inspector


@only_in_make_clients
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector(cluster: Cluster, proxy: Proxy, tmp_path: Path, era: str) -> None:
    """Its command line does one thing each time that it is started, and cannot be asked."""
    at_proxy = ["--server-url", proxy.url, "--transport", "http", "--protocol-era", era]

    def inspect(method: str, *arguments: str) -> list[str]:
        return inspector(*at_proxy, "--method", method, *arguments)

    async def shown(method: str, *arguments: str) -> Any:
        return (await output_of(inspect(method, *arguments), tmp_path))["result"]

    revision = (await shown("initialize"))["protocolVersion"]
    assert revision == (LATEST if era == "legacy" else STATELESS)
    assert [tool["name"] for tool in (await shown("tools/list"))["tools"]] == TOOLS
    weather = await shown("tools/call", "--tool-name", "weather", "--tool-arg", "city=Ulm")
    assert weather["structuredContent"] == ANYWHERE["weather"]
    counted = await shown("tools/call", "--tool-name", "count", "--tool-arg", "steps=3")
    assert counted["content"][0]["text"] == "counted"
    assert [prompt["name"] for prompt in (await shown("prompts/list"))["prompts"]] == ANYWHERE["prompts"]
    prompt = await shown("prompts/get", "--prompt-name", "introduce", "--prompt-args", "name=Ada")
    assert prompt["messages"][0]["content"]["text"] == ANYWHERE["prompt"]
    assert [resource["uri"] for resource in (await shown("resources/list"))["resources"]] == ANYWHERE["resources"]
    templates = (await shown("resources/templates/list"))["resourceTemplates"]
    assert [template["uriTemplate"] for template in templates] == ANYWHERE["templates"]
    notes = await shown("resources/read", "--uri", "memo://ada/notes")
    assert notes["contents"][0]["text"] == ANYWHERE["notes"]

    asked = await outcome_of(inspect("tools/call", "--tool-name", "greet"), tmp_path)
    assert asked.returncode != 0
    assert "did not declare the form elicitation capability" in asked.stderr.decode()

    if era == "legacy":
        for tool, broken in (("leave", leave), ("wait", cut)):
            call = inspect("tools/call", "--tool-name", tool)
            done = await output_while(call, tmp_path, partial(broken, cluster, proxy))
            assert done["result"]["content"][0]["text"] == BROKEN[tool][-1]
    assert_spread(cluster, proxy)
