"""The base of the handlers whose responses may be event streams."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import SessionError
from mcp_tornado.streams.frames import Frame, FrameReader
from mcp_tornado.web.base import BaseHandler
from mcp_tornado.web.services import Services
from mcp_tornado.web.sse import KEEPALIVE, STREAM_HEADERS, encode_event

_log = get_logger(__name__)


class DisconnectListener(Protocol):
    """An object that must know when the client of a request disconnects."""

    def disconnect(self) -> None:
        """Handle the disconnect."""
        ...


class StreamingHandler(BaseHandler):
    """A handler that can answer with an event stream, and reports a disconnect while it prepares the answer."""

    def initialize(self, services: Services) -> None:
        """Set the parts of the application that the handler uses."""
        super().initialize(services)
        self._reader: FrameReader | None = None
        self._listener: DisconnectListener | None = None
        self._is_disconnected = False

    def set_disconnect_listener(self, listener: DisconnectListener | None) -> None:
        """Set the object that is notified when the client disconnects; notify it now if the client has disconnected."""
        self._listener = listener
        if listener is not None and self._is_disconnected:
            listener.disconnect()

    async def stream(
        self,
        reader: FrameReader,
        kind: str,
        *,
        sends_priming: bool = True,
        opening: Sequence[Frame | None] = (),
    ) -> None:
        """Stream a reader's frames as server-sent events until it ends or the client disconnects.

        Args:
            reader: The source of the frames; it is closed at the end.
            kind: The label of the stream in metrics.
            sends_priming: Whether the priming events of the reader are sent.
            opening: Frames to send before those of the reader; `None` is a comment. A stream that may have no event
                for long begins with one at once, because some proxies hold the head back until the first byte. The
                first frame of the reader repeats the reconnection time: it may be the one that ends the connection.
        """
        settings = self.services.settings
        gauge = self.services.metrics.streams_active.labels(kind)
        self._reader, self.is_timed = reader, False
        self.set_headers(STREAM_HEADERS)
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection) and connection.stream is not None:
            connection.stream.set_nodelay(True)  # otherwise TCP holds small frames back
        retry: int | None = settings.events.retry_milliseconds
        gauge.inc()
        try:
            for frame in opening:
                self.write(KEEPALIVE if frame is None else encode_event(frame, retry))
            await self.flush()
            async with aclosing(reader.frames(settings.server.keepalive_seconds)) as frames:
                async for frame in frames:
                    if frame is None:
                        self.write(KEEPALIVE)
                    elif frame.message is not None or sends_priming:
                        self.write(encode_event(frame, retry))
                        retry = None
                    else:
                        continue
                    await self.flush()
        except StreamClosedError:
            pass
        except SessionError:
            # The store has become unavailable. The client resumes the stream later.
            _log.warning("stream.broken", kind=kind)
        finally:
            # If the client disconnected early, no frame was read and the reader is still open.
            reader.close(discard_pending=True)
            self._reader = None
            gauge.dec()

    def on_connection_close(self) -> None:
        """Notify the listener and close the reader; Tornado calls this when the client disconnects."""
        super().on_connection_close()
        self._is_disconnected = True
        if self._listener is not None:
            self._listener.disconnect()
        if self._reader is not None:
            self._reader.close(discard_pending=True)
