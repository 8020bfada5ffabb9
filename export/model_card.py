"""A model card: the block of metadata that the hub reads, and a text, from what artifacts and sweeps say of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.checkpoints import CHECKPOINTS, LICENCES
from runtime.artifacts.artifact import Artifact
from runtime.artifacts.facts import CLASSIFIER
from runtime.errors import UserError
from runtime.invocation import install
from runtime.printable import printable
from runtime.sweep.rows import Row, failures

_KINDS = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8 with explicit Q/DQ for TensorRT, FP32 elsewhere",
    "int8-fp16": "the same with FP16 elsewhere, for strongly typed TensorRT engines",
}


class Measured(NamedTuple):
    """One row of a sweep, and the machine it was measured on."""

    row: Row
    machine: str


class Origin(NamedTuple):
    """Where weights are from, as far as that is known."""

    base: str  # repository on the hub; "": none is known
    licence: str  # the hub's short name of it; "": not known
    because: str  # where the licence is known from


def origin_of(artifact: Artifact, licence: str | None = None) -> Origin:
    """From the hub's facts in `artifact`, else from the row of a known checkpoint with this checksum."""
    digest = artifact.weights_sha256 or ""
    row = next((row for row in CHECKPOINTS if row.url and digest.startswith(row.sha256)), None)
    base = artifact.more.get("hub") or (row.name if row and row.hub_folder else "")
    if licence:
        return Origin(base, licence, "as given by whoever made this card")
    if artifact.more.get("licence"):
        return Origin(base, artifact.more["licence"], f"as {base} states")
    if row:
        publisher = row.name.partition("/")[0]
        because = f"of {publisher}'s repository, which published these weights as {row.name}"
        return Origin(base, LICENCES[publisher], because)
    return Origin(base, "", "")


def readme(artifacts: Sequence[Artifact], measured: Sequence[Measured], licence: str | None = None) -> str:
    """The model card: the block that the hub reads, then the text."""
    one, origin = artifacts[0], origin_of(artifacts[0], licence)
    network = "A third-party network" if one.third_party else f"EfficientNet {one.more.get('network', one.variant)}"
    classes = f"{one.classes} classes" if one.head == CLASSIFIER else f"the head {one.head}"
    files = "\n".join(
        f"| `{each.path.name}` | {_KINDS[each.precision]} | {each.path.stat().st_size / 1e6:.1f} |"
        for each in artifacts
    )
    licensed = (
        f"{origin.licence}, {origin.because}" if origin.licence else "not known: find out before you pass them on"
    )
    return _README.format(
        metadata=_metadata(artifacts, measured, origin),
        title=one.variant,
        network=network,
        classes=classes,
        files=files,
        labels="\n| `labels.txt` | the classes, one a line, the first is 0 | |" if one.head == CLASSIFIER else "",
        weights=printable(one.weights),
        revision=f" Commit `{one.more['hub_revision']}`." if "hub_revision" in one.more else "",
        sha256=one.weights_sha256,
        licence=licensed,
        measured=_table(measured),
        calibration=_calibration(artifacts),
        published=_published(one),
        preprocessing=_preprocessing(one),
    )


def _metadata(artifacts: Sequence[Artifact], measured: Sequence[Measured], origin: Origin) -> str:
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise UserError(f"A model card needs the hub's library ({error}): {install('huggingface_hub')}.") from None
    one = artifacts[0]
    quantised = any(each.precision.startswith("int8") for each in artifacts)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=each.row.accuracy.data,
            metric_type="accuracy",
            metric_name=f"top-1, {each.row.precision.upper()}, {each.row.backend_name}, %",
            metric_value=round(each.row.accuracy.top1, 2),
        )
        for each in measured
        if each.row.accuracy and each.row.accuracy.top1 is not None
    ]
    more: dict[str, Any] = {"base_model": origin.base} if origin.base else {}
    if origin.base and quantised:
        more["base_model_relation"] = "quantized"
    data = ModelCardData(
        license=origin.licence or None,
        library_name="onnx",
        pipeline_tag="image-classification" if one.head == CLASSIFIER else "image-feature-extraction",
        tags=[
            "onnx",
            "tensorrt",
            "edge",
            *([] if one.third_party else ["efficientnet"]),
            *(["int8"] if quantised else []),
        ],
        model_name=one.variant if results else None,
        eval_results=results or None,
        **more,
    )
    return data.to_yaml()


def _table(measured: Sequence[Measured]) -> str:
    if not measured:
        return "Neither accuracy nor latency of these files has been measured."
    rows = []
    for row, machine in measured:
        found, top1, agreement = row.accuracy, "", ""
        if found and found.top1 is not None:
            low, high = found.top1_interval or (found.top1, found.top1)
            top1 = f"{found.top1:.1f} ({low:.1f} to {high:.1f}), {found.images} images of {found.data}"
        if found and found.agreement is not None:
            agreement = f"{found.agreement:.1f}"
        ms = f"{row.milliseconds:.2f}" if row.milliseconds is not None else ""
        note = f"; {failures(row)}" if failures(row) else ""
        cells = (row.precision, f"{top1}{note}", agreement, ms, row.backend, machine)
        rows.append(f"| {' | '.join(printable(cell).replace('|', '/') for cell in cells)} |")
    head = ("precision", "top-1, % (95 % interval)", "top-1 agreement with FP32, %", "ms", "backend", "machine")
    return (
        f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
        + "\n".join(rows)
        + "\n\nMilliseconds are medians of one image from JPEG bytes to the five likeliest classes."
    )


def _calibration(artifacts: Sequence[Artifact]) -> str:
    held = next((each.metadata["calibration"] for each in artifacts if "calibration" in each.metadata), None)
    if held is None:
        return ""
    facts = json.loads(held)
    score = facts["scores"][-1]
    low, high = score.get("interval", (0.0, 100.0))
    return (
        f"\n## Calibration\n\nINT8 was calibrated after training on {facts['pictures']} images, for {facts['target']}. "
        f"{facts['multiply_adds_in_int8']:.1%} of the MACs are INT8. Judged on {facts['judged_on']}: top-1 agreement with FP32 "
        f"{score['same_class']:.1f} % (95 % interval {low:.1f} to {high:.1f}), signal to noise at the logits "
        f"{score['sqnr']:.1f} dB.\n"
        + "".join(f"\nWarning: {printable(warning)}.\n" for warning in facts.get("warnings", []))
    )


def _published(one: Artifact) -> str:
    if "published_top1" not in one.more:
        return ""
    return (
        f"\nPublished, not measured here: top-1 on ImageNet in FP32 {one.more['published_top1']} % "
        f"({printable(one.more.get('published_source', ''))}).\n"
    )


def _preprocessing(one: Artifact) -> str:
    wants = one.preprocessing
    shorter = round(wants.resolution / wants.crop)
    steps = [
        f"Resize so that the shorter side has {shorter} px ({wants.interpolation}), and cut {wants.resolution} x "
        f"{wants.resolution} px out of the middle."
    ]
    if wants.input == "uint8":
        steps.append(
            f"`pixels`: uint8 [N, {wants.resolution}, {wants.resolution}, 3], RGB. The network normalises them."
        )
    else:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (wants.mean, wants.std))
        steps.append(
            f"`images`: float32 [N, 3, {wants.resolution}, {wants.resolution}], RGB in 0..1, minus mean ({mean}), over standard "
            f"deviation ({std})."
        )
    gives = ", ".join(f"`{output.name}`" for output in one.outputs)
    steps.append(f"Out come {gives}{f'; {one.activation} makes scores of them' if one.head == CLASSIFIER else ''}.")
    return "\n".join(f"- {step}" for step in steps)


_README = """\
---
{metadata}
---

# {title}

{network} for {classes}, as ONNX (opset 17, any batch). Preprocessing and class names are in the metadata of each file too.

| file | what it is | MB |
|---|---|---|
{files}{labels}
| `SHA256SUMS` | checksums: `sha256sum -c SHA256SUMS` | |

## Weights

{weights}.{revision} SHA-256 of the file: `{sha256}`. Licence of the weights: {licence}.

## Measured

{measured}
{published}{calibration}
## Use

```
python -m runtime.infer --model . --precision fp32 photo.jpg
```

with the runtime of the project that wrote these files, efficientnet-edge, or any ONNX runtime and this preprocessing:

{preprocessing}
"""
