"""The Tornado application that the tests of the HTTP server serve."""

from __future__ import annotations

import asyncio
import contextvars

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler, stream_request_body

MEGABYTE = 1_048_576

_user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="unset")


class HandlerState:
    """What the handlers of one test record, and the events that they set or wait for."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        """Set by the test: a waiting handler continues, a streaming handler ends."""
        self.started = asyncio.Event()
        self.received = asyncio.Event()
        """Set when a piece of the body arrives."""
        self.disconnected = asyncio.Event()
        self.finished = asyncio.Event()
        self.disconnect_count = 0
        self.call_count = 0
        self.written_bytes = 0
        self.body = b""
        self.errors: list[BaseException] = []


class Handler(RequestHandler):
    def initialize(self, state: HandlerState) -> None:
        self.state = state

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.state.disconnect_count += 1
        self.state.disconnected.set()


class EchoHandler(Handler):
    async def get(self) -> None:
        self.write(f"{self.request.method} {self.request.uri}")

    head = get

    async def post(self) -> None:
        self.write(self.request.body)


class EmptyHandler(Handler):
    async def get(self) -> None:
        self.set_status(204)


class ChunksHandler(Handler):
    async def get(self) -> None:
        for piece in ("one", "two", "", "three"):
            self.write(piece)
            await self.flush()

    head = get


class HeadersHandler(Handler):
    async def post(self) -> None:
        self.write(dict(self.request.headers.get_all()))

    get = post


class WaitingHandler(Handler):
    """Waits, then writes two pieces."""

    async def get(self) -> None:
        self.state.started.set()
        await self.state.release.wait()
        try:
            for _ in range(2):
                self.write("waited")
                await self.flush()
        except StreamClosedError as error:
            self.state.errors.append(error)
        finally:
            self.state.finished.set()

    post = get


class UncheckedHandler(Handler):
    """Waits, then writes without waiting for the client."""

    async def get(self) -> None:
        self.state.started.set()
        await self.state.release.wait()
        self.write("waited")
        self.flush()
        self.write("more")
        self.finish()
        self.state.finished.set()


class StreamingHandler(Handler):
    """Streams until it is released; a client that does not read makes it wait."""

    async def get(self) -> None:
        try:
            while not self.state.release.is_set():
                self.write("x" * 65_536)
                await self.flush()
                self.state.written_bytes += 65_536
                self.state.started.set()
        except StreamClosedError as error:
            self.state.errors.append(error)
        finally:
            self.state.finished.set()


class LargeStreamHandler(Handler):
    """Streams 64 MiB."""

    async def get(self) -> None:
        for _ in range(64):
            self.write(b"x" * MEGABYTE)
            await self.flush()
            self.state.written_bytes += MEGABYTE


class LargeHandler(Handler):
    """Answers 1 MiB with a Content-Length."""

    async def get(self) -> None:
        self.state.call_count += 1
        self.state.started.set()
        self.write(b"x" * MEGABYTE)


@stream_request_body
class UploadHandler(Handler):
    async def prepare(self) -> None:
        self.pieces: list[bytes] = []
        self.state.started.set()

    def data_received(self, chunk: bytes) -> None:
        self.pieces.append(chunk)
        self.state.received.set()

    async def post(self) -> None:
        self.write(b"".join(self.pieces))


@stream_request_body
class SlowUploadHandler(Handler):
    """Waits at each piece."""

    async def data_received(self, chunk: bytes) -> None:
        self.state.received.set()
        await self.state.release.wait()
        self.state.body += chunk

    async def post(self) -> None:
        self.write(self.state.body)


@stream_request_body
class TaskUploadHandler(Handler):
    """Returns a future for each piece."""

    def data_received(self, chunk: bytes) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.take(chunk))

    async def take(self, chunk: bytes) -> None:
        await self.state.release.wait()
        self.state.body += chunk
        self.state.received.set()

    async def post(self) -> None:
        self.write(self.state.body)


@stream_request_body
class FailingUploadHandler(Handler):
    async def data_received(self, chunk: bytes) -> None:
        raise RuntimeError("no more of that")

    async def post(self) -> None:
        self.write("taken")


@stream_request_body
class PreparingHandler(Handler):
    """Waits before it takes the body."""

    async def prepare(self) -> None:
        self.state.started.set()
        await self.state.release.wait()

    def data_received(self, chunk: bytes) -> None:
        self.state.body += chunk

    async def post(self) -> None:
        self.write(self.state.body)
        self.state.finished.set()

    def on_finish(self) -> None:
        self.state.finished.set()


@stream_request_body
class RefusingHandler(Handler):
    """Answers before the body is read."""

    async def prepare(self) -> None:
        self.set_status(403)
        self.finish("refused")

    def data_received(self, chunk: bytes) -> None:
        raise AssertionError("the handler has refused the body")


class LineBreakHandler(Handler):
    async def get(self) -> None:
        self.set_header("X-Broken", "a\r\nX-Injected: b")


class HiddenLineBreakHandler(Handler):
    """Sets a header with a line break in a way that Tornado does not check."""

    async def get(self) -> None:
        self._headers._dict["X-Broken"] = "a\r\nX-Injected: b"
        self._headers._as_list["X-Broken"] = ["a\r\nX-Injected: b"]
        self.write("never")


class UnencodableHeaderHandler(Handler):
    async def get(self) -> None:
        self.set_header("X-Price", "5 \u20ac")
        self.write("never")


class ShortHandler(Handler):
    """Sends less than its Content-Length."""

    async def get(self) -> None:
        self.set_header("Content-Length", "10")
        self.write("12345")
        await self.flush()


class OriginHandler(Handler):
    async def get(self) -> None:
        self.write({"ip": self.request.remote_ip, "protocol": self.request.protocol})


class VariableHandler(Handler):
    """Answers the context variable that an earlier request may have set, and sets it."""

    async def get(self) -> None:
        self.write(_user.get())
        _user.set(self.get_argument("name"))


class EarlyVariableHandler(Handler):
    """Sets the context variable before any coroutine of the request starts."""

    def initialize(self, state: HandlerState) -> None:
        super().initialize(state)
        self.before = _user.get()
        _user.set("early")

    async def get(self) -> None:
        self.write(self.before)


class CancelledWaitHandler(Handler):
    """Cancels one wait for the client, and then waits again."""

    async def get(self) -> None:
        self.write(b"x" * 32 * MEGABYTE)
        writing = self.flush()
        self.state.started.set()
        waiting = asyncio.ensure_future(asyncio.wait_for(writing, 0.001))
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), TimeoutError)
        self.write("end")
        writing = self.flush()
        self.state.received.set()
        try:
            await writing
        except BaseException as error:
            self.state.errors.append(error)
        self.state.finished.set()


class EventsHandler(Handler):
    """Sends an event after `wait` seconds, and then waits."""

    async def get(self) -> None:
        await asyncio.sleep(float(self.get_query_argument("wait", "0")))
        self.set_header("Content-Type", "text/event-stream")
        try:
            self.write("data: 1\n\n")
            await self.flush()
            await self.state.disconnected.wait()
        except StreamClosedError as error:
            self.state.errors.append(error)
        finally:
            self.state.finished.set()


def make_application(state: HandlerState) -> Application:
    handlers: dict[str, type[Handler]] = {
        "/echo.*": EchoHandler,
        "/empty": EmptyHandler,
        "/chunks": ChunksHandler,
        "/headers": HeadersHandler,
        "/waiting": WaitingHandler,
        "/unchecked": UncheckedHandler,
        "/streaming": StreamingHandler,
        "/large-stream": LargeStreamHandler,
        "/large": LargeHandler,
        "/upload": UploadHandler,
        "/slow-upload": SlowUploadHandler,
        "/task-upload": TaskUploadHandler,
        "/failing-upload": FailingUploadHandler,
        "/preparing": PreparingHandler,
        "/refusing": RefusingHandler,
        "/line-break": LineBreakHandler,
        "/hidden-line-break": HiddenLineBreakHandler,
        "/unencodable-header": UnencodableHeaderHandler,
        "/short": ShortHandler,
        "/origin": OriginHandler,
        "/variable": VariableHandler,
        "/early-variable": EarlyVariableHandler,
        "/cancelled-wait": CancelledWaitHandler,
        "/events": EventsHandler,
    }
    rules = [(path, handler, {"state": state}) for path, handler in handlers.items()]
    return Application(rules, log_function=lambda _: None)
