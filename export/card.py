"""A model folder that is ready to push to a hub, with its model card: python -m export.card --variant b1

Everything in it is what the artifacts and the sweeps in reports/ say. Nothing is pushed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from export.model_card import Measured, readme
from runtime.artifacts.artifact import PRECISIONS, artifacts_folder, find_artifact, read_artifact
from runtime.artifacts.facts import CLASSIFIER
from runtime.artifacts.onnx_metadata import verify
from runtime.command import run
from runtime.errors import UserError
from runtime.sweep.rows import Report, read_rows
from runtime.whole_file import write_whole

SUMS = "SHA256SUMS"
_ATTRIBUTES = b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"  # git keeps large files apart


def card(
    variant: str | None,
    folder: Path | None = None,
    reports: Path = Path("reports"),
    licence: str | None = None,
    replace: bool = False,
) -> Path:
    """Writes artifacts/<variant>/card/: the artifacts of `variant` (None: the one exported last) in every precision that is
    there, class names, checksums, and README.md, a model card. `licence` is that of the weights, where the user knows it.

    Raises UserError for random weights, for artifacts that are damaged or stale, and where README.md was edited since (`replace`
    writes it anew).
    """
    first = find_artifact(variant, None, folder)
    paths = [first.with_name(f"{first.parent.name}.{precision}.onnx") for precision in PRECISIONS]
    artifacts = [read_artifact(path) for path in paths if path.is_file()]
    for artifact in artifacts:
        verify(artifact.path)
    one = artifacts[0]
    if one.random:
        raise UserError(f"{one.path} has random weights: a model card is for weights that somebody trained.")
    target = one.path.parent / "card"
    before = _sums(target)
    edited = target / "README.md"
    if edited.is_file() and not replace and before.get("README.md") != _sha256(edited.read_bytes()):
        raise UserError(f"{edited} was edited since: FORCE=1 replaces it.")
    measured = list(_measured(reports, {artifact.metadata["sha256"] for artifact in artifacts}))
    files = {artifact.path.name: artifact.path.read_bytes() for artifact in artifacts}
    if one.head == CLASSIFIER:
        files["labels.txt"] = "".join(f"{' '.join(label.split())}\n" for label in one.labels).encode()
    files[".gitattributes"] = _ATTRIBUTES
    files["README.md"] = readme(artifacts, measured, licence).encode()
    sums = "".join(f"{_sha256(content)}  {name}\n" for name, content in sorted(files.items()))
    for gone in set(before) - set(files):  # what an earlier run wrote, and nothing else
        (target / Path(gone).name).unlink(missing_ok=True)
    for name, content in files.items():
        write_whole(target / name, content)
    write_whole(target / SUMS, sums.encode())
    return target


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """Name -> sha256 of the files that an earlier run wrote."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _measured(reports: Path, wanted: set[str]) -> Iterator[Measured]:
    """What sweeps measured of the files with these checksums, one image at a time; of equal combinations the newest."""
    found: dict[tuple[str, str, str], Measured] = {}
    for file in sorted(reports.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime):
        try:
            report = read_rows(file)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)
            continue
        for row in report.rows:
            if row.sha256 in wanted and row.batch == 1 and (row.latency or row.accuracy):
                found[row.sha256, row.backend_name, _machine(report)] = Measured(row, _machine(report))
    yield from found.values()


def _machine(report: Report) -> str:
    """The machine in words, without its name: its board, or its processor and GPU."""
    known = report.machine
    gpus = [gpu["name"] for gpu in known.get("gpus", []) if "name" in gpu]
    cpu = f"{known.get('cpu', known.get('architecture', 'unknown CPU'))}, {known.get('cores', '?')} cores"
    return str(known.get("jetson", {}).get("model") or ", ".join([*gpus, cpu]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.card",
        description="Writes artifacts/<variant>/card/, a model folder with its card, ready to push. Pushes nothing.",
    )
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument("--licence", metavar="NAME", help="of the weights, as the hub writes it: apache-2.0")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to read and write (default: artifacts)")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR", help="of sweeps (default: reports)"
    )
    parser.add_argument("--force", action="store_true", help="replace a README.md that was edited")
    options = parser.parse_args(argv)
    folder = card(
        options.variant, options.artifacts or artifacts_folder(), options.reports, options.licence, options.force
    )
    for path in sorted(folder.iterdir()):
        if path.is_file():
            print(f"wrote {path}  {path.stat().st_size / 1e6:.2f} MB")
    if "\nlicense:" not in (folder / "README.md").read_text(encoding="utf-8"):
        print("NOTE  the licence of the weights is not known: LICENCE=apache-2.0 states it", file=sys.stderr)
    print(f"read {folder / 'README.md'}; then, to publish: hf upload OWNER/NAME {folder}")
    return 0


if __name__ == "__main__":
    run(main)
