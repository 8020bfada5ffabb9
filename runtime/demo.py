"""Shows a model at work on scikit-image's sample images: python -m runtime.demo (after make demo has exported it)"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Optional, Sequence

from .command import run
from .errors import UserError
from .invocation import install, typed

# What each image shows; any of these ImageNet classes counts as right.
IMAGES = {
    "chelsea.png": ("a cat", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
    "coffee.png": ("a cup of coffee", {967, 504, 968}),  # espresso, coffee mug, cup
    "rocket.jpg": ("a rocket", {657, 744}),  # missile, projectile
    "motorcycle_left.png": ("a motorcycle", {665, 670}),  # moped, motor scooter
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    from .networks.classifier import Classifier

    description = "Shows lite0, exported as demo, at work on scikit-image's sample images."
    argparse.ArgumentParser(prog=typed("demo"), description=description).parse_args(argv)
    spec = importlib.util.find_spec("skimage")  # finds the folder without running the package
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The sample images come with scikit-image: {install('scikit-image')}.")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    classify = Classifier(variant="demo")
    print(f"\n{classify.artifact.path} ({classify.artifact.weights}), {classify.backend.description}\n")
    wrong = 0
    for name, (shows, right) in IMAGES.items():
        best = classify(folder / name, top=1)[0]
        wrong += best.index not in right
        verdict = "right" if best.index in right else "WRONG"
        print(f"  {name:20} {shows:16} -> {best.label:28} {best.probability:6.1%}  {verdict}")
    if wrong:
        print(
            f"\n{wrong} of {len(IMAGES)} images were classified wrongly: do not trust this export.",
            file=sys.stderr,
        )
        return 1
    python = os.path.relpath(sys.executable)
    print(f"\nNext, an image of your own:   {python} -m runtime.infer photo.jpg")
    print("and another network:              make export VARIANT=b0   (make help lists the rest)")
    return 0


if __name__ == "__main__":
    run(main)
