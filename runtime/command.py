"""What all commands share: how they end (a sentence instead of a traceback, and the exit status that Unix expects), and
common options."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import math
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from threading import Timer, main_thread
from typing import TYPE_CHECKING, Any, Callable, Optional, Set, Type, TypeVar, Union

from .bundle_signature import check_signature
from .errors import UserError
from .invocation import missing, without_make
from .printable import printable

if TYPE_CHECKING:
    from .backends.backend import Engines
    from .images.decode import Decoding
    from .networks.classifier import Classifier
    from .networks.network import Network

    Kind = TypeVar("Kind", bound=Network)

Number = TypeVar("Number", int, float)


def run(main: Callable[[], int]) -> None:
    """Runs `main` and leaves the process with the status it returns, or with that of the error it ends with."""
    if hasattr(sys.stdout, "reconfigure"):  # a letter that the terminal's encoding lacks is escaped, as stderr does it
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.argv[1:] in (["--version"], ["-V"]):
        from . import __version__
        from .invocation import SCRIPT

        print(f"{SCRIPT} {__version__}")
        sys.exit(0)
    sys.unraisablehook = _interrupt_again
    # Pillow warns of oddities (damaged EXIF in a good image) with paths of its source: what matters comes as an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Its log, of errors too, goes to stderr where nobody listens.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", message=".*: random weights: ")  # commands say so themselves
    try:
        check_signature()
        status = main()
        sys.stdout.flush()
        status = max(status, _left_out())
    except BaseException as error:
        if _is_interruption(error):
            print("\ninterrupted; no file was left half written", file=sys.stderr)
            status = 130
        else:
            known = _status_of(error)
            if known is None:
                raise
            if isinstance(error, UserError) and f"{__package__}.images.find" in sys.modules:
                _left_out()  # a folder may have nothing but files of other formats
            status = known
    sys.exit(status)


def _left_out() -> int:
    """Says what folders held and was left out; the exit status that follows from it."""
    from .images.find import LEFT_OUT

    if LEFT_OUT.formats:
        print(LEFT_OUT.sentence(), file=sys.stderr)
    return 1 if LEFT_OUT.folders else 0


def _status_of(error: BaseException) -> Optional[int]:
    """The exit status for an error that is not a bug of ours, after the sentence about it; None for all others."""
    if isinstance(error, UserError):
        # Lines after the first are indented: one that a file's name brings along is not taken for a sentence of ours.
        first, *rest = map(printable, without_make(str(error)).split("\n"))
        lines = [f"error: {first}", *(line if line.startswith(" ") else f"  {line}" for line in rest)]
        print("\n".join(lines), file=sys.stderr)
        return error.status
    if isinstance(error, ModuleNotFoundError):
        said = missing(error)
        if said is not None:
            print(f"error: {said}", file=sys.stderr)
            return 2
    if not isinstance(error, OSError) or error.errno not in (errno.EPIPE, errno.ENOSPC):
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while closing stdout
    if error.errno == errno.EPIPE:
        return 141  # `... | head` has seen enough
    print(f"error: the output can't be written: {error.strerror}.", file=sys.stderr)
    return 1


def _is_interruption(error: Optional[BaseException]) -> bool:
    """Whether Ctrl-C is what `error` goes back to: while a library is being imported, it comes wrapped in others (Python
    before 3.12 makes a RuntimeError of what `__set_name__` raises, a C extension an ImportError of anything)."""
    seen: Set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _interrupt_again(unraisable: Any) -> None:
    """As `sys.unraisablehook`: Ctrl-C that fell into a destructor, where Python only reports it, comes once more."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        again = Timer(0.05, signal.pthread_kill, [main_thread().ident, signal.SIGINT])
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def parse_size(text: str, thousand: int = 1024) -> int:
    """ "512M" -> 512 * thousand ** 2: bytes, or with 1000 anything else that is counted. Raises UserError."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not found or int(found[1]) == 0:
        raise UserError(f"'{text}' is no size: give a number with K, M or G, as 512M.")
    return int(found[1]) * thousand ** " KMG".index(found[2].upper() or " ")


def number(
    kind: Callable[[str], Number],
    least: float = -math.inf,
    most: float = math.inf,
    unit: str = "",
    above: float = -math.inf,
) -> Callable[[str], Number]:
    """The `type` of an option that is a number: `kind` is int or float, `least` and `most` may be reached, `above` not."""
    what = ("a whole number" if kind is int else "a number") + (f" of {unit}" if unit else "")
    what += f" above {above:g}" if above > -math.inf else ""
    what += f" from {least:g} to {most:g}" if max(-least, most) < math.inf else ""
    what += f" of at least {least:g}" if least > -math.inf and most == math.inf else ""

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if least <= value <= most and above < value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")

    return read


positive = number(int, above=0)
seconds = number(float, above=0, unit="seconds")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options from which `open_model` opens a classifier."""
    from .backends.backend import BACKENDS

    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model",
        metavar="PATH",
        help="an exported .onnx file, an .engine built from one, a folder of them, a bundle, or a network's name",
    )
    model.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument(
        "--precision", metavar="P", help="of the variant or folder: fp32 (default, but in a bundle its own), fp16, int8"
    )
    parser.add_argument("--backend", default="auto", metavar="B", help=f"auto (default), {', '.join(BACKENDS)}")
    parser.add_argument(
        "--no-rebuild", action="store_true", help="fail rather than build a TensorRT engine that doesn't fit"
    )
    parser.add_argument(
        "--trust-engine", action="store_true", help="load an engine without a manifest: it is code, and will run"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads for one run of the network (default: the backend's)"
    )


def open_model(
    options: argparse.Namespace, lanes: int = 1, model: Union[str, Path, None] = None, shared: bool = False
) -> Classifier:
    """The classifier that the options of `add_model_options` and `add_decoding_options` mean; `model`: with another file;
    `lanes` and `shared`: see runtime.backends.open_backend. Raises UserError."""
    from .networks.classifier import Classifier

    return open_as(Classifier, options, lanes, model, shared)


def open_as(
    kind: Type[Kind],
    options: argparse.Namespace,
    lanes: int = 1,
    model: Union[str, Path, None] = None,
    shared: bool = False,
) -> Kind:
    """The same for another kind of network."""
    return kind(
        model or options.model,
        variant=options.variant,
        precision=None if model else options.precision,  # a file that was found already has its own
        backend=options.backend,
        threads=options.threads,
        engines=engines_of(options),
        decoding=decoding_of(options),
        lanes=lanes,
        shared=shared,
    )


def engines_of(options: argparse.Namespace) -> Engines:
    """How the options of `add_model_options` want engines treated."""
    from .backends.backend import Engines

    return Engines(rebuild=not options.no_rebuild, trust=options.trust_engine)


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """The options from which `decoding_of` makes a Decoding."""
    from .images.decode import DECODING

    group = parser.add_argument_group("decoding")
    group.add_argument("--exact", action="store_true", help="decode all pixels, also of images much larger than needed")
    group.add_argument(
        "--max-bytes",
        type=_size(1024),
        default=DECODING.max_bytes,
        metavar="SIZE",
        help=f"refuse larger files (default {DECODING.max_bytes >> 20}M)",
    )
    group.add_argument(
        "--max-pixels",
        type=_size(1000),
        default=DECODING.max_pixels,
        metavar="N",
        help=f"refuse larger images (default {DECODING.max_pixels // 10**6}M)",
    )
    group.add_argument(
        "--max-seconds",
        type=seconds,
        default=DECODING.max_seconds,
        metavar="S",
        help=f"give up an image that takes longer to decode (default {DECODING.max_seconds:g})",
    )


def decoding_of(options: argparse.Namespace) -> Decoding:
    """How the options of `add_decoding_options` want images decoded."""
    from .images.decode import Decoding

    return Decoding(options.exact, options.max_bytes, options.max_pixels, options.max_seconds)


def _size(thousand: int) -> Callable[[str], int]:
    def size(text: str) -> int:
        try:
            return parse_size(text, thousand)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return size
