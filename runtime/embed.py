"""Embeddings of images, and the nearest of them: python -m runtime.embed photos/ [--nearest photo.jpg --sheet nearest.png]"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .command import add_decoding_options, add_model_options, open_as, positive, run
from .errors import UserError
from .images.find import STANDARD_INPUT, find_images
from .invocation import typed
from .networks import embeddings as store
from .networks.embedder import Embedder, unit
from .networks.embeddings import Embeddings, Neighbour, Origin
from .printable import printable
from .progress import Progress

OUT = Path("embeddings.npy")


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("embed"),
        description="Writes an embedding (a vector) for each image, and finds the images that are most similar to one.",
        epilog="Exit status: 0 all embedded, 1 some failed, 2 wrong use.",
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="images, folders or quoted patterns; or with --nearest one .npy or .parquet that this command wrote",
    )
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"a .npy or .parquet file; may be given twice (default: {OUT}, but with --nearest none)",
    )
    parser.add_argument(
        "--raw", action="store_true", help="vectors as the network gives them, not divided by their length"
    )
    parser.add_argument("--nearest", metavar="IMAGE", help="print the images most similar to this one")
    parser.add_argument("--top", type=positive, metavar="N", help="how many of them (default 9)")
    parser.add_argument("--count", dest="top", type=positive, help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw them: a .png, .jpg or .webp file")
    parser.add_argument("--picture", dest="sheet", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    add_model_options(parser)
    add_decoding_options(parser)
    options = parser.parse_args(argv)
    stored = _stored(parser, options)

    for path in options.out or []:
        store.require_suffix(path)
    if options.sheet:
        from .networks.contact_sheet import require_format

        require_format(str(options.sheet), options.sheet.suffix, options.top)
    known = store.read(stored) if stored else None
    images = [] if stored else _files(options.source)
    with _opened(options, known, stored) as network:
        print(printable(f"answering: {network.artifact.told} on {network.backend.description}"), file=sys.stderr)
        if network.artifact.random:
            print(f"{network.artifact.path}: random weights: what is near means nothing", file=sys.stderr)
        query = network([options.nearest], raw=True)[0] if options.nearest else None  # before hours of work, not after
        failed = 0
        if known is None:
            known, failed = embed(network, images, raw=options.raw)
    result: Dict[str, Any] = {"variant": known.origin.variant, "precision": known.origin.precision}
    result.update(embeddings=len(known.files), failed=failed)
    if not stored and not known.files:
        print("error: none of the images could be embedded: nothing was written", file=sys.stderr)
        return 1
    lines = [] if stored else [_told(known, failed)]
    for path in [] if stored else options.out or ([] if options.nearest else [OUT]):
        store.write(path, known)
        result.setdefault("wrote", []).append(str(path))
        beside = f", the file names in {store.names_file(path).name}" if path.suffix.lower() == ".npy" else ""
        lines.append(f"wrote {path}  {path.stat().st_size / 1e6:.1f} MB{beside}")
    if query is not None:
        found = store.nearest(known, query, options.top, options.nearest)
        result.update(query=options.nearest, nearest=[neighbour._asdict() for neighbour in found])
        lines += [f"nearest to {options.nearest}, of {len(known.files)}:"]
        lines += [f"  {neighbour.similarity:7.4f}  {neighbour.file}" for neighbour in found]
        if options.sheet:
            _draw(known, options, found)
            result["picture"] = str(options.sheet)
            lines.append(f"wrote {options.sheet}")
    print(json.dumps(result) if options.json else "\n".join(map(printable, lines)))
    return 1 if failed else 0


def embed(network: Embedder, images: Sequence[str], raw: bool = False) -> Tuple[Embeddings, int]:
    """The embeddings of all `images` (paths) that can be read, in their order, and how many can't: each is named on stderr.
    Rows have length 1 unless `raw`. Memory: a row each, and a few batches of pixels."""
    from .networks.pipeline import overlapped

    rows = np.empty((len(images), network.artifact.outputs[0].channels), np.float32)
    files: List[str] = []
    progress, failed = Progress("embedding"), 0
    try:
        answers = overlapped([network], images, lambda path: (path, path), decoding=network.decoding)
        for done, answer in enumerate(answers, 1):
            if answer.error is not None:
                failed += 1
                progress.end(erase=True)
                print(f"error: {printable(str(answer.error))}", file=sys.stderr)
            else:
                rows[len(files)] = answer.logits[0]
                files.append(answer.item)
            progress(done, len(images))
    finally:
        progress.end(erase=True)
    rows = rows[: len(files)]
    if not raw:
        for start in range(0, len(rows), 4096):  # in place: a second array of 50,000 rows would be 256 MB
            rows[start : start + 4096] = unit(rows[start : start + 4096])
    return Embeddings(files, rows, Origin.of(network.artifact, not raw)), failed


def _stored(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Optional[Path]:
    """The file of embeddings that is named as the source. Ends the command for options that do not go together."""
    if not options.nearest and (options.sheet or options.top):
        parser.error("--sheet and --top go with --nearest")
    options.top = options.top or 9
    named = [source for source in options.source if Path(source).suffix.lower() in store.SUFFIXES]
    if not named:
        return None
    if len(options.source) > 1:
        parser.error(f"{named[0]} holds embeddings: it is the only source, or none")
    if not options.nearest:
        parser.error(f"{named[0]} holds embeddings already: --nearest IMAGE searches in them")
    if options.out or options.raw:
        parser.error("--out and --raw go with images")
    return Path(named[0])


def _files(arguments: Sequence[str]) -> List[str]:
    if STANDARD_INPUT in arguments:
        raise UserError("Images on standard input have no name to find them by: name files or folders.")
    return [str(source) for _, source in find_images(arguments)]


def _opened(options: argparse.Namespace, known: Optional[Embeddings], stored: Optional[Path]) -> Embedder:
    """The network that the options name. If they name none, the one that made the file to be searched."""
    from .networks.pipeline import lanes_here

    if known is not None and not options.model and not options.variant:
        options.variant, options.precision = known.origin.variant, options.precision or known.origin.precision
    network = open_as(Embedder, options, 1 if stored else lanes_here())
    if known is not None and stored is not None:
        store.require_same(known, network.artifact, stored)
    return network


def _told(known: Embeddings, failed: int) -> str:
    length = ", each of length 1" if known.origin.unit else ""
    made = f"{known.origin.variant} {known.origin.precision}"
    text = f"{len(known.files)} images, {known.rows.shape[1]} values each{length}, by {made}"
    return f"{text}; {failed} could not be embedded" if failed else text


def _draw(known: Embeddings, options: argparse.Namespace, found: Sequence[Neighbour]) -> None:
    from .command import decoding_of
    from .networks.contact_sheet import Cell, contact_sheet
    from .whole_file import write_whole

    cells = [Cell(known.path(each.file), f"{each.similarity:.3f}", each.file) for each in found]
    query = Cell(options.nearest, "looked for", options.nearest)
    write_whole(options.sheet, contact_sheet(query, cells, options.sheet.suffix, decoding_of(options)))


if __name__ == "__main__":
    run(main)
