"""Serves an app to strangers: who may ask, for how long a connection may last, and how it ends.

uvicorn alone waits forever for the rest of a request, and takes connections until the process has
no descriptor left for a file.
"""

import asyncio
import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mnist_lightning.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_CONNECTIONS = 32  # with what is accepted at once, few enough for macOS's 256 open files
BACKLOG = 8  # connections that are accepted at once; more would push out what has just come
MOST_SECONDS = 20  # for a request to be whole
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Connection(H11Protocol):
    """A connection that is closed if its next request is not whole in time, read or not.

    Where there are too many, the one that has been silent or unfinished for longest makes room, so
    that nobody can take all of them. One whose request is being answered is left alone.
    """

    @property
    def is_answering(self) -> bool:
        """Whether a request is whole, and its answer not yet."""
        return bool(self.cycle) and not (self.cycle.more_body or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, and close another connection if there are too many."""
        super().connection_made(transport)
        self.deadline = self.loop.call_later(MOST_SECONDS, self.shutdown)
        if len(self.connections) > MOST_CONNECTIONS:
            others = [other for other in self.connections if not other.is_answering]  # type: ignore[union-attr]
            min(others, key=lambda other: other.deadline.when()).shutdown()  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self.deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.deadline.cancel()
        self.deadline = self.loop.call_later(MOST_SECONDS, self.shutdown)
        super().on_response_complete()

    def shutdown(self) -> None:
        """Close at once, or when the answer that is being made has been sent."""
        if self.is_answering:
            super().shutdown()
        else:
            self.connections.discard(self)  # or else the next one too many would choose it, too
            self.transport.abort()  # close() would wait for a client that does not read

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with this server's headers, even in the midst of a request."""
        lines = [f"{name}: {value}" for name, value in HEADERS.items()]
        lines = ["HTTP/1.1 400 Bad Request", *lines, "Connection: close", "Content-Length: 0"]
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode())
        self.transport.close()


class Server(uvicorn.Server):
    """Ends soon: a picture that waits is answered with a 503 instead of being read."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and let more connections wait than asyncio accepts at once."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(128)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel what waits, then close the connections."""
        for task in self.config.app.state.waiting:  # type: ignore[union-attr]
            task.cancel()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: An address or a name; IPv4 is preferred where a name has both.
        port: The port; 0 for any that is free.

    Raises:
        UserError: If it is no name that can be looked up.
        OSError: If it can't listen there.
    """
    try:
        family, *_, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        listener = socket.create_server(address, family=family)
    except UnicodeError as error:
        raise UserError(f"--host {host!r} is no name of a machine") from error
    except OSError as error:
        raise OSError(f"{error.strerror}; try another --port, or --host") from error
    # Without this the second part of an answer waits 40 ms for the first one's receipt.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allowed_hosts(listener: socket.socket, host: str) -> list[str] | None:
    """Return the names that only this machine may call it by, or None if the network may ask.

    Args:
        listener: See `listen`.
        host: What it was opened with.
    """
    address = listener.getsockname()[0]
    return [*LOOPBACK, host, address] if ipaddress.ip_address(address).is_loopback else None


def url(listener: socket.socket, host: str) -> str:
    """Return the address to open in this machine's browser; the arguments as in `allowed_hosts`."""
    address, port = listener.getsockname()[:2]
    if ipaddress.ip_address(address).is_unspecified:
        host = "::1" if ":" in address else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: "FastAPI") -> Server:
    """Return the server of an app, whose `state.waiting` holds the tasks to cancel at its end."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        backlog=BACKLOG,
        headers=list(HEADERS.items()),
        log_level="error",  # a stranger's mistakes are none
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def serve(app: "FastAPI", listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    with listener, contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[listener])
