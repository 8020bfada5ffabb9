"""Made images with an image's statistics, for checks that must run where there is no image."""

from __future__ import annotations

import numpy as np


def dead_leaves(count: int, resolution: int, seed: int = 0) -> np.ndarray:
    """`count` images, float32 [count, 3, resolution, resolution] in 0..1, the same ones for the same seed.

    Overlapping discs of random colour with radii distributed as r^-3: occlusion, edges, flat areas and a power
    spectrum falling as in natural images (Lee, Mumford, Huang 2001, "Occlusion models for natural images"), which is
    what activations depend on. Uniform noise has none of it and leaves most of a network's range unused.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:resolution, :resolution].astype(np.float32)
    images = np.empty((count, 3, resolution, resolution), np.float32)
    smallest, largest = resolution / 60, resolution / 2
    for image in images:
        image[:] = rng.uniform(0, 1, (3, 1, 1))
        for _ in range(150):
            # Inverse of the cumulative distribution of r^-3 between the two radii.
            u = rng.uniform()
            radius = (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5
            y, x = rng.uniform(0, resolution, 2)
            top, left = max(0, int(y - radius)), max(0, int(x - radius))
            box = np.s_[top : int(y + radius) + 2, left : int(x + radius) + 2]
            inside = (rows[box] - y) ** 2 + (columns[box] - x) ** 2 <= radius**2
            shade = 1 + 0.3 * (columns[box] - x) / radius  # lit from one side
            colour = rng.uniform(0, 1, 3)
            image[(slice(None), *box)] = np.where(inside, colour[:, None, None] * shade, image[(slice(None), *box)])
        image += rng.normal(0, 0.02, image.shape)  # a sensor's noise
    return images.clip(0, 1)
