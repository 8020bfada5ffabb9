"""Rows as a sweep has them, for tests that need no measurement."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from runtime.sweep.rows import Report, Row


def summary(p50: float, spread: float = 0.01) -> Dict[str, float]:
    return {
        "n": 100,
        "p50": p50,
        "p90": p50 * 1.1,
        "p99": p50 * 1.2,
        "mean": p50,
        "std": p50 * 0.02,
        "low": p50 * (1 - spread),
        "high": p50 * (1 + spread),
    }


def row(
    variant: str = "b0", precision: str = "fp32", ms: float = 10.0, top1: Optional[float] = None, **more: Any
) -> Row:
    """One that was measured; `top1` with an interval of a point each way, None: not measured."""
    found: Row = {
        "variant": variant,
        "precision": precision,
        "backend": "onnxruntime 1.31, CPU",
        "backend_name": "onnxruntime",
        "backend_asked": "auto",
        "batch": 1,
        "resolution": 224,
        "multiply_adds": 386_000_000,
        "parameters": 5_288_548,
        "file_mb": 21.0,
        "random": False,
        "noisy": False,
        "model": f"{variant}.{precision}.onnx",
        "sha256": "0" * 64,
        "artifact": f"artifacts/{variant}/{variant}.{precision}.onnx",
        "foreign": False,
        "warnings": [],
        "site": {},
        "total": summary(ms),
        "stages": {"decode": summary(1), "compute": summary(ms - 1)},
        "throughput_per_s": 1000 / ms,
    }
    if top1 is not None:
        found.update(
            top1=top1,
            top1_interval=[top1 - 1, top1 + 1],
            top5=99.0,
            top5_interval=[98.0, 99.5],
            pictures=500,
            data="photos",
        )
    return {**found, **more}


def failed(variant: str, precision: str, reason: str) -> Row:
    return {
        "variant": variant,
        "precision": precision,
        "backend_name": "auto",
        "backend_asked": "auto",
        "batch": 1,
        "site": {},
        "reason": reason,
    }


def report(rows: List[Row], name: str = "trial", machine: Optional[Dict[str, Any]] = None) -> Report:
    return Report(name, rows, machine or {"cpu": "a CPU", "libraries": {"onnxruntime": "1.31"}}, "photos")
