"""From a torch network to checked ONNX artifacts: trace, simplify, gate, FP16."""
