"""The contract of stores as tests: subclass these classes with a fixture that makes your store, and run pytest.

`SessionStoreContract` is for every store, `EventLogContract` for one that keeps events too:

    class TestMySessions(SessionStoreContract):
        @pytest.fixture
        def make_store(self, clock, tmp_path):
            return lambda **options: my_store(f"mine://{tmp_path}", options, clock)

See `StoreContract` for the fixtures. The tests run under the pytest plugin of anyio, which comes with mcp.
"""

import pytest

pytest.register_assert_rewrite("mcp_tornado.testing.base", "mcp_tornado.testing.events", "mcp_tornado.testing.sessions")

from mcp_tornado.testing.base import StoreContract, new_session  # noqa: E402  (what is imported earlier is not rewritten)
from mcp_tornado.testing.clock import FakeClock  # noqa: E402
from mcp_tornado.testing.events import EventLogContract  # noqa: E402
from mcp_tornado.testing.sessions import SessionStoreContract  # noqa: E402

__all__ = ["EventLogContract", "FakeClock", "SessionStoreContract", "StoreContract", "new_session"]
