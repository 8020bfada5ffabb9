"""The report of a training: one HTML page that needs nothing else, and the same as JSON."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.checkpoints import Recipe
from models.finetune.dataset import Data
from models.finetune.settings import Settings
from models.finetune.train import Answers, Progress
from runtime.errors import UserError
from runtime.html_page import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Axis,
    Chart,
    definitions,
    document,
    escape,
    key,
    round_axis,
    scrolled,
)
from runtime.invocation import install
from runtime.measure.accuracy import wilson
from runtime.whole_file import write_whole

MISTAKES = 24  # shown as images
MATRIX = 40  # classes, at most, whose confusion matrix is drawn; above, the pairs that are confused most
LISTED = 200  # classes in the table, the worst first
_THUMBNAIL = 132  # px

_STYLE = """
:root { --right: 59, 111, 212; --wrong: 217, 130, 43 }
.matrix td { padding: .2rem .35rem; min-width: 1.7rem; text-align: center; font-variant-numeric: tabular-nums; border: 1px solid var(--line) }
.matrix th { font-weight: 400; white-space: nowrap } .matrix thead th { vertical-align: bottom; text-align: center; writing-mode: vertical-rl; transform: rotate(180deg); padding: 0 .2rem .4rem }
figure { margin: 0; width: 8.4rem } figure img { display: block; border-radius: 3px }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere } figcaption small { color: var(--muted) }
"""


def write_report(
    checkpoint: Path,
    data: Data,
    settings: Settings,
    progress: Progress,
    answers: Answers,
    start: str,
    recipe: Recipe,
    seconds: float,
) -> Path:
    """Writes `<variant>.html` and `.json` beside `checkpoint`; the page's path. Raises UserError without scikit-learn."""
    truth = np.array([labelled.label for labelled in data.val])
    facts: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "from": start,
        "origin": data.origin,
        "train": len(data.train),
        "val": len(data.val),
        "split": "given" if data.given else "made",
        "unreadable": data.skipped,
        "notes": data.notes,
        "top1": answers.top1(truth),
        "top1_interval": [100 * v for v in wilson(int((answers.top == truth).sum()), len(truth))],
        "balanced": answers.balanced(truth),
        "val_loss": answers.loss,
        "classes": per_class(data, truth, answers.top),
        "confusions": confusions(data.classes, truth, answers.top),
        "settings": settings.facts(),
        "epochs": [{k: None if math.isnan(v) else v for k, v in row.items()} for row in progress.rows],
        "seconds": round(seconds, 1),
    }
    page_path = checkpoint.with_suffix(".html")
    write_whole(checkpoint.with_suffix(".json"), (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(page_path, page(facts, data, truth, answers, recipe).encode())
    return page_path


def per_class(data: Data, truth: np.ndarray, top: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, in the classes' order; None where there is nothing to divide by."""
    try:
        from sklearn.metrics import precision_recall_fscore_support
    except ImportError as error:
        raise UserError(
            f"The report needs scikit-learn ({error}): {install('-e', '.[finetune]')} in this repository."
        ) from None
    labels = np.arange(len(data.classes))
    figures = precision_recall_fscore_support(truth, top, labels=labels, zero_division=np.nan)
    learnt = data.counts()
    return [
        {
            "name": name,
            "train": learnt[i],
            "val": int(support),
            **{
                key: None if math.isnan(value) else 100 * float(value)
                for key, value in zip(("precision", "recall", "f1"), values)
            },
        }
        for i, (name, *values, support) in enumerate(zip(data.classes, *figures))
    ]


def confusions(classes: Sequence[str], truth: np.ndarray, top: np.ndarray) -> list[dict[str, Any]]:
    """What was taken for what, most often first."""
    wrong = Counter((int(a), int(b)) for a, b in zip(truth, top) if a != b)
    return [{"is": classes[a], "taken_for": classes[b], "pictures": n} for (a, b), n in wrong.most_common()]


def page(facts: dict[str, Any], data: Data, truth: np.ndarray, answers: Answers, recipe: Recipe) -> str:
    low, high = facts["top1_interval"]
    name = Path(facts["checkpoint"]).stem
    pre = recipe.preprocessing
    notes = [*data.notes, *([f"{len(data.skipped)} images can't be read: {data.skipped[0]}"] if data.skipped else [])]
    lead = (
        f"{facts['top1']:.1f} % of {facts['val']} validation images are right (95 % interval {low:.1f} to {high:.1f}; mean of the "
        f"classes {facts['balanced']:.1f} %). Learnt from {facts['train']} images of {len(data.classes)} classes in {facts['seconds']:.0f} s, "
        f"starting from {facts['from']}."
    )
    body = f"""<p>{escape(lead)} The split was {"given" if data.given else "made from the seed"}. Choosing the best epoch by these same images flatters it a little.</p>
{"".join(f'<p class="note">{escape(note)}</p>' for note in notes)}
<h2>Over the epochs</h2>{_curves(facts["epochs"])}
<h2>What is taken for what</h2>{_confused(data.classes, truth, answers.top, facts["confusions"])}
<h2>The most confident mistakes</h2>{_mistakes(data, truth, answers)}
<h2>Each class</h2>{_classes(facts["classes"])}
<h2>How it was trained</h2>
<p>{pre.resolution} px, crop {pre.crop:.4g}, {escape(pre.interpolation)}, padding {escape(recipe.padding)}.</p>
{definitions((key, str(value)) for key, value in facts["settings"].items())}"""
    return document(f"{name} on {Path(data.origin).name}", body, _STYLE)


def _curves(rows: list[dict[str, Any]]) -> str:
    """Losses on the left, accuracy on the right, over epochs."""
    if len(rows) == 1:
        return f"<p>The classifier alone was trained: validation loss {rows[0]['val_loss']:.3f}, the rest of the network as it was.</p>"
    losses = [("training loss", ORANGE, "loss"), ("validation loss", GREY, "val_loss")]
    shares = [("top-1", BLUE, "top1"), ("mean of the classes", GREEN, "balanced")]
    return (
        f'<div class="grid">{_chart(rows, losses, "")}{_chart(rows, shares, " %", 100)}</div>'
        "<p>Epoch 0 is the classifier alone, the rest of the network as it was. Accuracies are of the averaged weights; "
        "the training loss is on augmented images with smoothed labels, so it lies above what it would be without.</p>"
    )


def _chart(rows: list[dict[str, Any]], lines: list[tuple[str, str, str]], unit: str, top: float = math.inf) -> str:
    last = max(1, math.ceil(rows[-1]["epoch"]))
    epochs = [(epoch, str(epoch)) for epoch in range(0, last + 1, max(1, math.ceil(last / 6)))]
    values = [row[name] for row in rows for _, _, name in lines if row[name] is not None]
    chart = Chart(Axis(0, last, epochs), round_axis(values, unit, top, 1 if unit else 0.1))
    for i, (_, colour, name) in enumerate(lines):
        chart.line([(row["epoch"], row[name]) for row in rows if row[name] is not None], colour, 1 if i else 1.7)
    label = " and ".join(title for title, _, _ in lines) + " over epochs"
    return f"<div>{chart.svg(label)}{key((colour, title) for title, colour, _ in lines)}</div>"


def _confused(classes: Sequence[str], truth: np.ndarray, top: np.ndarray, confused: list[dict[str, Any]]) -> str:
    """The matrix where it fits: not with many classes, nor on a phone."""
    if len(classes) > MATRIX:
        return _pairs(confused)
    return f'<div class="broad">{_matrix(classes, truth, top)}</div><div class="thin">{_pairs(confused)}</div>'


def _matrix(classes: Sequence[str], truth: np.ndarray, top: np.ndarray) -> str:
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (truth, top), 1)
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    body = []
    for i, name in enumerate(classes):
        whole, cells = max(1, counts[i].sum()), []
        for j, count in enumerate(counts[i]):
            colour = "--right" if i == j else "--wrong"
            shade = f' style="background:rgba(var({colour}), {0.12 + 0.6 * count / whole:.2f})"' if count else ""
            cells.append(f"<td{shade}>{count or ''}</td>")
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    table = scrolled(
        "confusion matrix", f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody>", "matrix"
    )
    return f"<p>Rows: what it is. Columns: what it is taken for.</p>{table}"


def _pairs(confused: list[dict[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(pair["is"])}<td>{escape(pair["taken_for"])}<td class="n">{pair["pictures"]}'
        for pair in confused[:MATRIX]
    )
    if not confused:
        return "<p>Nothing.</p>"
    table = scrolled("confusions", f'<tr><th>is<th>taken for<th class="n">images{rows}')
    return f"<p>The {min(MATRIX, len(confused))} pairs that are confused most often.</p>{table}"


def _mistakes(data: Data, truth: np.ndarray, answers: Answers) -> str:
    wrong = np.flatnonzero(answers.top != truth)
    if not len(wrong):
        return "<p>None: every validation image is right.</p>"
    worst = wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:MISTAKES]
    shown = []
    for row in worst:
        labelled = data.val[row]
        shown.append(
            f'<figure><img width="{_THUMBNAIL}" height="{_THUMBNAIL}" alt="" src="{_thumbnail(data.squares[row])}"><figcaption>'
            f"<b>{escape(data.classes[answers.top[row]])}</b> {answers.confidence[row]:.0%}<br>is {escape(data.classes[labelled.label])} "
            f"{answers.truth[row]:.0%}<br><small>{escape(_readable(labelled.name))}</small></figcaption></figure>"
        )
    which = "all of them" if len(worst) == len(wrong) else f"the {len(worst)} of which it is surest"
    return (
        f"<p>{len(wrong)} of {len(truth)} are wrong; {which}, as the network sees them, the surest first. "
        f'Some may be labelled wrongly: look.</p><div class="grid">{"".join(shown)}</div>'
    )


def _thumbnail(square: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(square).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC).save(content, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _readable(name: str) -> str:
    """A file's name as text: what is no UTF-8 in it escaped, since the page is written as UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _classes(rows: list[dict[str, Any]]) -> str:
    shown = sorted(rows, key=lambda row: (row["f1"] is None, row["f1"] or 0))[:LISTED] if len(rows) > LISTED else rows
    about = f"<p>The {LISTED} worst of {len(rows)}.</p>" if len(rows) > LISTED else ""
    body = "".join(
        f'<tr><td>{escape(row["name"])}<td class="n">{row["train"]}<td class="n">{row["val"]}'
        + "".join(
            f'<td class="n">{"" if row[key] is None else f"{row[key]:.1f}"}' for key in ("precision", "recall", "f1")
        )
        for row in shown
    )
    head = "<tr><th>class" + "".join(
        f'<th class="n">{name}' for name in ("learnt from", "judged by", "precision %", "recall %", "F1 %")
    )
    return about + scrolled("classes", head + body)
