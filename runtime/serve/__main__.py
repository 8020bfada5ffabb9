"""Shows the classifier at work and answers over HTTP: python -m runtime.serve [/dev/video0 | video | folder] --port 8080"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any, Optional, Sequence

from ..command import add_decoding_options, add_model_options, number, open_model, run
from ..errors import UserError
from ..invocation import install, typed

_LOCAL = ("127.0.0.1", "::1", "localhost")
_LEAVING = 5.0  # seconds that requests have to finish after SIGTERM
_CONNECTIONS = 256
_HEADERS = 10.0  # seconds that a request's headers may take
_LOOK = 1.0  # seconds between two looks at the artifact, with --reload


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=typed("serve"),
        description="A page that shows the newest frame and its classes, and an endpoint that classifies: POST /classify.",
        epilog="Exit status: 0 after SIGTERM, 130 after Ctrl-C, 1 if the camera or the port can't be opened, 2 wrong use.",
    )
    parser.add_argument(
        "source", nargs="?", metavar="SOURCE", help="what runtime.watch takes: a camera, a video, a folder, rtsp://...; "
        "without one the page only classifies what is dropped on it",
    )  # fmt: skip
    where = parser.add_argument_group("address")
    where.add_argument(
        "--port", type=number(int, 0, 65535), default=8080, metavar="N", help="(default 8080; 0: any that is free)"
    )
    where.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="to listen on (default 127.0.0.1, this machine alone; 0.0.0.0: everybody who has the token)",
    )  # fmt: skip
    where.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its first line is the token (default: a new one)"
    )
    parser.add_argument(
        "--rate", type=number(float, above=0), metavar="FPS", help="classify at most so many frames a second"
    )
    parser.add_argument("--reload", action="store_true", help="when the artifact is replaced, answer with the new one")
    add_model_options(parser)
    add_decoding_options(parser)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = parser().parse_args(argv)
    try:
        import aiohttp  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The server needs {error.name}, which is not installed: {install('aiohttp', 'prometheus_client')}."
        ) from None
    token = _token(options)
    from ..artifacts.artifact import RANDOM_WEIGHTS
    from ..images.live import Stop
    from ..networks.pipeline import lanes_here
    from ..watch import open_source
    from .app import Server
    from .live import Live
    from .models import Reloading

    stop = Stop()
    with contextlib.ExitStack() as held:
        source: Any = None
        if options.source is not None:  # before the network, which takes longer to load than a typing error to see
            options.keep, options.live, options.existing, options.settle = 1, True, True, 0.5
            source = open_source(options, stop)
        models = Reloading(lambda: open_model(options, lanes_here(), shared=True))
        held.callback(lambda: models.current.close())
        artifact = models.current.classifier.artifact
        if artifact.random:
            print(f"{artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
        live = Live(source, models, stop) if source is not None else None
        if live is not None:
            held.callback(live.close)
        server = Server(models, live, _why(options, models.current.classifier), token)
        return asyncio.run(_serve(server, options, token))


def _why(options: argparse.Namespace, classifier: Any) -> str:
    """Why this artifact and this backend."""
    asked = [f"--{name}" for name in ("model", "variant", "precision") if getattr(options, name)]
    chosen = f"{' and '.join(asked)} named the artifact" if asked else "the artifact is the one exported last"
    how = "the best of those that work here" if options.backend == "auto" else "--backend named it"
    return (
        f"{chosen}; the backend, {classifier.backend.name}, is {how}"
        if options.backend == "auto"
        else f"{chosen}; {how}"
    )


def _token(options: argparse.Namespace) -> Optional[str]:
    """The token that clients need; None where only this machine can ask."""
    if options.token_file is not None:
        try:
            lines = options.token_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The token can't be read from {options.token_file}: {error}.") from None
        token = lines[0].strip() if lines else ""
        if len(token) < 16:
            raise UserError(
                f"The token in {options.token_file} has {len(token)} letters: at least 16 make it hard to guess."
            )
        return token
    if options.host in _LOCAL:
        return None
    from .access import new_token

    return new_token()


async def _serve(server: Any, options: argparse.Namespace, token: Optional[str]) -> int:
    from aiohttp import web

    from .access import Door
    from .app import last_line

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, end, each)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=_LEAVING)
    await runner.setup()
    try:
        listening = await loop.create_server(Door(runner.server, _CONNECTIONS, _HEADERS), options.host, options.port)
    except OSError as error:
        await runner.cleanup()
        failed = UserError(f"{options.host}:{options.port} can't be listened on: {error.strerror}.")
        failed.status = 1
        raise failed from None
    port = listening.sockets[0].getsockname()[1]
    shown = f"[{options.host}]" if ":" in options.host else options.host
    secret = f"?token={token}" if token is not None and options.token_file is None else ""
    print(f"http://{shown}:{port}/{secret}", file=sys.stderr, flush=True)
    if server.live is not None:
        server.live.start()
    reloads = loop.create_task(_reload(server)) if options.reload else None
    came = await ended
    if reloads is not None:
        reloads.cancel()
    listening.close()
    await runner.shutdown()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(server.idle(), _LEAVING)
    await runner.cleanup()
    print(last_line(server), file=sys.stderr, flush=True)
    return 0 if came == signal.SIGTERM else 130


async def _reload(server: Any) -> None:
    """Replaces the model whenever its artifact was replaced."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK)
        told = await loop.run_in_executor(None, server.models.check)
        if told:
            print(told, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
