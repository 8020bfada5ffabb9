"""Training with the roundings of INT8 in place."""
