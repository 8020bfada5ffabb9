"""Rows as a sweep has them, for tests that need no measurement."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from runtime.sweep.rows import Key, Report, Row


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


def timing(variant: str = "b0", precision: str = "fp32", ms: float = 10.0, **more: Any) -> Dict[str, Any]:
    """A row of runtime.bench's JSON."""
    return {
        "variant": variant,
        "precision": precision,
        "backend": "onnxruntime 1.31, CPU",
        "backend_name": "onnxruntime",
        "model": f"{variant}.{precision}.onnx",
        "sha256": "0" * 64,
        "batch": 1,
        "resolution": 224,
        "input": "float32",
        "multiply_adds": 386_000_000,
        "parameters": 5_288_548,
        "file_mb": 21.0,
        "random": False,
        "noisy": False,
        "total": summary(ms),
        "stages": {"decode": summary(1), "compute": summary(ms - 1)},
        "throughput_per_s": 1000 / ms,
        "cold_start_ms": 400.0,
        "load_ms": 300.0,
        "ratio_to_first": {"median": 1.0, "low": 1.0, "high": 1.0},
        **more,
    }


def row(
    variant: str = "b0", precision: str = "fp32", ms: float = 10.0, top1: Optional[float] = None, **more: Any
) -> Row:
    """One that was measured; `top1` with an interval of a point each way, None: not measured. `more`: by name in JSON."""
    found = {
        **timing(variant, precision, ms),
        "backend_asked": "auto",
        "artifact": f"artifacts/{variant}/{variant}.{precision}.onnx",
        "foreign": False,
        "warnings": [],
        "site": {},
    }
    if top1 is not None:
        found.update(
            top1=top1,
            top1_interval=[top1 - 1, top1 + 1],
            top5=99.0,
            top5_interval=[98.0, 99.5],
            pictures=500,
            data="photos",
            accuracy_key="1f",
        )
    return Row.from_json({**found, **more})


def failed(variant: str, precision: str, reason: str) -> Row:
    return Row(Key(variant, precision, "auto", 1), reason=reason)


def report(rows: List[Row], name: str = "trial", machine: Optional[Dict[str, Any]] = None) -> Report:
    return Report(name, rows, machine or {"cpu": "a CPU", "libraries": {"onnxruntime": "1.31"}}, "photos")
