"""Start to first prediction, whole process: python -m runtime.infer against a bare script that does the same.

    python tests/benchmarks/startup.py [--model FILE] [--image FILE] [--pairs N] [--limit RATIO]

The two run by turns, because a machine's speed drifts: what counts is the median of the pairs' ratios. Exits with 1 if
that is above --limit. The bare script has numpy, Pillow and onnxruntime and nothing else: no metadata, no options, no
checks, one image format's worth of handling.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.artifacts.artifact import Artifact, find_artifact, read_artifact  # noqa: E402

BARE = """\
import json, sys
import numpy as np
import onnxruntime as ort
from PIL import Image

image = Image.open({image!r}).convert("RGB")
scale = {resize_to} / min(image.size)
image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.{method})
left, top = (image.width - {side}) // 2, (image.height - {side}) // 2
pixels = np.asarray(image.crop((left, top, left + {side}, top + {side})), np.float32) / 255
batch = ((pixels - np.float32({mean})) / np.float32({std})).transpose(2, 0, 1)[None]
session = ort.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
logits = session.run(None, {{"images": np.ascontiguousarray(batch)}})[0][0]
p = np.exp(logits - logits.max())
p /= p.sum()
labels = json.load(open({labels!r}))
for i in np.argsort(-p)[:5]:
    print(f"{{p[i]:7.2%}}  {{labels[i]}}")
"""


def bare_script(artifact: Artifact, image: Path, folder: Path) -> List[str]:
    """The command that runs the bare script, written into `folder` with its labels."""
    recipe, labels, script = artifact.preprocessing, folder / "labels.json", folder / "bare.py"
    labels.write_text(json.dumps(artifact.labels), encoding="utf-8")
    script.write_text(
        BARE.format(
            image=str(image),
            model=str(artifact.path),
            labels=str(labels),
            resize_to=recipe.resize_to,
            side=recipe.resolution,
            method=recipe.interpolation.upper(),
            mean=list(recipe.mean),
            std=list(recipe.std),
        ),
        encoding="utf-8",
    )
    return [sys.executable, str(script)]


def timed(command: Sequence[str]) -> float:
    """Seconds from start to exit of `command`."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def best_class(command: Sequence[str], labels: Sequence[str]) -> str:
    """The label that `command` prints first."""
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    return next(line.split("%", 1)[1].strip() for line in printed.splitlines() if "%  " in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="default: the artifact exported last")
    parser.add_argument("--image", type=Path, default=ROOT / "tests" / "data" / "lighthouse.jpg")
    parser.add_argument("--pairs", type=int, default=21, help="runs of each (default 21)")
    parser.add_argument("--limit", type=float, default=1.25, help="highest ratio that is accepted (default 1.25)")
    options = parser.parse_args()

    artifact = read_artifact((options.model or find_artifact()).resolve())
    image = options.image.resolve()
    ours = [sys.executable, "-m", "runtime.infer", "--model", str(artifact.path), str(image)]
    with tempfile.TemporaryDirectory() as folder:
        commands = {"bare": bare_script(artifact, image, Path(folder)), "ours": ours}
        answers = {best_class(command, artifact.labels) for command in commands.values()}  # and fills the file caches
        if len(answers) > 1:
            print(f"The two do not do the same: {' / '.join(sorted(answers))}", file=sys.stderr)
            return 1
        spent: Dict[str, List[float]] = {name: [] for name in commands}
        for pair in range(options.pairs):
            for name in sorted(commands, reverse=pair % 2 == 1):  # neither always has the other's warm caches
                spent[name].append(timed(commands[name]))
    ratios = sorted(one / other for one, other in zip(spent["ours"], spent["bare"]))
    ratio, (low, _, high) = statistics.median(ratios), statistics.quantiles(ratios, n=4)
    print(f"{artifact.variant} {artifact.precision}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    for name, seconds in spent.items():
        print(f"{name}   median {statistics.median(seconds) * 1e3:4.0f} ms, fastest {min(seconds) * 1e3:4.0f} ms")
    print(
        f"ratio  median {ratio:.3f} of {options.pairs} pairs (quartiles {low:.3f} to {high:.3f}), limit {options.limit}"
    )
    return 0 if ratio <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
