"""Networks for NVIDIA Triton: a model repository that it loads as it is, and the code that Triton's Python backend runs."""
