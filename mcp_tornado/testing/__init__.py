"""The contract of stores as tests: subclass these classes, define a fixture that creates your store, and run pytest.

`SessionStoreContract` is for every store, `EventLogContract` for stores that also keep events:

    class TestMySessions(SessionStoreContract):
        @pytest.fixture
        def make_store(self, clock, tmp_path):
            return lambda **options: my_store(f"mine://{tmp_path}", options, clock)

See `StoreContract` for the fixtures. The tests run with the pytest plugin of anyio, a dependency of mcp.
"""

import pytest

pytest.register_assert_rewrite("mcp_tornado.testing.base", "mcp_tornado.testing.events", "mcp_tornado.testing.sessions")

from mcp_tornado.testing.base import StoreContract, new_session  # noqa: E402  (a module that is imported before the call is not rewritten)
from mcp_tornado.testing.clock import FakeClock  # noqa: E402
from mcp_tornado.testing.events import EventLogContract  # noqa: E402
from mcp_tornado.testing.sessions import SessionStoreContract  # noqa: E402

__all__ = ["EventLogContract", "FakeClock", "SessionStoreContract", "StoreContract", "new_session"]
