"""What is written: rounding, placement, and layers prepared for INT8."""
