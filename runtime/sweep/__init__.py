"""Latency against accuracy of many artifacts: made, measured, drawn, chosen from and compared."""
