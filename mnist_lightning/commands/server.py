"""The server of the demo: limits on connections, allowed hosts, headers, and how it stops.

uvicorn alone waits forever for the rest of a request, and accepts connections until the process
has no file descriptors left.
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

MOST_CONNECTIONS = 32  # with those accepted at once, few enough for macOS's 256 open files
BACKLOG = 8  # connections accepted at once; more would push out those that have just come
MOST_SECONDS = 20  # for a request to arrive
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


# uvicorn has no public way to end a request that does not arrive, or to close the idlest of too
# many connections, so pyproject.toml keeps it below the first version that was not tried.
class Connection(H11Protocol):
    """A connection that is closed if its next request does not arrive in time.

    If there are too many, the one that has been idle or incomplete for longest is closed, so that
    nobody can take all of them. One whose request is being answered stays open.
    """

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived and its answer is not finished."""
        return bool(self.cycle) and not (self.cycle.more_body or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, and close another connection if there are too many."""
        super().connection_made(transport)
        self.deadline = self.loop.call_later(MOST_SECONDS, self.shutdown)
        if len(self.connections) > MOST_CONNECTIONS:
            others = [other for other in self.connections if not other.is_answering]  # type: ignore[union-attr]
            min(others, key=lambda other: other.deadline.when()).shutdown()  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self.deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.deadline.cancel()
        self.deadline = self.loop.call_later(MOST_SECONDS, self.shutdown)
        super().on_response_complete()

    def shutdown(self) -> None:
        """Close at once, or after the answer in progress."""
        if self.is_answering:
            super().shutdown()
        else:
            self.connections.discard(self)  # or the next excess connection would choose it again
            self.transport.abort()  # close() would wait for a client that does not read

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with this server's headers, even in the middle of a request."""
        lines = [f"{name}: {value}" for name, value in HEADERS.items()]
        lines = ["HTTP/1.1 400 Bad Request", *lines, "Connection: close", "Content-Length: 0"]
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode())
        self.transport.close()


class Server(uvicorn.Server):
    """Stops soon: pictures that wait are answered with a 503 instead of being read."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let more connections wait than asyncio accepts at once."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(128)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel the waiting requests, then close the connections."""
        for task in self.config.app.state.waiting:  # type: ignore[union-attr]
            task.cancel()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: An address or a name; IPv4 is preferred if a name has both.
        port: The port; 0 for any free one.

    Raises:
        UserError: If the host is not a valid name.
        OSError: If the socket can't listen there.
    """
    try:
        family, *_, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        listener = socket.create_server(address, family=family)
    except UnicodeError as error:
        raise UserError(f"--host {host!r} is not the name of a machine") from error
    except OSError as error:
        raise OSError(f"{error.strerror}; try another --port, or --host") from error
    # Without this the second part of an answer waits 40 ms for the first one to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allowed_hosts(listener: socket.socket, host: str) -> list[str] | None:
    """Return the host names that requests may use, or None if the whole network may send them.

    Args:
        listener: See `listen`.
        host: The host that it was opened with.
    """
    address = listener.getsockname()[0]
    return [*LOOPBACK, host, address] if ipaddress.ip_address(address).is_loopback else None


def url(listener: socket.socket, host: str) -> str:
    """Return the address to open in this machine's browser; the arguments as in `allowed_hosts`."""
    address, port = listener.getsockname()[:2]
    if ipaddress.ip_address(address).is_unspecified:
        host = "::1" if ":" in address else "127.0.0.1"
    return _url(host, port)


def network_url(listener: socket.socket) -> str:
    """Return the address to open on another machine of the network."""
    address, port = listener.getsockname()[:2]
    if ipaddress.ip_address(address).is_unspecified:
        # No packet is sent: it only asks by which of this machine's addresses one would go out.
        with socket.socket(listener.family, socket.SOCK_DGRAM) as asking:
            try:
                asking.connect(("2001:db8::1" if ":" in address else "192.0.2.1", 9))
                address = asking.getsockname()[0]
            except OSError:  # there is no network now
                address = socket.gethostname()
    return _url(address, port)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: "FastAPI") -> Server:
    """Return a server for an app, whose `state.waiting` holds the tasks to cancel at the end."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        backlog=BACKLOG,
        headers=list(HEADERS.items()),
        log_level="error",  # bad requests are not worth a warning
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def serve(app: "FastAPI", listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    with listener, contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[listener])
