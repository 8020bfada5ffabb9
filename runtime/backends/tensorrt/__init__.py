"""An artifact in TensorRT: building its engine, keeping it fresh, running it."""
