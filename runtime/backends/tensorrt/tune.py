"""PRECISION=best on a GPU: candidates are built and timed in turns with FP16, and the fastest is kept.

All INT8 candidates come from the one INT8 artifact. They differ in the layers that are put back to FP16 (see
network.put_back), so each is at least as accurate as the artifact. What was found stays in the manifest of the engine that
was kept.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...artifacts.artifact import Artifact, read_artifact
from ...errors import UserError
from ..backend import Say
from .compare import FASTER, in_turns, noise, running
from .engine import Engine, engine_of
from .explain import asked, explained, layers_path
from .layers import Layer
from .manifest import Manifest, read_manifest, write_engine
from .network import Product
from .options import BuildOptions
from .site import Site
from .tuned import EARLIER, Outcome, Record, faster, tuned_layers

SECONDS = 1800.0  # after which no other candidate is begun
WORTH = 1.03  # less than this, of what the builder gains when it may choose freely, is not worth looking for
_STAGE = re.compile(r"(?:stages?|blocks|features|layers?)[./_]?\d+")
_ROUNDS = 2  # of stages put back


class Candidate(NamedTuple):
    """One way to build the network."""

    name: str
    precision: str
    higher: Optional[Tuple[str, ...]]  # see BuildOptions


class Tuned(NamedTuple):
    engine: Engine
    manifest: Manifest
    record: Record


def tune(
    artifact: Artifact,
    site: Site,
    options: BuildOptions,
    seconds: float = SECONDS,
    say: Say = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """The fastest engine of `artifact`'s network on the GPU here, at `options.batch.best` images.

    `artifact`: in FP16, or the one that this generation builds FP16 from. `options`: of all candidates, but their precision.
    Raises UserError if FP16 can't be built; a candidate that can't is passed over. Ctrl-C keeps the best so far.
    """
    return _Search(artifact, site, options, seconds, say, clock).run()


def before(artifact: Artifact, site: Site, options: BuildOptions) -> Optional[Tuned]:
    """What an earlier search with just `options` found, if its engine still fits and there is nothing to try since."""
    for precision in ("int8", "fp16"):
        with contextlib.suppress(UserError, ValueError, TypeError, KeyError):  # not there, not fitting, or damaged
            engine = engine_of(artifact, site, precision)
            manifest = read_manifest(engine.path)
            known, record = options._replace(precision=precision, higher=manifest.options.higher), manifest.tuning
            if record is None or engine.current(known) is None:
                continue
            if not record.get("candidates") and _exists(artifact, site):
                return None  # calibrated since then
            return Tuned(engine, manifest, Record.of(record))
    return None


def _exists(artifact: Artifact, site: Site) -> bool:
    with contextlib.suppress(UserError):
        return bool(engine_of(artifact, site, "int8"))
    return False


class _Search:
    def __init__(
        self,
        artifact: Artifact,
        site: Site,
        options: BuildOptions,
        seconds: float,
        say: Say,
        clock: Callable[[], float],
    ) -> None:
        self.artifact, self.site, self.options, self.say, self.clock = artifact, site, options, say, clock
        self.began, self.seconds, self.longest = clock(), seconds, 0.0
        self.outcomes: List[Outcome] = []
        self.best: Optional[Outcome] = None  # of INT8
        self.stopped = ""
        self.products: Dict[str, Product] = {}
        self.fp16 = engine_of(artifact, site, "fp16")
        self.path = self.fp16.path  # INT8's, once it is known that there is an artifact
        self.scores: Dict[str, float] = {}  # %, agreement with FP32 by form, as calibration judged it
        self.kept: List[str] = []  # layers that are not INT8 in the artifact either

    def run(self) -> Tuned:
        fp16_options = self.options._replace(precision="fp16")
        manifest = self.fp16.current(fp16_options) or self.fp16.build_telling(fp16_options)[0]
        why = self._unsearched()
        if not why:
            try:
                why = self._searched()
            except KeyboardInterrupt:
                self.stopped = "interrupted"
            finally:
                for file in self.path.parent.glob(f".{self.path.stem}.trial*"):
                    file.unlink()
        return self._kept(manifest, why)

    def _unsearched(self) -> str:
        """Why INT8 is not looked at; "" if it is."""
        try:
            self.int8 = engine_of(self.artifact, self.site, "int8")
        except UserError as error:
            return f"there is no INT8 artifact to try. {error}"
        self.path = self.int8.path
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            known = json.loads(self.int8.source.metadata.get("calibration", "{}"))
            self.scores = {str(score["name"]): float(score["same_class"]) for score in known["scores"]}
            self.kept = [str(name) for name in known["kept_in_float"]]
        return ""

    def _searched(self) -> str:
        """Tries candidates until there are no more, or no time; why no INT8 can pay, or ""."""
        gain = self._oracle()
        self.longest = self.clock() - self.began if gain is not None else 0.0
        if gain is not None and gain < WORTH:
            return f"even with INT8 wherever the builder likes, it is only {gain:.2f} times as fast as FP16"
        before = tuned_layers(self.int8.path)
        if before is not None and not self._try(Candidate("int8 as it was chosen last", "int8", before)):
            return ""
        if not self._try(Candidate("int8 as calibrated", "int8", ())):
            return ""
        int8 = {name: product for name, product in self.products.items() if product.int8}
        depthwise = tuple(name for name, product in int8.items() if product.depthwise)
        expanding = tuple(name for name, product in int8.items() if product.expands)
        forms = [("int8, depthwise layers in FP16", depthwise)] if depthwise else []
        forms += [("int8, depthwise and expanding layers in FP16", (*depthwise, *expanding))] if expanding else []
        for name, higher in forms:
            if set(higher) != set(before or ()) and not self._try(Candidate(name, "int8", higher)):
                return ""
        for turn in range(_ROUNDS):
            higher = self._slow_stages(int8)
            if not higher or not self._try(Candidate(f"int8, slow stages in FP16, round {turn + 1}", "int8", higher)):
                break
        return ""

    def _oracle(self) -> Optional[float]:
        """How much faster than FP16 the builder gets with INT8 wherever it likes, its ranges meaningless; None if unknown."""
        path = self.artifact.path.with_name(f"{self.artifact.variant}.fp32.onnx")
        if not self.site.generation.implicit_int8 or not path.is_file() or self.options.dla is not None:
            return None
        try:
            engine = Engine(self.site, read_artifact(path), "int8", self._trial())
            engine.build(self.options._replace(precision="int8", implicit=True))
            outcome = self._timed("the builder's own choice of INT8, uncalibrated: timed only", engine)
        except UserError as error:
            outcome = Outcome("the builder's own choice of INT8, uncalibrated", error=_line(error))
        self._note(outcome)
        return outcome.speedup or None

    def _try(self, candidate: Candidate) -> bool:
        """Builds and times `candidate`; False if there is no time for it."""
        spent = self.clock() - self.began
        if spent + self.longest > self.seconds:
            self.stopped = f"after {spent:.0f} of at most {self.seconds:.0f} s"
            return False
        engine = self.int8._replace(path=self._trial())
        self.say(f"trying {candidate.name}, {spent:.0f} of at most {self.seconds:.0f} s spent")
        try:
            options = self.options._replace(precision="int8", higher=candidate.higher)
            manifest, told = engine.build_telling(options)
            self.products = self.products or told.products
            found = self._timed(candidate.name, engine)._replace(put_back=len(manifest.put_back))
            outcome = self._judged(found, candidate)
            if self.best is None or outcome.speedup > self.best.speedup:
                write_engine(self.int8.path, engine.content(), manifest)
                self.best = outcome
                with contextlib.suppress(OSError):
                    layers_path(self.int8.path).unlink()  # of another engine
        except UserError as error:
            self.products = self.products or getattr(error, "products", {})
            outcome = Outcome(candidate.name, put_back=len(candidate.higher or ()), error=_line(error))
        self._note(outcome)
        self.longest = max(self.longest, self.clock() - self.began - spent)
        return True

    def _timed(self, name: str, engine: Engine) -> Outcome:
        batch = self.options.batch.best
        with running({"fp16": self.fp16, "int8": engine}) as runners:
            images = dict.fromkeys(runners, noise(self.fp16.source.preprocessing, batch))
            times = in_turns({key: runner.timed for key, runner in runners.items()}, images)
        if not any(outcome.name == "fp16" for outcome in self.outcomes):
            self.outcomes.append(Outcome("fp16", statistics.median(times["fp16"]), 1.0, 1.0))
        speedup, at_least = faster(times["fp16"], times["int8"])
        return Outcome(name, statistics.median(times["int8"]), speedup, at_least)

    def _judged(self, outcome: Outcome, candidate: Candidate) -> Outcome:
        """With what calibration knows of its accuracy: that of its own form, or of the artifact, which has more in INT8."""
        scores = {form: agreement for form, agreement in self.scores.items() if form.startswith("INT8, ")}
        if not scores:
            return outcome
        form = list(scores)[-1]  # the artifact's own is the last
        depthwise = {name for name, product in self.products.items() if product.depthwise}
        if EARLIER in self.scores and set(candidate.higher or ()) - set(self.kept) == depthwise - set(self.kept):
            return outcome._replace(agreement=self.scores[EARLIER], judged=EARLIER)  # just what is in INT8 there
        return outcome._replace(agreement=scores[form], judged=f"at least that of {form}" if candidate.higher else form)

    def _slow_stages(self, int8: Mapping[str, Product]) -> Tuple[str, ...]:
        """The layers of the best so far that are put back, and those of the stages that are not faster than in FP16; () if there
        are no such stages, or nobody can tell."""
        try:
            higher = read_manifest(self.int8.path).options.higher or ()
            macs = {name: product.macs for name, product in self.products.items()}
            ours = asked(self.int8, self.options.batch.best, [], macs)
            theirs = explained(self.fp16, self.options._replace(precision="fp16")).layers
        except UserError as error:
            self.say(f"stages can't be compared: {error}")
            return ()
        nodes = list(self.products)
        in_int8, in_fp16 = stage_times(ours, nodes), stage_times(theirs, nodes)
        slow = {stage for stage, spent in in_int8.items() if stage in in_fp16 and spent >= in_fp16[stage]}
        more = [name for name in int8 if name not in higher and stage_of(name) in slow]
        return (*higher, *more) if more else ()

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.error:
            self.say(f"{outcome.name}: passed over: {outcome.error}")
        else:
            self.say(
                f"{outcome.name}: {outcome.milliseconds:.3f} ms, {outcome.speedup:.2f} times as fast as FP16 (at least "
                f"{outcome.at_least:.2f})"
            )

    def _kept(self, fp16: Manifest, why: str) -> Tuned:
        """The winner, with the record in its manifest."""
        best, engine, manifest = self.best, self.fp16, fp16
        with contextlib.suppress(UserError):  # what explain may have added to it meanwhile
            manifest = read_manifest(self.fp16.path)
        if best is not None and best.at_least >= FASTER:
            engine, manifest = self.int8, read_manifest(self.int8.path)
            why = f"{best.speedup:.2f} times as fast as FP16 (at least {best.at_least:.2f})"
        elif best is not None:
            why = f"the fastest INT8 ({best.name}) is only {best.speedup:.2f} times as fast (at least {best.at_least:.2f})"
        gpu = self.site.gpu.name if self.site.gpu else self.site.capability
        chosen = best.name if best is not None and engine is not self.fp16 else "fp16"
        record = Record(
            chosen,
            why or "no INT8 candidate could be timed",
            self.options.batch.best,
            self.site.library,
            gpu,
            round(self.clock() - self.began, 1),
            self.stopped,
            self.outcomes,
        )
        manifest = manifest._replace(tuning=record.as_dict())
        engine.remember(manifest, {})
        other = self.fp16 if engine is not self.fp16 else self.int8 if best is not None else None
        if other is not None:  # one network has one result
            with contextlib.suppress(UserError):
                other.remember(read_manifest(other.path)._replace(tuning=None), {})
        return Tuned(engine, manifest, record)

    def _trial(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.trial.engine")


def stage_of(node: str) -> str:
    """The part of the network that `node` is in, by its name: "stages.3"; "" outside of all."""
    found = _STAGE.search(node)
    return found[0] if found else ""


def stage_times(layers: Sequence[Layer], nodes: Sequence[str]) -> Dict[str, float]:
    """Milliseconds by stage. A kernel with layers of two stages counts for both by half; one without a layer for none."""
    known = set(nodes)
    found: Dict[str, float] = {}
    for layer in layers:
        stages = {stage_of(node) for node in layer.nodes if node in known or _STAGE.search(node)} - {""}
        for stage in stages:
            found[stage] = found.get(stage, 0.0) + (layer.milliseconds or 0.0) / len(stages)
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
