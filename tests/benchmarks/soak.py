"""Months in minutes: many images through `Classifier` and through `python -m runtime.infer folder/`, and what grows.

    python tests/benchmarks/soak.py [--model FILE] [--calls 100000] [--pictures 20000] [--backend B] [--json FILE]

Images are small, in five formats, and one in ten is damaged, so that what is counted is the code around the network;
without --model the network is a small one, too. The table has the resident memory's slope over the last nine tenths (least
squares, with its standard error), file descriptors, threads, and whether the answers at the end are those of the
beginning, bit for bit. Exits with 1 where an answer differs, descriptors or threads grow in number, or memory grows by more than
--limit % between the first tenth and the end. Resident memory also holds what the allocator keeps free: see
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from runtime.images.decode import ImageError  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402
from runtime.progress import Line, time_left  # noqa: E402

SAMPLES = 200
FORMS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF"}


class Sample(NamedTuple):
    """A process at one moment."""

    done: int  # images
    resident: int  # bytes
    descriptors: int
    threads: int


def sample(done: int, process: int) -> Sample:
    folder = Path(f"/proc/{process}")
    pages = int((folder / "statm").read_text().split()[1])
    return Sample(
        done, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))
    )


def slope(samples: List[Sample]) -> Tuple[float, float]:
    """Bytes per 1,000 images and their standard error; what warms up, the first tenth, is left out."""
    kept = samples[len(samples) // 10 :]
    x = np.array([each.done for each in kept], float) / 1000
    y = np.array([each.resident for each in kept], float)
    x -= x.mean()
    spread = float((x**2).sum())
    found = float((x * y).sum()) / spread
    rest = y - y.mean() - found * x
    return found, math.sqrt(float((rest**2).sum()) / max(len(x) - 2, 1) / spread)


def pictures() -> Dict[str, bytes]:
    """The test images at 160 px in each format, and a damaged one of each."""
    found: Dict[str, bytes] = {}
    for source in ("corgi.jpg", "lighthouse.jpg"):
        with Image.open(ROOT / "tests" / "data" / source) as image:
            image.thumbnail((160, 160))
            for suffix, form in FORMS.items():
                file = io.BytesIO()
                image.save(file, form)
                found[f"{source[:-4]}.{suffix}"] = file.getvalue()
    found["damaged.jpg"] = found["corgi.jpg"][:900]
    return found


def through_classifier(model: str, backend: str, calls: int, line: Line) -> Dict[str, Any]:
    """`calls` images one by one in this process."""
    contents = list(pictures().values())
    began, samples, errors = time.monotonic(), [], 0
    with Classifier(model, backend=backend) as classify:

        def answers() -> str:
            return hashlib.sha256(classify.logits(classify.preprocess(contents[:-1])).tobytes()).hexdigest()

        first = answers()
        for done in range(calls):
            if done % max(1, calls // SAMPLES) == 0:
                samples.append(sample(done, os.getpid()))
                line.show(f"Classifier {done} of {calls}{time_left(done, calls, time.monotonic() - began)}")
            try:
                classify(contents[done % len(contents)])
            except ImageError:
                errors += 1
        samples.append(sample(calls, os.getpid()))
        same = answers() == first
        where = classify.backend.description
    return summed("Classifier", calls, samples, same, errors, time.monotonic() - began, where)


def through_infer(model: str, backend: str, count: int, line: Line) -> Dict[str, Any]:
    """`count` images in a folder, by the command; the same image must get the same answer, wherever it stands."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        contents = pictures()
        for name, content in contents.items():
            (Path(scratch) / name).write_bytes(content)
        names = list(contents)
        for i in range(count):  # links: twenty thousand files of nothing
            os.link(Path(scratch) / names[i % len(names)], folder / f"{i:06}-{names[i % len(names)]}")
        command = [sys.executable, "-m", "runtime.infer", str(folder), "--model", model, "--backend", backend, "--json"]
        began, samples, known, same, errors, done = time.monotonic(), [], {}, True, 0, 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
        assert process.stdout is not None
        for done, text in enumerate(process.stdout, 1):
            answer = json.loads(text)
            errors += "error" in answer
            picture = answer["file"].partition("-")[2]
            answer["file"] = ""
            answer["error"] = answer.get("error", "").rpartition(":")[2]
            same = same and known.setdefault(picture, answer) == answer
            same = same and os.path.basename(picture) == names[(done - 1) % len(names)]  # in order
            if done % max(1, count // SAMPLES) == 0 and done < count:
                samples.append(sample(done, process.pid))
                line.show(f"infer {done} of {count}{time_left(done, count, time.monotonic() - began)}")
        same = process.wait() == (1 if errors else 0) and same and done == count
    samples = samples[
        : -max(1, len(samples) // 50)
    ]  # what is read from the pipe last was written by a process at its end
    return summed("infer folder/", done, samples, same, errors, time.monotonic() - began, backend)


def summed(
    way: str, pictures: int, samples: List[Sample], same: bool, errors: int, seconds: float, backend: str
) -> Dict[str, Any]:
    grows, error = slope(samples)
    settled = samples[len(samples) // 10 :]
    return {
        "way": way,
        "pictures": pictures,
        "refused": errors,
        "seconds": round(seconds, 1),
        "backend": backend,
        "resident_begin_mb": settled[0].resident / 1e6,
        "resident_end_mb": settled[-1].resident / 1e6,
        "bytes_per_1000": grows,
        "standard_error": error,
        "descriptors": [min(each.descriptors for each in settled), max(each.descriptors for each in settled)],
        "threads": [min(each.threads for each in settled), max(each.threads for each in settled)],
        "more_descriptors": _more([each.descriptors for each in settled]),
        "more_threads": _more([each.threads for each in settled]),
        "same_answers": same,
    }


def _more(counts: List[int]) -> int:
    """How many more there are in the second half than ever in the first: files that are being read come and go."""
    half = len(counts) // 2
    return max(counts[half:]) - max(counts[:half])


def table(rows: List[Dict[str, Any]]) -> str:
    lines = [
        "| way | images | refused, as they should | minutes | resident MB, after a tenth and at the end | "
        "bytes per 1,000 images | descriptors | threads | same answers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spans = [" to ".join(dict.fromkeys(map(str, row[key]))) for key in ("descriptors", "threads")]
        lines.append(
            f"| {row['way']} | {row['pictures']:,} | {row['refused']:,} | {row['seconds'] / 60:.1f} | "
            f"{row['resident_begin_mb']:.1f}, {row['resident_end_mb']:.1f} | "
            f"{row['bytes_per_1000']:+,.0f} ± {row['standard_error']:,.0f} | {spans[0]} | {spans[1]} | "
            f"{'yes' if row['same_answers'] else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", metavar="FILE", help="an exported .onnx file or an engine (default: a small network)"
    )
    parser.add_argument("--backend", default="onnxruntime", metavar="B")
    parser.add_argument("--calls", type=int, default=100_000, metavar="N", help="through Classifier (100,000)")
    parser.add_argument("--pictures", type=int, default=20_000, metavar="N", help="through runtime.infer (20,000)")
    parser.add_argument("--limit", type=float, default=5.0, metavar="%%", help="of resident memory (5)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        print("memory is read from /proc, which is not here", file=sys.stderr)
        return 2
    line, rows = Line(pause=30.0), []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or small(Path(folder))
        if options.calls:
            rows.append(through_classifier(model, options.backend, options.calls, line))
        if options.pictures:
            rows.append(through_infer(model, options.backend, options.pictures, line))
    line.end(erase=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    steady = all(row["same_answers"] and row["more_descriptors"] <= 0 and row["more_threads"] <= 0 for row in rows)
    flat = all(row["resident_end_mb"] < row["resident_begin_mb"] * (1 + options.limit / 100) for row in rows)
    return 0 if steady and flat else 1


def small(folder: Path) -> str:
    """The network of calibration's tests, written by a process of its own: onnx is not to be in this one."""
    program = (
        "import pathlib, sys; from tests.calibration.small_network import small_model, write_artifact\n"
        "write_artifact(pathlib.Path(sys.argv[1]), small_model())"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, cwd=ROOT)
    return str(folder / "small" / "small.fp32.onnx")


if __name__ == "__main__":
    sys.exit(main())
