"""Tries each block in chain at the logits: chooses its ranges step by step, and measures the mean error of its output, which its
bias then removes.

The response (`search/response.py`) predicts what small errors do. Those of a chain are large: INT8 turns a flat area into one
value, and how far that is from the true one depends on where the levels fall; and what the depthwise layer's range cuts off,
the projection's would have cut off anyway. Only running the block and the rest of the network tells. In B0's first blocks
this removes a fifth to two thirds of the damage, on images held out as well.

Removing the mean error that was measured, not the one that histograms predict, is "empirical bias correction" in Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from calibration.collect.ranges import LEVELS, Range
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.quantise.blocks import Block
from calibration.quantise.prepare import Chained, Equalised, Prepared
from calibration.run import Run
from calibration.search.equalise import border_of, equalised_at
from calibration.search.response import Response
from calibration.search.trials import Trials, cuts, part

# Images that blocks are tried on: of them as many as this many MACs of the block and all behind it allow. The last blocks need
# more images, and have the time for them: their channels fire for few.
ALL_COST, FEWEST, MOST = 140e9, 32, 128
COST, LEAST = 10e9, 8
_STEPS = (1.25, 1.08)  # from one range to the next
_LIMITS = (0.8, 0.9, 1.1, 1.25)  # of the limit that the response chose for an equalised input: factors are chosen anew
_BETTER = 0.99  # of the damage: less is chance
_SMALL = 2e-4  # of the logits' power: a block that does no more damage keeps its ranges
# In the end ranges are widened for as long as damage grows by no more than this: other images have larger values.
_ROOM, _WIDER, _MOST_WIDER = 1.03, 1.12, 6
_HOPELESS = 1.1  # times the best choice's damage on the first batches: the remaining ones are not run


def fit_chains(run: Run, prepared: Prepared, responses: Mapping[str, Response]) -> None:
    """Gives every block of `prepared` its ranges and bias in chain. `responses`: of the inputs of equalised depthwise layers."""
    network = run.network
    count = int(np.clip(ALL_COST / network.macs, FEWEST, MOST))
    rows = np.random.default_rng(0).permutation(run.fit)[:count]
    trials = Trials(network, np.concatenate(list(run.images.batches(rows))), run.reference[rows])
    left = network.macs
    for done, block in enumerate(prepared.blocks):
        run.progress(done, len(prepared.blocks), "ranges of each block")
        trials.move(network.layer(prepared.first(block)), run.threads)
        end = _end(network, block)
        if end is not None:
            some = max(1, round(float(np.clip(COST / left, LEAST, count)) / len(trials.batches[0])))
            choice, error = _Trial(prepared, block, trials, end, some, run.threads).best(responses)
            placed = choice.placed(prepared, block, error)
            prepared.equalised, prepared.outputs, prepared.chained = placed.equalised, placed.outputs, placed.chained
        left -= sum(network.layer(name).macs for name in block.layers)


def _end(network: LayerGraph, block: Block) -> str | None:
    """The tensor behind `block` that everything goes through, if the block's bias moves it by just as much."""
    end = network.layer(block.project).output
    readers = network.consumers.get(end, [])
    if len(readers) == 1 and readers[0].op_type == "Add":
        end = readers[0].output[0]
    return end if any(tensor == end for _, tensor in cuts(network)) else None


@dataclass(frozen=True)
class _Choice:
    """What a block may have in chain."""

    expanded: Equalised | None  # of the depthwise layer's input
    output: Range | None  # of what the depthwise layer gives
    projected: Range  # of the projection's input

    def placed(self, prepared: Prepared, block: Block, error: np.ndarray) -> Prepared:
        """`prepared` with it in `block`, whose mean error without correction is `error`."""
        equalised, outputs = dict(prepared.equalised), dict(prepared.outputs)
        if self.expanded is not None:
            equalised[block.depthwise] = self.expanded
        if self.output is not None:
            outputs[block.depthwise] = self.output
        chained = {**prepared.chained, block.name: Chained(self.projected, error)}
        return replace(prepared, equalised=equalised, outputs=outputs, chained=chained)


class _Trial:
    """One block on the first `count` batches of `trials`. `end`: see `_end`."""

    def __init__(self, prepared: Prepared, block: Block, trials: Trials, end: str, count: int, threads: int) -> None:
        self.prepared, self.block, self.end, self.threads = prepared, block, end, threads
        self.start, self.batches = trials.tensor, trials.batches[:count]
        network = prepared.network
        sizes = np.cumsum([len(batch) for batch in self.batches])
        self.references = np.split(trials.reference[: sizes[-1]], sizes[:-1])
        self.exact = self._block(network.to_model())
        self.rest = open_session(part(network.to_model(), network, end, network.output), threads)
        self.uncorrected = np.zeros(self.exact[0].shape[1])
        self.choice = _Choice(
            prepared.equalised.get(block.depthwise),
            prepared.outputs.get(block.depthwise),
            prepared.layers[block.project].range,
        )
        self.course: list[float] = []  # damage of the choice, summed up batch by batch
        self._take(self.choice, np.inf)

    def best(self, responses: Mapping[str, Response]) -> tuple[_Choice, np.ndarray]:
        """(what does least damage, the mean error of the block's outputs with it, [outputs])."""
        block, network = self.block, self.prepared.network
        if not block.depthwise or self.course[-1] < _SMALL * self._power():
            return self.choice, self.error
        if (found := self.choice.expanded) is not None:
            layer = network.layer(block.depthwise)
            for factor in _LIMITS:
                limit = found.range.scale * LEVELS * factor
                other, _ = equalised_at(responses[layer.input], found.before, border_of(network, layer), limit)
                self._take(replace(self.choice, expanded=other))
        for step in _STEPS:
            for stretched in self._stretched():
                self._climb(step, stretched)
        most = self.course[-1] * _ROOM
        for stretched in self._stretched():
            for _ in range(_MOST_WIDER):
                if not self._take(stretched(_WIDER), most):
                    break
        return self.choice, self.error

    def _power(self) -> float:
        return float(sum(np.square(each, dtype=np.float64).sum() for each in self.references))

    def _stretched(self) -> list[Callable[[float], _Choice]]:
        """Ways to stretch ranges that the block has."""
        return [self._projected] if self.choice.output is None else [self._output, self._projected]

    def _output(self, factor: float) -> _Choice:
        assert self.choice.output is not None
        return replace(self.choice, output=self.choice.output.stretched(factor, 0.0))

    def _projected(self, factor: float) -> _Choice:
        low = self.prepared.histograms[self.prepared.network.layer(self.block.project).input].low
        return replace(self.choice, projected=self.choice.projected.stretched(factor, low))

    def _climb(self, step: float, stretched: Callable[[float], _Choice]) -> None:
        """In steps, in the direction that gets better."""
        for factor in (1 / step, step):
            first = self.choice
            while self._take(stretched(factor)):
                pass
            if self.choice is not first:
                return

    def _take(self, choice: _Choice, most: float | None = None) -> bool:
        """Takes `choice` if it does no more damage than `most`, or less than what was taken, and says whether it did."""
        harm, error = self._tried(choice)
        taken = len(harm) == len(self.batches) and harm[-1] < (_BETTER * self.course[-1] if most is None else most)
        if taken:
            self.choice, self.course, self.error = choice, harm, error
        return taken

    def _tried(self, choice: _Choice) -> tuple[list[float], np.ndarray]:
        """(damage at the logits once the mean error is taken off, summed up batch by batch as far as there is hope; that mean
        error)."""
        given = self._block(choice.placed(self.prepared, self.block, self.uncorrected).alone(self.block, "chain"))
        pixels = sum(batch[:, 0].size for batch in given)
        sums = [(got - exact).sum((0, *range(2, got.ndim)), dtype=np.float64) for got, exact in zip(given, self.exact)]
        error = np.sum(sums, 0) / pixels
        by_channel = error.astype(np.float32).reshape(-1, *[1] * (given[0].ndim - 2))
        course: list[float] = []
        for batch, reference in zip(given, self.references):
            off = logits_of(self.rest, [batch - by_channel]) - reference
            course.append(float(np.square(off, dtype=np.float64).sum()) + (course[-1] if course else 0.0))
            if self.course and course[-1] > _HOPELESS * self.course[len(course) - 1]:
                break
        return course, error

    def _block(self, model: onnx.ModelProto) -> list[np.ndarray]:
        """What the block of `model`, a form of the network, gives, batch by batch."""
        session = open_session(part(model, self.prepared.network, self.start, self.end), self.threads, integer=False)
        return [session.run(None, {self.start: batch})[0] for batch in self.batches]
