"""Writes a model repository for NVIDIA Triton: python -m runtime.serving --variants b0,b4 --precision int8"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ..command import positive, run
from ..invocation import typed
from ..printable import printable


def main(argv: Optional[Sequence[str]] = None) -> int:
    from ..artifacts.artifact import PRECISIONS, artifacts_folder
    from ..backends.backend import BACKENDS
    from ..errors import UserError
    from ..sweep.plan import variants_of
    from ..sweep.rows import read_rows
    from .config import DEVICES
    from .repository import KINDS, Wanted, write_repository

    def kinds(text: str) -> Tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in names if name not in KINDS]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no model '{unknown[0]}': choose of {', '.join(KINDS)}")
        return names

    parser = argparse.ArgumentParser(
        prog=typed("serving"),
        description="Writes a model repository for NVIDIA Triton, which loads it as it is; a second run adds a version of "
        "what has changed.",
        epilog="docs/triton.md has the way from here to a running container.",
    )
    parser.add_argument("--variants", required=True, metavar="V", help="exported variants: b0,b4 or b0..b3")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS[:3], help="(default: fp32)")
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="where to write (default: artifacts/triton-gpu or triton-cpu)"
    )
    parser.add_argument("--device", choices=DEVICES, default="gpu", help="of the server (default: gpu)")
    parser.add_argument(
        "--models", type=kinds, metavar="M", help=f"some of {','.join(KINDS)} (default: all that the device has)"
    )
    parser.add_argument(
        "--backend", default="auto", choices=("auto", *BACKENDS), help="of the python models (default: auto)"
    )
    parser.add_argument("--instances", type=positive, metavar="N", help="processes of each python model, on each GPU")
    parser.add_argument(
        "--sweep", type=Path, metavar="DIR", help="a sweep with several batch sizes, to take batching from"
    )
    options = parser.parse_args(argv)

    if "tensorrt" in (options.models or ()) and options.device == "cpu":
        raise UserError("TensorRT has no models for a processor: leave tensorrt out of --models, or --device cpu.")
    models = options.models or tuple(kind for kind in KINDS if options.device == "gpu" or kind != "tensorrt")
    sweep = read_rows(options.sweep) if options.sweep else None
    wanted = Wanted(models, options.device, options.backend, options.instances, sweep)
    folder: Path = options.repository or artifacts_folder() / f"triton-{options.device}"
    names = set()
    for written in write_repository(variants_of(options.variants), options.precision, folder, wanted):
        state = "wrote" if written.new else "up to date"
        print(printable(f"{state}  {folder / written.name}, version {written.version}"))
        if written.batching:
            print(printable(f"  {written.batching}"))
        names.add(written.name)
    others = sorted(path.parent.name for path in folder.glob("*/config.pbtxt") if path.parent.name not in names)
    if others:
        print(printable(f"also in {folder}, from before: {', '.join(others)}"))
    print(f"tritonserver --model-repository={folder.resolve()}")
    return 0


if __name__ == "__main__":
    run(main)
