"""Large JPEGs decoded at a fraction: what it saves, and whether the network still says the same.

    python tests/benchmarks/decoding.py [--images DIR] [--models A,B] [--limit N] [--rounds N] [--times-only]

Times: an image enlarged to 12 megapixels, without and with the fine detail that a camera would have seen, and one
of 500 x 375, each decoded and preprocessed by turns in every way that is installed here. They are CPU times, which
other programs disturb less (nothing here runs on several cores but pyvips); ratios are medians over the rounds.
Answers: each image of DIR (labels.csv says what they show) enlarged in both ways, preprocessed exactly and as by
default, and classified by each of the models.

Exits with 1 if without fine detail fewer than 99.7 % of a model's answers are the same, or if the fraction saves less
than four fifths of what plain Pillow code takes.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from runtime.images.decode import Decoding, open_image  # noqa: E402
from runtime.images.preprocess import Preprocessing, normalize, preprocess, resize_crop  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402
from runtime.progress import Line  # noqa: E402

B0 = Preprocessing(224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LARGE, ORDINARY = (4032, 3024), (500, 375)
QUALITY = 92  # what phones write
NOISE = 3.0  # standard deviation, of 255: a sensor's at moderate gain
SLOPE = 1.23  # amplitude of detail falls with frequency ** -SLOPE: by 0.85 an octave, as measured on 50 of the images
LENS = 0.35  # cycles per pixel, where a lens and a demosaicer leave 1/e
EXACT = Decoding(exact=True)
PLAIN = "plain Pillow code"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, metavar="DIR", help="images (default: two that come along)")
    parser.add_argument(
        "--models", default="", metavar="A,B", help="exported .onnx files (default: the one exported last)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only every k-th image, so that about N are taken")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="of each timing (default 15)")
    parser.add_argument("--times-only", action="store_true")
    parser.add_argument(
        "--size", default="4032x3024", metavar="WxH", help="what images are enlarged to for the answers"
    )
    given = parser.parse_args()
    folder = given.images or ROOT / "tests" / "data"
    files = sorted(path for path in folder.rglob("*.jp*g"))
    files = files[:: max(1, len(files) // given.limit)] if given.limit else files
    saved = times(files[0], given.rounds)
    if given.times_only:
        return int(saved < 5)
    width, height = map(int, given.size.split("x"))
    same = answers(files, [Classifier(model or None) for model in given.models.split(",")], (width, height))
    return int(same < 0.997 or saved < 5)


def encoded(photograph: Image.Image, size: Tuple[int, int], fine: bool, seed: int = 0) -> bytes:
    """`image`, its sides mirrored to the shape of `size`, enlarged to it, with a sensor's noise; `fine`, also with
    detail beyond what the image has: noise of the spectrum of images, strong where the image is busy."""
    pixels = np.asarray(photograph)
    wider = max(0, round(pixels.shape[0] * size[0] / size[1]) - pixels.shape[1])
    pixels = np.pad(pixels, ((0, 0), (wider // 2, wider - wider // 2), (0, 0)), "symmetric")
    photograph = Image.fromarray(pixels)
    large = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    shift = (seed * 331 % size[1], seed * 577 % size[0])  # other noise for each, without making it anew
    large += np.roll(noise(size), shift, (0, 1))[..., None]
    if fine:
        large += (np.roll(detail(size, photograph.height), shift, (0, 1)) * activity(photograph, size))[..., None]
    stream = io.BytesIO()
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


@lru_cache(1)
def noise(size: Tuple[int, int]) -> np.ndarray:
    return np.random.RandomState(0).normal(0, NOISE, (size[1], size[0])).astype(np.float32)


@lru_cache(1)
def detail(size: Tuple[int, int], height: int) -> np.ndarray:
    """Noise above the finest frequency of an image of `height` px enlarged to `size`; standard deviation 1 in the
    first octave. float32 [H, W]."""
    side = 2048
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    finest = 0.5 * height / size[1]
    spectrum = np.fft.rfft2(np.random.RandomState(1).normal(size=(side, side)))
    spectrum *= np.where(frequency > finest, np.maximum(frequency, finest) ** -SLOPE, 0)
    octave = np.fft.irfft2(spectrum * (frequency < 2 * finest)).std()
    tile = np.fft.irfft2(spectrum * np.exp(-((frequency / LENS) ** 2))) / octave
    repeats = (-(-size[1] // side), -(-size[0] // side))
    return np.tile(tile.astype(np.float32), repeats)[: size[1], : size[0]]


def activity(photograph: Image.Image, size: Tuple[int, int]) -> np.ndarray:
    """Local standard deviation of the image's own finest octave. float32 [H, W] for `size`."""
    grey = photograph.convert("L")
    coarse = grey.resize((grey.width // 2, grey.height // 2), Image.Resampling.BOX).resize(
        grey.size, Image.Resampling.BICUBIC
    )
    squares = np.square(np.asarray(grey, np.float32) - np.asarray(coarse, np.float32))
    smooth = Image.fromarray(squares).resize((grey.width // 8, grey.height // 8), Image.Resampling.BOX)
    return np.sqrt(np.asarray(smooth.resize(size, Image.Resampling.BILINEAR)).clip(0))


def plain(data: bytes) -> np.ndarray:
    """As it is written everywhere."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    normalised = (pixels - np.array(B0.mean, np.float32)) / np.array(B0.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def decoders(data: bytes, size: Tuple[int, int]) -> Iterator[Tuple[str, int, Callable[[], Any]]]:
    """(library, fraction, decoding) for each that is installed."""
    fractions = (1, 2, 4, 8) if size == LARGE else (1,)

    def pillow(n: int) -> None:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (size[0] // n, size[1] // n))
        image.load()

    for n in fractions:
        yield "Pillow", n, lambda n=n: pillow(n)  # type: ignore[misc]
    try:
        import simplejpeg

        for n in fractions:
            yield (
                "simplejpeg",
                n,
                lambda n=n: simplejpeg.decode_jpeg(data, "RGB", True, False, size[1] // n, size[0] // n, 1),
            )  # type: ignore[misc]
    except ImportError:
        pass
    try:
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()
        for n in fractions:
            yield "PyTurboJPEG", n, lambda n=n: turbo.decode(data, turbojpeg.TJPF_RGB, (1, n))  # type: ignore[misc]
    except (ImportError, RuntimeError):
        pass
    try:
        import cv2

        cv2.setNumThreads(1)
        coded = np.frombuffer(data, np.uint8)
        modes = {n: cv2.IMREAD_COLOR if n == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{n}") for n in fractions}
        for n in fractions:
            yield "OpenCV", n, lambda n=n: cv2.imdecode(coded, modes[n])  # type: ignore[misc]
    except ImportError:
        pass
    try:
        import pyvips

        for n in fractions:
            yield "pyvips", n, lambda n=n: pyvips.Image.jpegload_buffer(data, shrink=n).numpy()  # type: ignore[misc]
    except (ImportError, OSError):
        pass


def times(file: Path, rounds: int) -> float:
    """Prints a table for each size. How many times quicker than plain Pillow code the large one is."""
    saved = 0.0
    for size, fine in ((LARGE, True), (LARGE, False), (ORDINARY, False)):
        data = encoded(Image.open(file).convert("RGB"), size, fine)
        seen = by_turns(ways(data, size), rounds if size == LARGE else 20 * rounds)
        fine_detail = ", with fine detail" if fine else ""
        print(
            f"\n{size[0]} x {size[1]}{fine_detail}, {len(data) / 1e6:.2f} MB; ms (quickest, median), part of the first"
        )
        for name, values in seen.items():
            ratio = statistics.median(value / base for value, base in zip(values, seen[PLAIN]))
            print(f"  {name:20} {min(values):8.2f} {statistics.median(values):8.2f}   {ratio:.3f}")
        if size == LARGE:
            saved = statistics.median(a / b for a, b in zip(seen[PLAIN], seen["preprocess"]))
            from_exact = statistics.median(a / b for a, b in zip(seen["preprocess, exact"], seen["preprocess"]))
            print(
                f"  {saved:.2f} times quicker than plain Pillow code, {from_exact:.2f} times than exact preprocessing"
            )
        elif "simplejpeg 1/1" in seen:
            turbo = seen["simplejpeg 1/1"]
            alone = statistics.median(a / b for a, b in zip(seen["its open_image"], turbo))
            both = zip(seen["its open_image"], seen["resize_crop of all"], turbo)
            resized = statistics.median((mine + resize) / (other + resize) for mine, resize, other in both)
            print(
                f"  open_image takes {alone:.2f} times libjpeg-turbo's decoding, with the same resizing {resized:.2f} times"
            )
    return saved


def ways(data: bytes, size: Tuple[int, int]) -> Dict[str, Callable[[], Any]]:
    exact = open_image(data, decoding=EXACT)
    return {
        PLAIN: lambda: plain(data),
        "preprocess, exact": lambda: preprocess(data, B0, decoding=EXACT),
        "preprocess": lambda: preprocess(data, B0),
        "its open_image": lambda: open_image(data, at_least=B0.resize_to),
        "resize_crop of all": lambda: resize_crop(exact, B0),
        **{f"{name} 1/{n}": way for name, n, way in decoders(data, size)},
    }


def by_turns(ways: Dict[str, Callable[[], Any]], rounds: int) -> Dict[str, List[float]]:
    """CPU milliseconds of each of `rounds`, after one that does not count."""
    seen: Dict[str, List[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if i:
                seen[name].append((time.process_time() - began) * 1e3)
    return seen


def answers(files: List[Path], classifiers: List[Classifier], size: Tuple[int, int]) -> float:
    """Prints a line for each model and kind of image. The smallest share of same answers without fine detail."""
    shares = []
    labels = read_labels(files[0].parent)
    line = Line()
    for fine in (False, True):
        count: Dict[str, List[float]] = {str(classifier): [0, 0, 0, 0, 0] for classifier in classifiers}
        length = off = 0.0
        for seed, file in enumerate(files):
            data = encoded(Image.open(file).convert("RGB"), size, fine, seed)
            length += len(data)
            large = open_image(data, decoding=EXACT)
            for classifier in classifiers:
                recipe, one = classifier.artifact.preprocessing, count[str(classifier)]
                squares = [resize_crop(image, recipe) for image in (large, open_image(data, at_least=recipe.resize_to))]
                exact, quick = (classifier.logits(normalize(square, recipe)[None])[0] for square in squares)
                one[0] += exact.argmax() == quick.argmax()
                one[1] += ((quick - exact) ** 2).sum()
                one[2] += (exact**2).sum()
                one[3] += exact.argmax() == labels.get(file.name)
                one[4] += quick.argmax() == labels.get(file.name)
                off += float(np.mean((np.asarray(squares[0], float) - np.asarray(squares[1], float)) ** 2)) / len(
                    classifiers
                )
            line.show(f"{seed + 1} of {len(files)}")
        line.end(erase=True)
        n = len(files)
        print(
            f"\n{n} images enlarged to {size[0]} x {size[1]}{', with fine detail' if fine else ''}: "
            f"{length / n / 1e6:.1f} MB each, pixels off by {np.sqrt(off / n):.2f} of 255 (root mean square)"
        )
        for classifier in classifiers:
            same, error, power, exact_right, quick_right = count[str(classifier)]
            tops = f", top-1 {quick_right / n:.1%} (exact {exact_right / n:.1%})" if labels else ""
            quality = 10 * np.log10(power / error)
            print(f"  {classifier.artifact.path.name:20} same class {same / n:.2%}, logits {quality:.1f} dB{tops}")
            if not fine:
                shares.append(same / n)
    return min(shares)


def read_labels(folder: Path) -> Dict[str, int]:
    import csv

    path = folder / "labels.csv"
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["file"]: int(row["label"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    sys.exit(main())
