"""Finds the images in a folder that look most like one: python examples/search_images.py MODEL photos/ query.jpg

MODEL is an embedding network, from `make export VARIANT=b0 HEAD=embedding`. For large folders use `python -m runtime.embed`,
which keeps the embeddings in a file and decodes on all cores.
"""

import sys

import numpy as np

from runtime import Embedder
from runtime.images.find import find_images

model, folder, query = sys.argv[1:]
embed = Embedder(model)
paths = [path for path, _ in find_images([folder])]
similarity = embed(paths) @ embed(query)  # rows have length 1, so the dot product is the cosine; [N, C] @ [C] -> [N]
for index in np.argsort(-similarity)[:5]:
    print(f"{similarity[index]:.3f}  {paths[index]}")
