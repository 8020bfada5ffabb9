"""Compares an INT8 file with its FP32 original: python examples/evaluate_int8.py b0.int8.onnx b0.fp32.onnx photos/

`photos/` needs no labels for top-1 agreement. With labels (a folder for each class, or a labels.csv) it also prints top-1.
"""

import sys
from pathlib import Path

from runtime import Classifier
from runtime.measure.evaluation import evaluate, read_samples

int8, fp32, folder = sys.argv[1:]
quantised, reference = Classifier(int8), Classifier(fp32)
samples = read_samples(Path(folder), quantised.artifact)
result = evaluate(quantised, samples, reference)
print(f"images            {result['n']}")
print(f"top-1 agreement   {result['agreement']:.1f} %")
print("logit SQNR        " + ("identical logits" if result["sqnr_db"] is None else f"{result['sqnr_db']:.1f} dB"))
if result["top1"] is not None:
    low, high = result["top1_interval"]
    print(f"top-1             {result['top1']:.1f} % (95 % interval {low:.1f} to {high:.1f})")
