"""From an exported FP32 network and a folder of images to INT8 artifacts that keep its classes."""
