"""Faults in what measures: accuracy, label lists, cold starts, energy, sweeps."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

EVALUATION = "tests/runtime/measure/test_evaluation.py"
ACCURACY = "tests/runtime/measure/test_accuracy.py"
ENERGY = "tests/runtime/measure/test_energy.py"
SWEEP = "tests/runtime/sweep/test_run.py"
LABEL_FILES = "tests/runtime/measure/test_label_files.py"
LABEL_ORDER = "tests/runtime/measure/test_label_order.py"
EVALUATE = "tests/runtime/test_evaluate.py"
COLD = "tests/runtime/measure/test_cold.py"
BENCH = "tests/runtime/test_bench.py"

MUTANTS = [
    # evaluation
    Mutant(
        "McNemar's gained and lost swapped",
        "runtime/measure/evaluation.py",
        "paired_difference(gained, lost, len(known))",
        "paired_difference(lost, gained, len(known))",
        EVALUATION,
    ),
    Mutant(
        "gained counts what stayed right",
        "runtime/measure/evaluation.py",
        "sum(label == now != before for",
        "sum(label == now for",
        EVALUATION,
    ),
    Mutant(
        "flipped: was and is swapped",
        "runtime/measure/evaluation.py",
        '"was": labels[record.reference or 0],\n                "is": labels[record.top[0]],',
        '"is": labels[record.reference or 0],\n                "was": labels[record.top[0]],',
        EVALUATION,
    ),
    Mutant(
        "the journal of an interrupted evaluation is not cut back to whole batches",
        "runtime/measure/evaluation.py",
        "del records[len(records) // batch * batch :]",
        "pass",
        EVALUATION,
    ),
    Mutant(
        "noise of the logits measured against ours, not the reference",
        "runtime/measure/evaluation.py",
        "signal = float(np.square(expected, dtype=np.float64).sum())",
        "signal = float(np.square(logits, dtype=np.float64).sum())",
        EVALUATION,
    ),
    Mutant(
        "top-5 counts four classes",
        "runtime/measure/evaluation.py",
        'np.argsort(-logits, kind="stable")[:5]',
        'np.argsort(-logits, kind="stable")[:4]',
        EVALUATION,
    ),
    Mutant(
        "--limit takes the first images, not every k-th",
        "runtime/measure/evaluation.py",
        "samples[int(i * step)]",
        "samples[i]",
        EVALUATION,
    ),
    Mutant(
        "McNemar one-sided",
        "runtime/measure/accuracy.py",
        "min(1.0, 2 * tail)",
        "min(1.0, tail)",
        ACCURACY,
    ),
    # measurement
    Mutant(
        "the energy counter's wrap-around off by one",
        "runtime/measure/energy.py",
        "grown += self._most + 1",
        "grown += self._most",
        ENERGY,
    ),
    Mutant(
        "power read at one moment instead of the mean of two",
        "runtime/measure/energy.py",
        "return (last + self._last) / 2 * seconds",
        "return last * seconds",
        ENERGY,
    ),
    Mutant(
        "idle power not taken off",
        "runtime/measure/energy.py",
        "self._joules - (self.idle_watts or 0.0) * seconds",
        "self._joules",
        ENERGY,
    ),
    Mutant(
        "a row of the sweep is not measured again with another number of threads",
        "runtime/sweep/plan.py",
        "[sha256, backend, batch, self.seconds, self.threads, images, site()]",
        "[sha256, backend, batch, self.seconds, images, site()]",
        SWEEP,
    ),
    Mutant(
        "an accuracy of the sweep is not measured again with another limit",
        "runtime/sweep/plan.py",
        "[sha256, backend, reference, self.limit, self.threads, data, site()]",
        "[sha256, backend, reference, self.threads, data, site()]",
        SWEEP,
    ),
    # lists of labels
    Mutant(
        "a missing image is another folder's of that name",
        "runtime/measure/label_files.py",
        "found = [match if match and match.whole else None for match in found]",
        "pass",
        LABEL_FILES,
    ),
    Mutant(
        "a name that stands in the list more than once is enough",
        "runtime/measure/label_files.py",
        "match if names[path.tail[:1]] == 1 else None",
        "match",
        LABEL_FILES,
    ),
    Mutant(
        "two names keep one image",
        "runtime/measure/label_files.py",
        "if match and claims[match.files[0]][0] == match.score else None",
        "if match else None",
        LABEL_FILES,
    ),
    Mutant(
        "of two names that fit an image equally the first gets it",
        "runtime/measure/label_files.py",
        "if score == match.score and other.spelt != path.spelt:",
        "if False:",
        LABEL_FILES,
    ),
    Mutant(
        "of images that differ in case any one is taken",
        "runtime/measure/label_files.py",
        "score = (common, whole[candidate.text], within, same_case,",
        "score = (common, whole[candidate.text], within,",
        LABEL_FILES,
    ),
    Mutant(
        "of images that differ in their suffix any one is taken",
        "runtime/measure/label_files.py",
        " same_case, path.suffix == candidate.suffix)",
        " same_case)",
        LABEL_FILES,
    ),
    Mutant(
        "an image deeper in the folder is taken for the one that is meant",
        "runtime/measure/label_files.py",
        "score = (common, whole[candidate.text], within,",
        "score = (common, whole[candidate.text],",
        LABEL_FILES,
    ),
    Mutant(
        "accents written in two ways are two names",
        "runtime/measure/label_files.py",
        'unicodedata.normalize("NFC", text.replace("\\\\", "/"))',
        'text.replace("\\\\", "/")',
        LABEL_FILES,
    ),
    Mutant(
        "labels counted from 1: the remedy adds",
        "runtime/measure/label_order.py",
        '"with 1 subtracted from each"',
        '"with 1 added to each"',
        LABEL_ORDER,
    ),
    Mutant(
        "shifted labels: the remedy shifts them further",
        "runtime/measure/label_order.py",
        'f"with {shift:+d} added to each"',
        'f"with {-shift:+d} added to each"',
        LABEL_ORDER,
    ),
    Mutant(
        "a handful of images is enough to doubt their labels",
        "runtime/measure/label_order.py",
        "_LEAST = 20",
        "_LEAST = 2",
        LABEL_ORDER,
    ),
    Mutant(
        "an order that fits hardly better than the labels as they are is named",
        "runtime/measure/label_order.py",
        "if hits < 4 * right or (",
        "if (",
        LABEL_ORDER,
    ),
    Mutant(
        "an order that was learnt is tried on the images it was learnt from",
        "runtime/measure/label_order.py",
        "for image in halves[1] if",
        "for image in halves[0] if",
        LABEL_ORDER,
    ),
    Mutant(
        "labels that are right no oftener than by chance are not doubted",
        "runtime/measure/label_order.py",
        "if n and _poisson_tail(right, chance) > _UNLIKELY and",
        "if False and",
        LABEL_ORDER,
    ),
    # evaluation, as it is asked for
    Mutant(
        "labels are doubted although the reference agrees with them",
        "runtime/measure/evaluation.py",
        "if said and None not in references:",
        "if False:",
        EVALUATION,
    ),
    Mutant(
        "--force evaluates no doubtful labels",
        "runtime/measure/evaluation.py",
        "force or artifact.random",
        "artifact.random",
        f"{EVALUATE}::test_labels_of_another_set_are_an_error_and_not_0_percent",
    ),
    Mutant(
        "the top-1 of random weights is reported",
        "runtime/measure/evaluation.py",
        "if known and not ours.random:\n        for key",
        "if known:\n        for key",
        EVALUATION,
    ),
    Mutant(
        "images that NaN answers count as unreadable",
        "runtime/measure/evaluation.py",
        "sum(not record.top and not record.not_finite for",
        "sum(not record.top for",
        EVALUATION,
    ),
    Mutant(
        "top-5 counts the likeliest class alone",
        "runtime/measure/evaluation.py",
        "samples[record.row].label in record.top[:top]",
        "samples[record.row].label in record.top[:1]",
        EVALUATION,
    ),
    Mutant(
        "images without labels count as wrong",
        "runtime/measure/evaluation.py",
        "result[key] = 100 * right / len(known)",
        "result[key] = 100 * right / len(seen)",
        EVALUATION,
    ),
    Mutant(
        "a journal of another order is gone on with",
        "runtime/measure/evaluation.py",
        "if record.row != len(records):\n                break",
        "if False:\n                break",
        EVALUATION,
    ),
    Mutant(
        "speed counts the images that were done before",
        "runtime/measure/evaluation.py",
        "round((len(samples) - start) /",
        "round(len(samples) /",
        EVALUATION,
    ),
    Mutant(
        "models of other classes are compared",
        "runtime/measure/evaluation.py",
        "if reference.classes != ours.classes:",
        "if False:",
        EVALUATION,
    ),
    # cold start
    Mutant(
        "loading and the first answer swapped",
        "runtime/measure/cold.py",
        'Cold(marks["loaded"], marks["answered"]',
        'Cold(marks["answered"], marks["loaded"]',
        COLD,
    ),
    Mutant(
        "the quickest start instead of the median",
        "runtime/measure/cold.py",
        "statistics.median(one.start_ms for",
        "min(one.start_ms for",
        COLD,
    ),
    Mutant(
        "the least memory instead of the most",
        "runtime/measure/cold.py",
        "max(peaks) if peaks",
        "min(peaks) if peaks",
        COLD,
    ),
    Mutant(
        "a process that failed after its answer counts",
        "runtime/measure/cold.py",
        "if status != 0 or not",
        "if not",
        COLD,
    ),
    Mutant(
        "the threads that were asked for are not those measured",
        "runtime/measure/cold.py",
        '*(["--threads", str(threads)] if threads else [])',
        "*[]",
        COLD,
    ),
    Mutant(
        "the batch that was asked for is not the one measured",
        "runtime/measure/cold.py",
        "[made_up()] * options.batch",
        "[made_up()]",
        COLD,
    ),
    Mutant(
        "memory in MiB, called MB",
        "runtime/measure/cold.py",
        "peak / 1e6",
        "peak / 2**20",
        COLD,
    ),
]
