"""Classifies frames of a camera or video file: python examples/camera_loop.py artifacts/b0/b0.fp32.onnx 0

Needs OpenCV (`pip install opencv-python-headless`). `python -m runtime.watch` does more: it always takes the newest frame,
survives a camera that is unplugged, and prints JSON.
"""

import sys

import cv2

from runtime import Classifier

model, source = sys.argv[1:]
classify = Classifier(model)
camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
if not camera.isOpened():
    sys.exit(f"OpenCV cannot open {source}: is it the number of a camera, or a video file?")
last = ""
while True:
    there, frame = camera.read()  # uint8 [H, W, 3], BGR
    if not there:
        break
    best = classify(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), top=1)[0]
    if best.label != last:
        print(f"{best.probability:6.1%}  {best.label}", flush=True)
        last = best.label
