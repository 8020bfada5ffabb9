"""Classifies a folder of images and prints CSV: python examples/classify_folder.py artifacts/b0/b0.fp32.onnx photos/"""

import csv
import sys

from runtime import Classifier
from runtime.errors import UserError
from runtime.images.find import find_images

model, folder = sys.argv[1:]
classify = Classifier(model)
rows = csv.writer(sys.stdout)
rows.writerow(["file", "class", "probability"])
for path, _ in find_images([folder]):
    try:
        best = classify(path, top=1)[0]
    except UserError as error:  # one unreadable file does not stop the others
        print(error, file=sys.stderr)
        continue
    rows.writerow([path, best.label, f"{best.probability:.4f}"])
