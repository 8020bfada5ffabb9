"""The routes: the page, its live image and state, and the endpoint that classifies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

from aiohttp import BodyPartReader, web

from ..images.decode import ImageError
from ..output import answered_by
from ..printable import printable
from .access import HEADERS, guard, policy
from .live import Live
from .metrics import Metrics, Sensors
from .models import WAITING, Busy, Reloading

PATIENCE = 30.0  # seconds that a request's body may take
_POLL = 20.0  # seconds that a viewer waits for something new
_TOP, _MOST_TOP = 5, 1000
_BODIES = 512 << 20  # bytes of all requests at once
_PAGE = Path(__file__).with_name("page.html")


class Server:
    """All that the routes share."""

    def __init__(self, models: Reloading, live: Optional[Live], why: str, token: Optional[str] = None) -> None:
        """`why`: why this backend and precision, in words. `token`: what others than this machine must know."""
        self.models, self.live, self.why = models, live, why
        self.metrics = Metrics()
        self.sensors = Sensors(self.metrics)
        self.served = self.refused = 0
        self.token = token
        # A thread for each image that may be admitted: most of them wait for the network, which lets go of Python's lock.
        self._threads = ThreadPoolExecutor(WAITING, "request")
        self._new: Optional[asyncio.Event] = None  # made anew for each new frame
        self._under_way, self._leaving = 0, False
        self._held = 0  # bytes of the requests under way
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        if live is not None:
            live.changed = self._changed

    def app(self) -> web.Application:
        """The application, with its routes."""
        decoding = self.models.current.classifier.decoding
        app = web.Application(middlewares=[self._counted, guard(self.token)], client_max_size=decoding.max_bytes)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/live", self._state),
                web.get("/live.jpg", self._frame),
                web.get(r"/events/{number:\d+}.jpg", self._thumbnail),
                web.post("/classify", self._classify),
                web.get("/healthz", self._health),
                web.get("/model", self._model),
                web.get("/metrics", self._metrics),
            ]
        )
        app.on_startup.append(self._started)
        return app

    async def _started(self, _: web.Application) -> None:
        self._loop, self._new = asyncio.get_running_loop(), asyncio.Event()

    async def idle(self) -> None:
        """Sends waiting viewers home, and returns when the last request was answered."""
        self._leaving = True
        self._wake()
        while self._under_way:
            await asyncio.sleep(0.02)

    def _changed(self) -> None:
        """From the live loop's thread: wakes all viewers that wait."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        assert self._new is not None
        self._new.set()
        self._new = asyncio.Event()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    @web.middleware
    async def _counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Headers and counting for every answer; an error of ours says nothing of itself to the client."""
        guarded = getattr(request.transport, "guarded", None)
        if guarded is not None:
            guarded.asked() if request.can_read_body else guarded.whole()
        self._under_way += 1
        try:
            response: Any = await handler(request)
        except web.HTTPException as error:
            response = error
        except Exception:
            traceback.print_exc()
            response = web.HTTPInternalServerError(text="The server failed at this request; its log says how.\n")
        finally:
            self._under_way -= 1
            if guarded is not None and request.transport is not None:
                guarded.wait()
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        self.metrics.requests.labels(str(response.status)).inc()
        if isinstance(response, web.HTTPException):
            raise response
        return response

    # The page

    async def _page(self, _: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        text = _PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        headers = {"Content-Security-Policy": policy(nonce)}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _state(self, request: web.Request) -> web.Response:
        """`?after=N` waits until frame N + 1 is there, or some seconds."""
        if self.live is None:
            return web.json_response({"frame": 0, "source": False, **self.sensors.state()})
        await self._after(request)
        return web.json_response({**self.live.state(), "source": True, **self.sensors.state()})

    async def _frame(self, request: web.Request) -> web.Response:
        if self.live is None:
            raise web.HTTPNotFound(text="There is no camera, video or folder here.\n")
        await self._after(request)
        content = await self._in_thread(self.live.jpeg)
        return web.Response(body=content, content_type="image/jpeg") if content else web.Response(status=204)

    async def _after(self, request: web.Request) -> None:
        seen = _number(request, "after", -1)
        if self.live is None or self.live.number > seen or self.live.ended is not None or self._leaving:
            return
        assert self._new is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._new.wait(), _POLL)

    async def _thumbnail(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        events = list(self.live.events) if self.live is not None else []
        content = next((event.thumbnail for event in events if event.number == number), b"")
        if not content:
            raise web.HTTPNotFound(text="This event has no image, or is too old.\n")
        return web.Response(body=content, content_type="image/jpeg")

    # The endpoint

    async def _classify(self, request: web.Request) -> web.Response:
        """An image as the body, or several as multipart/form-data: what `runtime.infer --json` prints of each."""
        top = min(_number(request, "top", _TOP), _MOST_TOP)
        if top < 1:
            raise web.HTTPBadRequest(text="top is a whole number above 0.\n")
        images: List[Tuple[str, bytearray]] = []
        try:
            return await self._classified(request, images, top)
        finally:
            self._held -= sum(len(image) for _, image in images)

    async def _classified(self, request: web.Request, images: List[Tuple[str, bytearray]], top: int) -> web.Response:
        several = request.content_type.startswith("multipart/")
        try:
            await asyncio.wait_for((self._parts if several else self._body)(request, images), PATIENCE)
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout(text=f"The body did not come whole within {PATIENCE:g} s.\n") from None
        except (ValueError, AssertionError):  # what aiohttp raises for a multipart body that is none
            raise web.HTTPBadRequest(text="The body is not multipart/form-data as its header says.\n") from None
        guarded = getattr(request.transport, "guarded", None)
        if guarded is not None:
            guarded.whole()
        if not images or (not several and not images[0][1]):
            raise web.HTTPBadRequest(text="There is no image in the request: send its bytes as the body.\n")
        answered = await asyncio.gather(*(self._in_thread(self._answer, name, image, top) for name, image in images))
        if any(status == 503 for status, _ in answered):
            self.refused += 1
            raise web.HTTPServiceUnavailable(
                text="Too many images are waiting: ask again in a moment.\n", headers={"Retry-After": "1"}
            )
        self.served += 1
        if several:
            return web.json_response([line for _, line in answered])
        return web.json_response(answered[0][1], status=answered[0][0])

    async def _body(self, request: web.Request, images: List[Tuple[str, bytearray]]) -> None:
        """Appends (name, bytes) of the one image that is the body."""
        images.append(("image", bytearray()))
        async for piece in request.content.iter_any():
            self._hold(images, piece)

    async def _parts(self, request: web.Request, images: List[Tuple[str, bytearray]]) -> None:
        """Appends (name, bytes) of each image of a multipart body."""
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):  # a form inside the form
                raise web.HTTPBadRequest(
                    text="One multipart/form-data body with an image in each part is read, no nested ones.\n"
                )
            name = printable((part.filename or "").replace("\\", "/").rpartition("/")[2])[:200]
            images.append((name or f"image {len(images) + 1}", bytearray()))
            if len(images) > WAITING:
                raise web.HTTPRequestEntityTooLarge(WAITING, len(images), text=f"At most {WAITING} images a request.\n")
            while True:
                piece = await part.read_chunk()
                if not piece:
                    break
                self._hold(images, piece)

    def _hold(self, images: List[Tuple[str, bytearray]], piece: bytes) -> None:
        """Adds bytes to the last image. Raises what the client is told if they are too many."""
        images[-1][1].extend(piece)
        self._held += len(piece)
        limit, size = self.models.current.classifier.decoding.max_bytes, sum(len(image) for _, image in images)
        if size > limit:
            raise web.HTTPRequestEntityTooLarge(limit, size, text=f"The request has more than {limit} bytes.\n")
        if self._held > max(limit, _BODIES):
            self.refused += 1
            raise web.HTTPServiceUnavailable(
                text="Too many bytes are waiting: ask again in a moment.\n", headers={"Retry-After": "1"}
            )

    def _answer(self, name: str, image: bytearray, top: int) -> Tuple[int, Dict[str, Any]]:
        """The status and the line of one image; called in a thread."""
        model = self.models.current
        told = answered_by(model.classifier.artifact, model.classifier.backend.name)
        try:
            found = self.models.classify(bytes(image), name, top)
        except Busy:
            return 503, {}
        except ImageError as error:
            self.metrics.failures.inc()
            return 400, {"file": name, "error": str(error), **told}
        self.metrics.classified(found.milliseconds)
        spent = {stage: round(ms, 3) for stage, ms in found.milliseconds.items()}
        spent["total"] = round(sum(found.milliseconds.values()), 3)
        return 200, {"file": name, "predictions": [each._asdict() for each in found.predictions], **told, "ms": spent}

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _model(self, _: web.Request) -> web.Response:
        classifier = self.models.current.classifier
        artifact, recipe = classifier.artifact, classifier.artifact.preprocessing
        return web.json_response(
            {
                **answered_by(artifact, classifier.backend.name),
                "runs_on": classifier.backend.description,
                "why": self.why,
                "classes": artifact.classes,
                "resolution": recipe.resolution,
                "crop": recipe.crop,
                "interpolation": recipe.interpolation,
                "sha256": artifact.metadata.get("sha256", ""),
            }
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        if self.live is not None:
            self.metrics.dropped.set(self.live.source.dropped)
        return web.Response(
            body=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _number(request: web.Request, key: str, default: int) -> int:
    text = request.query.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{key} is a whole number.\n") from None


def last_line(server: Server) -> str:
    """What the command says when it ends."""
    refused = f", {server.refused} refused while busy" if server.refused else ""
    return json.dumps(server.served) + f" requests served{refused}"
