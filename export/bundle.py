"""Packs all that a device needs into one archive: python -m export.bundle --variant b1 --precision int8"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from runtime.artifacts.artifact import RANDOM_WEIGHTS, Artifact, artifacts_folder, find_artifact, read_artifact
from runtime.artifacts.facts import CLASSIFIER, EMBEDDING
from runtime.artifacts.onnx_metadata import verify
from runtime.backends.tensorrt.manifest import read_engine, read_manifest, require_current
from runtime.bundle_signature import SIGNATURE, SUMS
from runtime.command import run
from runtime.errors import UserError
from runtime.printable import printable
from runtime.whole_file import write_whole

ROOT = Path(__file__).parents[1]

# Which artifacts a device may need for a precision; the first is the one that runs when no other is asked for.
PARTS = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "int8": ("int8", "int8-fp16", "fp16"),  # int8-fp16 is for strongly typed engines, fp16 what INT8 is compared with
}

# Artifacts that differ in one of these are not of the same network, and don't belong together.
_NETWORK = (
    "weights_sha256",
    "padding",
    "batchnorm_epsilon",
    "resolution",
    "crop",
    "interpolation",
    "mean",
    "std",
    "input",
    "labels",
    "outputs",
)

# What a device does not run. Of the fleet it keeps what tells infer and evaluate that there is none.
_NOT_ON_A_DEVICE = ("serving", "sweep", "advise.py", "fleet", "remote.py", "demo.py")
_KEPT = ("runtime/fleet/__init__.py", "runtime/fleet/options.py")

_YEAR_2000 = 946_684_800  # in seconds, as tar counts
_LEVEL = 1  # of gzip: weights hardly shrink, at any level


def bundle(
    variant: str | None,
    precision: str,
    folder: Path | None = None,
    sign: Path | None = None,
    engines: str | None = None,
) -> Path:
    """Writes `<variant>.<precision>.bundle.tar.gz` beside the artifacts of `variant` (None: the one exported last).

    `sign`: a private key for openssl, with which the list of checksums is signed. `engines`: the kind of GPU whose engines go
    into it, as their names have it ("orin-sm87"). Timing caches always do: they serve boards of their kind, and no other takes
    them. But for a signature the same files give the same bytes. Raises UserError if an artifact is missing, damaged, or not
    of the same network as the others; nothing is written then.
    """
    if precision not in PARTS:
        raise UserError(f"There is no bundle for '{precision}': choose {', '.join(PARTS)}.")
    artifacts = _artifacts(variant, precision, folder)
    first = artifacts[0]
    name = first.variant
    files = {f"artifacts/{name}/{artifact.path.name}": artifact.path.read_bytes() for artifact in artifacts}
    for path in _made_on_a_board(first, engines):
        files[f"artifacts/{path.relative_to(first.path.parent.parent).as_posix()}"] = path.read_bytes()
    files["artifacts/latest"] = f"{name} {precision}\n".encode()
    if first.head == CLASSIFIER:
        files["labels.txt"] = "".join(f"{' '.join(label.split())}\n" for label in first.labels).encode()
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files["README.md"] = _readme(first, artifacts, sign is not None).encode()
    files.update(_code())
    sums = (f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(files.items()))
    files[SUMS] = "".join(sums).encode()
    if sign is not None:
        files[SIGNATURE] = _signature(files[SUMS], sign)
    target = first.path.with_name(f"{name}.{precision}.bundle.tar.gz")
    write_whole(target, _archive(f"{name}-{precision}", files))
    return target


def _artifacts(variant: str | None, precision: str, folder: Path | None) -> list[Artifact]:
    """The artifacts that PARTS names, each whole, all of one network."""
    artifacts: list[Artifact] = []
    for part in PARTS[precision]:
        path = find_artifact(variant, part, folder)
        verify(path)
        artifact = read_artifact(path)
        for fact in _NETWORK:
            if artifacts and artifact.metadata.get(fact) != artifacts[0].metadata.get(fact):
                raise UserError(
                    f"{path} and {artifacts[0].path.name} are not of the same network (their {fact} differ): one of them is "
                    f"older. Run 'make export VARIANT={artifact.variant}' and then 'make calibrate VARIANT={artifact.variant}'."
                )
        artifacts.append(artifact)
    return artifacts


def _made_on_a_board(first: Artifact, engines: str | None) -> list[Path]:
    """Timing caches, and the engines for `engines` with what lies beside them."""
    paths = sorted(first.path.parent.parent.glob("timing.*.cache"))
    if engines is None:
        return paths
    engine = first.path.with_name(f"{first.variant}.{first.asked}.{engines}.engine")
    if not engine.is_file():
        raise UserError(f"{engine} is not there: build it on such a board, and copy it here with its .json.")
    manifest = read_manifest(engine)
    read_engine(engine, manifest)
    require_current(engine, manifest)
    return [*paths, *sorted(engine.parent.glob(f"{engine.name}*"))]


def _signature(sums: bytes, key: Path) -> bytes:
    try:
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(key)], input=sums, capture_output=True)
    except FileNotFoundError:
        raise UserError("SIGN= needs openssl, which is not installed.") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise UserError(f"openssl can't sign with {key}: it says {said[0]!r}. An EC or RSA private key in PEM does.")
    return done.stdout


def _code() -> dict[str, bytes]:
    """`runtime/` as far as a device runs it: path -> content."""
    files = {}
    for path in sorted((ROOT / "runtime").rglob("*")):
        relative = path.relative_to(ROOT)
        hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
        left_out = relative.parts[1] in _NOT_ON_A_DEVICE and relative.as_posix() not in _KEPT
        if path.is_file() and not hidden and not left_out:
            files[relative.as_posix()] = path.read_bytes()
    return files


def _archive(folder: str, files: dict[str, bytes]) -> bytes:
    """`files` (path -> content) below `folder`, as a gzipped tar that depends on nothing else."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{path}")
            entry.size, entry.mode = len(content), 0o644
            # A time that follows from the content: Python trusts a .pyc as long as time and size of its source fit, and a
            # bundle unpacked over an older one must not run the old code.
            entry.mtime = _YEAR_2000 + int(hashlib.sha256(content).hexdigest()[:7], 16)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _readme(first: Artifact, artifacts: list[Artifact], signed: bool) -> str:
    variant = first.variant
    rows = [f"| `artifacts/{variant}/{part.path.name}` | {_HELD[part.precision]} |" for part in artifacts]
    return _README.format(
        variant=variant,
        family="" if first.metadata.get("foreign") == "yes" else "EfficientNet ",
        precision=first.precision,
        title=first.precision.upper(),
        purpose=_PURPOSES.get(first.head, "to classify images"),
        gives=_gives(first),
        command=_command(first),
        labels=_LABELS if first.head == CLASSIFIER else "",
        resolution=first.preprocessing.resolution,
        takes=_PIXELS if first.preprocessing.input == "uint8" else "",
        weights=printable(RANDOM_WEIGHTS if first.random else f"{first.weights}, sha256 {first.weights_sha256}"),
        processors=_INT8_ON_PROCESSORS.format(variant=variant) if first.precision == "int8" else "",
        rows="\n".join(rows),
        signed=_SIGNED if signed else "",
    )


def _gives(artifact: Artifact) -> str:
    if artifact.head == CLASSIFIER:
        return f"{artifact.classes} classes"
    return ", ".join(f"`{output.name}` of {output.channels} channels" for output in artifact.outputs)


def _command(artifact: Artifact) -> str:
    """What to run on the device."""
    if artifact.head == CLASSIFIER:
        return (
            "python3 -m runtime.infer photo.jpg                   # an image, a folder of them, or - for standard input"
        )
    if artifact.head == EMBEDDING:
        return "python3 -m runtime.embed photos/ --nearest photo.jpg # what is most like it; --help has the rest"
    shapes = f'{{name: each.shape for name, each in Features(variant="{artifact.variant}")("photo.jpg").items()}}'
    return f"python3 -c 'from runtime import Features; print({shapes})'"


_PURPOSES = {"embedding": "for embeddings of images", "features": "for maps of features of images"}

_LABELS = "\n| `labels.txt` | the classes, one a line, the first is 0 |"

_HELD = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8 (Q/DQ), FP32 elsewhere",
    "int8-fp16": "INT8 (Q/DQ), FP16 elsewhere: for strongly typed TensorRT engines",
}

_PIXELS = """ The network takes the camera's own bytes, uint8 [N, H, W, 3] in the order RGB,
and normalises them itself."""

_INT8_ON_PROCESSORS = """\
On a processor alone, onnxruntime runs this INT8 more slowly than FP32, since it is laid out for TensorRT: an FP32 bundle is the
better one there (`make bundle VARIANT={variant} PRECISION=fp32`, where this one was made).

"""

_SIGNED = """\
The list of checksums is signed (`SHA256SUMS.sig`). With the public key beside this folder, as `efficientnet-edge.pub`, every
command checks the signature and the files before it starts.

"""

_README = """\
# {variant} in {title}, {purpose}

{family}{variant}: {gives}, {resolution} x {resolution} pixels. What to do with an image, and what the numbers that
come out are called, travel inside the ONNX files.{takes}

Weights: {weights}.

```
sha256sum -c SHA256SUMS                              # is everything whole?
python3 -m pip install numpy Pillow onnxruntime      # what is missing of these, on Python 3.8 or newer
{command}
```

{signed}Where pip answers `externally-managed-environment`, first
`python3 -m venv --system-site-packages venv && . venv/bin/activate`.

With TensorRT (a Jetson has JetPack's), onnxruntime is not needed:
`python3 -m runtime.engine --variant {variant} --precision {precision}` builds the engine for this GPU, once.

{processors}| file | what it is |
|---|---|
{rows}
| `artifacts/latest` | what runs if nothing else is asked for |{labels}
| `runtime/` | the code: needs numpy, Pillow and a backend |
| `SHA256SUMS` | checksums of all of this |
| `LICENSE` | of the code |
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.bundle",
        description="Writes artifacts/<variant>/<variant>.<precision>.bundle.tar.gz: unpack it on the device and run it there.",
    )
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument("--precision", choices=sorted(PARTS), required=True)
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the list of checksums with this private key (openssl)"
    )
    parser.add_argument("--engines", metavar="GPU", help="add the engine that such a board has built, as orin-sm87")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to read and write (default: artifacts)")
    options = parser.parse_args(argv)

    folder = options.artifacts or artifacts_folder()
    path = bundle(options.variant, options.precision, folder, options.sign, options.engines)
    print(f"wrote {path}  {path.stat().st_size / 1e6:.1f} MB")
    inside = f"{path.parent.name}-{options.precision}"
    artifact = read_artifact(find_artifact(options.variant, options.precision, folder))
    print(f"on the device: tar xzf {path.name} && cd {inside} && {_command(artifact).partition('#')[0].strip()}")
    return 0


if __name__ == "__main__":
    run(main)
