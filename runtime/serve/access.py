"""Who may ask, and how long a connection may take to ask: tokens, headers, slow clients."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import Any, Callable, Dict, Optional, Set

from aiohttp import web

COOKIE = "token"
_MONTH = 30 * 24 * 3600  # seconds
OPEN = {"/healthz"}  # answers without a token: it says nothing but that the process lives
_LOCAL = {"localhost", "127.0.0.1", "[::1]"}

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "efficientnet-edge",
}


def new_token() -> str:
    """256 random bits, in letters that a URL can hold."""
    return secrets.token_urlsafe(32)


def policy(nonce: str) -> str:
    """The page's Content-Security-Policy: its own script and style, nothing from elsewhere, no other page around it."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def guard(token: Optional[str]) -> Any:
    """Middleware: with a token, lets in who has it: as a header (Authorization: Bearer), as the cookie that the first visit
    with ?token= sets, after which the token is gone from the address. Without one, lets in who asks this machine by a local
    name, so that no web page elsewhere can reach it through a name of its own (DNS rebinding)."""

    def known(given: Optional[str]) -> bool:
        return token is not None and given is not None and hmac.compare_digest(given.encode(), token.encode())

    @web.middleware
    async def check(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if token is None:
            host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
            if host.lower() not in _LOCAL:
                raise web.HTTPForbidden(
                    text="This server answers to localhost only; --host and a token open it to others.\n"
                )
            return await handler(request)
        if request.path in OPEN:
            return await handler(request)
        if request.path == "/" and known(request.query.get("token")):
            moved = web.HTTPSeeOther("/")
            moved.set_cookie(COOKIE, token, max_age=_MONTH, httponly=True, samesite="Strict")
            raise moved
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if known(request.cookies.get(COOKIE)) or (scheme.lower() == "bearer" and known(given.strip())):
            return await handler(request)
        raise web.HTTPUnauthorized(
            text="This server needs its token: open the address that it printed, or send it as 'Authorization: Bearer ...'.\n",
            headers={"WWW-Authenticate": "Bearer"},
        )

    return check


class Door:
    """Makes a protocol for each connection, which is closed if no request has come `patience` seconds after it was opened or
    its last answer was sent (slow-loris clients). Where `most` are open, the one whose request (with its body) has been
    awaited longest makes room for a new one; where all of them have asked and wait for their answer, the new one is closed."""

    def __init__(self, server: Any, most: int, patience: float) -> None:
        """`server`: an aiohttp.web.Server, which makes the protocols."""
        self.server, self.most, self.patience = server, most, patience
        self.open: Set[Any] = set()
        self.awaited: Dict[Any, None] = {}  # those whose request is not there yet, longest first

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self)


class _Guarded(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, with an alarm clock."""

    def __init__(self, door: Door) -> None:
        self.door, self.inner = door, door.server()
        self._alarm: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: Any) -> None:
        self.inner.connection_made(transport)
        self.transport = transport
        transport.guarded = self
        if len(self.door.open) >= self.door.most:
            if not self.door.awaited:
                transport.abort()
                return
            next(iter(self.door.awaited)).leave()
        self.door.open.add(self)
        self.wait()

    def wait(self) -> None:
        """Sets the clock: a request is to come."""
        self.whole()
        self.door.awaited[self] = None
        self._alarm = asyncio.get_running_loop().call_later(self.door.patience, self.transport.abort)

    def asked(self) -> None:
        """Stops the clock: a request came, perhaps without its body, which has a clock of its own."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def whole(self) -> None:
        """The request's body is there too: what is open now is the answer."""
        self.asked()
        self.door.awaited.pop(self, None)

    def leave(self) -> None:
        """Makes room for another connection."""
        self.whole()
        self.door.open.discard(self)
        self.transport.abort()

    def connection_lost(self, error: Optional[BaseException]) -> None:
        self.whole()
        self.door.open.discard(self)
        self.inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> Any:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
