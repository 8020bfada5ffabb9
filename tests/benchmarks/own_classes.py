"""Own classes, the whole way: fine-tune, export, calibrate, evaluate, infer, each as the command that a user types.

    python tests/benchmarks/own_classes.py --data photos/ [--variants lite0,v2-b0,b0] [--epochs 2] [--threads 1] [--work DIR]
    python tests/benchmarks/own_classes.py --digits [--epochs 20]      # scikit-learn's digits, from nothing, at 32 px
    python tests/benchmarks/own_classes.py --cifar photos/ --variants b0 [--weights FILE]      # CIFAR-10's preset, on its format
    python tests/benchmarks/own_classes.py --growing photos/ --variants lite0 --epochs 5       # images that grow, against not

Prints a line for each variant: top-1 of the classifier alone and of the best network, the artifacts' accuracy on val,
INT8's agreement with FP32, and minutes. Exits with 1 if a figure is below what it should be. DATA holds train/ and val/.

INT8 is judged twice: as the file says (onnxruntime with its basic optimisations, so Q/DQ around float kernels, as calibration
judges), which is what must hold, and as this machine's integer kernels run it. On x86 processors without VNNI those add in
16 bits and saturate: the same file then loses 10 to 16 dB, with onnxruntime and OpenVINO alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
TOP1, SAME_CLASS, DIGITS = 96.0, 98.5, 97.0  # %, at least
CALIBRATION = 256  # training images, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path)
    what.add_argument("--digits", action="store_true")
    what.add_argument(
        "--cifar", type=Path, metavar="DATA", help="ten classes, shrunk to 32 px in CIFAR-10's binary format"
    )
    what.add_argument("--growing", type=Path, metavar="DATA")
    parser.add_argument("--weights", type=Path, help="checkpoint to start from (of --cifar, --growing)")
    parser.add_argument("--variants", default="lite0,v2-b0,b0")
    parser.add_argument("--epochs", help="default: what follows from the number of images")
    parser.add_argument("--threads", help="of every step that computes")
    parser.add_argument("--work", type=Path, help="where to write, and to go on from (default: a folder that vanishes)")
    given = parser.parse_args()
    threads = ["--threads", given.threads] if given.threads else []
    more = [*(["--epochs", given.epochs] if given.epochs else []), *threads]
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        if given.digits:
            return digits(work, more)
        variants = given.variants.split(",")
        more += ["--weights", str(given.weights.resolve())] if given.weights else []
        if given.cifar:
            return max(cifar(variant, given.cifar.resolve(), work, more) for variant in variants)
        if given.growing:
            return max(growing(variant, given.growing.resolve(), work, more) for variant in variants)
        data = given.data.resolve()
        good = [whole_way(variant, data, work, more, threads) for variant in variants]
        return int(not all(good))


def call(module: str, *arguments: object, **environment: str) -> str:
    """stdout of a command, whose progress goes to this one's stderr. Exits with its status if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def whole_way(variant: str, data: Path, work: Path, more: list[str], threads: list[str]) -> bool:
    began, artifacts, output = time.perf_counter(), work / "artifacts", work / "finetuned"
    call("models.finetune", "--data", data, "--variant", variant, "--output", output, *more)
    trained = json.loads((output / f"{variant}.json").read_text(encoding="utf-8"))
    minutes = (time.perf_counter() - began) / 60
    call("export", "--variant", variant, "--weights", output / f"{variant}.safetensors", "--artifacts", artifacts)
    photographs = some_of(data / "train", work / "calibration")
    call("calibration", "--variant", variant, "--calib", photographs, "--artifacts", artifacts, *threads)
    environment = {"EFFICIENTNET_ARTIFACTS": str(artifacts)}
    evaluate = ("runtime.evaluate", "--variant", variant, "--data", data / "val", "--json", *threads)
    fp32 = json.loads(call(*evaluate, **environment))
    int8 = json.loads(call(*evaluate, "--precision", "int8", "--reference", "fp32", **environment))
    share, exact = as_written(artifacts / variant / variant, data / "val")
    first = next(path for path in sorted((data / "val").rglob("*")) if path.is_file())
    infer = ("runtime.infer", first, "--variant", variant, "--precision", "int8", "--json", *threads)
    answers = json.loads(call(*infer, **environment))
    best = answers["predictions"][0]
    names = {folder.name for folder in (data / "train").iterdir()}
    good = fp32["top1"] >= TOP1 and exact >= SAME_CLASS and best["label"] in names
    print(
        f"{variant:6} classifier alone {trained['epochs'][0]['top1']:.1f} %, best {trained['top1']:.1f} % of {trained['val']} "
        f"after {len(trained['epochs']) - 1} epochs, {minutes:.1f} min; artifacts: FP32 {fp32['top1']:.1f} %, INT8 "
        f"as written {share:.1f} %, same class {exact:.1f} %; by {int8['backend'].split()[0]} {int8['top1']:.1f} %, same class "
        f"{int8['agreement']:.1f} %; {first.parent.name}/{first.name} -> {best['label']} "
        f"{best['probability']:.0%}; whole way {(time.perf_counter() - began) / 60:.1f} min{'' if good else '  TOO LOW'}",
        flush=True,
    )
    return good


def as_written(stem: Path, folder: Path) -> tuple[float, float]:
    """(top-1, same class as FP32) of `stem`.int8.onnx on `folder`, %, with the arithmetic that the file describes."""
    import onnxruntime

    from runtime.networks.classifier import Classifier

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(f"{stem}.int8.onnx", options, providers=["CPUExecutionProvider"])
    fp32 = Classifier(f"{stem}.fp32.onnx", backend="onnxruntime")
    right = same = count = 0
    for path in sorted(folder.glob("*/*")):
        image = fp32.preprocess(path)
        ours = int(session.run(None, {session.get_inputs()[0].name: image})[0].argmax())
        right += fp32.artifact.labels[ours] == path.parent.name
        same += ours == int(fp32.logits(image).argmax())
        count += 1
    return 100 * right / count, 100 * same / count


def some_of(folder: Path, place: Path) -> Path:
    """Links to CALIBRATION images of `folder`, the same number of each class, in `place`."""
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    for one in classes:
        (place / one.name).mkdir(parents=True, exist_ok=True)
        for path in sorted(one.iterdir())[: max(1, CALIBRATION // len(classes))]:
            link = place / one.name / path.name
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    return place


def cifar(variant: str, data: Path, work: Path, more: list[str]) -> int:
    """CIFAR-10's preset on the images of `data`, ten classes, shrunk to 32 px: the format and the way, not the data set."""
    import numpy as np
    from PIL import Image

    place = work / "cifar"
    place.mkdir(parents=True, exist_ok=True)
    classes = sorted(folder.name for folder in (data / "train").iterdir() if folder.is_dir())
    for part, files in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("val", ["test_batch"])):
        rows = []
        for path in sorted((data / part).glob("*/*")):
            square = np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BOX))
            rows.append(bytes([classes.index(path.parent.name)]) + square.transpose(2, 0, 1).tobytes())
        order = np.random.default_rng(0).permutation(len(rows))
        for name, chosen in zip(files, np.array_split(order, len(files))):
            (place / f"{name}.bin").write_bytes(b"".join(rows[i] for i in chosen))
    return trained_well(variant, "CIFAR-10's format", place, work / "finetuned", ["--dataset", "cifar10", *more])


def growing(variant: str, data: Path, work: Path, more: list[str]) -> int:
    """All layers trained on whole images, and on images that begin at 128 px: side by side."""
    ways = (("full size", []), ("growing from 128 px", ["--smallest", "128"]))
    alike = ["--head", "0", *more]
    return max(trained_well(variant, name, data, work / name.split()[0], [*way, *alike]) for name, way in ways)


def trained_well(variant: str, name: str, data: Path, output: Path, more: list[str]) -> int:
    began = time.perf_counter()
    call("models.finetune", "--data", data, "--variant", variant, "--out", output, *more)
    trained = json.loads((output / f"{variant}.json").read_text(encoding="utf-8"))
    epochs = ", ".join(f"{epoch['top1']:.1f}" for epoch in trained["epochs"])
    print(
        f"{variant}, {name}: epochs {epochs} %; best "
        f"{trained['top1']:.1f} % of {trained['val']}, {trained['train']} to train on, "
        f"{(time.perf_counter() - began) / 60:.1f} min",
        flush=True,
    )
    return 0


def digits(work: Path, more: list[str]) -> int:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    held = load_digits()
    for i, (image, label) in enumerate(zip(held.images, held.target)):
        folder = work / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        square = Image.fromarray(np.uint8(image * 255 / 16)).resize((32, 32), Image.Resampling.BICUBIC)
        if not (folder / f"{i}.png").is_file():
            square.save(folder / f"{i}.png")
    how = (
        "--variant",
        "lite0",
        "--weights",
        "random",
        "--resolution",
        32,
        "--crop",
        1,
        "--flip",
        0,
        "--policy",
        "none",
        "--area",
        0.7,
        "--output",
        work / "finetuned",
    )
    began = time.perf_counter()
    call("models.finetune", "--data", work / "digits", *how, *more)
    trained = json.loads((work / "finetuned" / "lite0.json").read_text(encoding="utf-8"))
    print(
        f"digits, lite0 at 32 px from nothing: {trained['top1']:.1f} % of {trained['val']} after {len(trained['epochs']) - 1} "
        f"epochs on {trained['train']}, {(time.perf_counter() - began) / 60:.1f} min"
    )
    return int(trained["top1"] < DIGITS)


if __name__ == "__main__":
    sys.exit(main())
