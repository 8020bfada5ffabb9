"""How often the image nearest to an image shows the same class: python tests/benchmarks/nearest_class.py embeddings.npy …

Leave one out: each image is looked for among all others of its file. The class is the folder that an image lies in. Pictures
that are the same byte for byte are counted once, or a copy would be an easy neighbour. Not a test.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.measure.accuracy import wilson
from runtime.networks.embedder import unit
from runtime.networks.embeddings import read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("embeddings", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="print N images whose nearest is of another class"
    )
    options = parser.parse_args()
    for path in options.embeddings:
        known = read(path)
        seen: dict[str, int] = {}
        for index, file in enumerate(known.files):
            seen.setdefault(hashlib.sha256(Path(known.path(file)).read_bytes()).hexdigest(), index)
        kept = sorted(seen.values())
        rows = unit(np.asarray(known.rows)[kept])
        classes = np.array([Path(known.files[index]).parent.name for index in kept])
        similarity = rows @ rows.T
        np.fill_diagonal(similarity, -2)
        order = np.argsort(-similarity, axis=1, kind="stable")
        same = classes[order] == classes[:, None]
        right, count = int(same[:, 0].sum()), len(kept)
        low, high = (100 * share for share in wilson(right, count))
        made = f"{known.origin.variant} {known.origin.precision}"
        print(
            f"{made}: of {count} images in {len(set(classes))} classes the nearest is of the same class for {right}, "
            f"{100 * right / count:.1f} % ({low:.1f} to {high:.1f}); of the nearest five {100 * same[:, :5].mean():.1f} %"
        )
        for index in np.flatnonzero(~same[:, 0])[: options.worst]:
            print(f"  {known.files[kept[index]]} -> {known.files[kept[order[index, 0]]]} {similarity[index].max():.3f}")


if __name__ == "__main__":
    main()
