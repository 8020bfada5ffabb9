"""Runs one engine from any number of threads: its contexts, streams and buffers, all allocated once.

TensorRT's named-tensor interface only, the one that 8.5 to 11 and TensorRT-RTX have in common.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ...errors import UserError
from ..cuda.device import Buffer, Device, Graph
from ..cuda.errors import CudaError, OutOfDeviceMemory
from .tensors import Tensors

if TYPE_CHECKING:
    from .engine import Loaded

_PATIENCE = 2  # runs of one batch size, one after another, before it is captured as a graph
_CLOSING = 10.0  # seconds that close() waits for runs in other threads; one that takes longer hangs


class TensorRtError(UserError):
    """TensorRT refused a call that should have worked; the text says what it logged."""

    status = 1


class ContextRefused(UserError):
    """TensorRT can't make an execution context: as a rule the GPU's memory is full."""

    status = 1


class Stages(NamedTuple):
    """Milliseconds of GPU time, by its own clock."""

    copy_in: float
    compute: float
    copy_out: float


class Runner:
    """One engine, ready to run on `device`. Several threads may call it at once.

    Each call takes a slot (an execution context, a stream, buffers for the largest batch, events), the first one to run
    beside others makes another, and all are kept: in the long run nothing is allocated but answers.

    With `graphs` a batch size that comes twice in a row is captured as a CUDA graph and
    replayed while it keeps coming. Another size drops it: after a change of shape, replaying what was captured from the
    same context is undefined (TensorRT's developer guide, "CUDA Graphs").
    """

    def __init__(self, trt: Any, loaded: Loaded, device: Device, graphs: bool = True) -> None:
        """`loaded`: an ICudaEngine of the module `trt` with one input [-1, 3, S, S] or, in uint8, [-1, S, S, 3], and an output
        [-1, classes] or several, vectors or maps, FP32 or FP16, made while `device` was current. Raises UserError if it is
        another kind of engine, or the GPU has no memory for its buffers.
        """
        self._tensors = tensors = Tensors.of(trt, loaded.engine)
        self.outputs = [output.name for output in tensors.outputs]  # in the order in which run_all gives them
        self.min_batch, self.max_batch = tensors.min_batch, tensors.max_batch
        self._slots = _Slots(trt, loaded, device, tensors, "" if graphs else "not asked for")
        self._end = weakref.finalize(self, self._slots.close)  # also at exit: contexts must go before the device does
        try:
            with device, self._slots.borrowed():
                pass  # what does not fit into the GPU's memory is found here, not at the first image
        except BaseException:
            self._end()
            raise

    @property
    def description(self) -> str:
        """How it runs, for reports: "CUDA graphs", or "no CUDA graphs: ..." with the reason; on an integrated GPU "no copies"."""
        graphs = f"no CUDA graphs: {self._slots.no_graphs}" if self._slots.no_graphs else "CUDA graphs"
        return f"{graphs}, no copies" if self._slots.device.gpu.integrated else graphs

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images` as the engine takes them, of a type that its input can hold -> logits float32 [N, classes], a new array;
        of an engine with several outputs the first.

        More than `max_batch` are run in several parts; fewer than `min_batch` are filled up with zeros. Raises ValueError
        for another shape or type, TensorRtError and CudaError for what fails on the GPU.
        """
        return self._run(images, None)[0]

    def run_all(self, images: np.ndarray) -> List[np.ndarray]:
        """The same -> every output [N, ...], float32."""
        return self._run(images, None)

    def timed(self, images: np.ndarray) -> Tuple[np.ndarray, Stages]:
        """What run() gives, and how long the GPU took for it, summed over the parts."""
        stages: List[Stages] = []
        logits = self._run(images, stages)[0]
        return logits, Stages(*(float(sum(column)) for column in zip(*stages))) if stages else Stages(0.0, 0.0, 0.0)

    def profiled(self, images: np.ndarray, rounds: int, warm: int) -> Dict[str, float]:
        """Mean milliseconds of each of the engine's layers, by TensorRT's name for it, over `rounds` runs of `images`, at most
        the largest batch, after `warm` others. A layer at a time: their sum is more than a run takes."""
        with self._slots.device, self._slots.borrowed(once=True) as slot:
            return slot.profiled(images, rounds, warm)

    def close(self) -> None:
        """Waits for runs in other threads, then frees everything but the engine, which its owner may now drop. Callable
        from any thread, more than once."""
        self._end()

    def _run(self, images: np.ndarray, stages: Optional[List[Stages]]) -> List[np.ndarray]:
        tensors = self._tensors
        if images.shape[1:] != tensors.shape or not np.can_cast(images.dtype, tensors.input_dtype, "same_kind"):
            raise ValueError(
                f"This engine takes {np.dtype(tensors.input_dtype)} images [N, {', '.join(map(str, tensors.shape))}], "
                f"not {images.dtype} {list(images.shape)}."
            )
        answers = [np.empty((len(images), *output.shape), np.float32) for output in tensors.outputs]
        with self._slots.device, self._slots.borrowed() as slot:
            for start in range(0, len(images), tensors.max_batch):
                part = images[start : start + tensors.max_batch]
                slot.run(part, [answer[start : start + len(part)] for answer in answers], stages)
        return answers


class _Slots:
    """The slots of one engine. Whoever runs borrows one; an idle one is taken again before another is made."""

    def __init__(self, trt: Any, loaded: Loaded, device: Device, tensors: Tensors, no_graphs: str) -> None:
        self.trt, self.device, self.tensors, self.no_graphs = trt, device, tensors, no_graphs
        self.loaded: Any = loaded
        engine = loaded.engine
        # Before 10.0 two contexts must not use one profile at a time (8.5's NvInferRuntime.h, createExecutionContext):
        # there an engine serves as many threads at once as it has equal profiles, and the others wait for their turn.
        self._profiles: Optional[List[int]] = None
        if int(trt.__version__.split(".")[0]) in (8, 9):
            shapes = [
                [tuple(shape) for shape in engine.get_tensor_profile_shape(tensors.input, index)]
                for index in range(engine.num_optimization_profiles)
            ]
            self._profiles = [index for index, shape in enumerate(shapes) if shape == shapes[0]][::-1]
        self._idle: List[_Slot] = []
        self._busy, self._closed = 0, False
        self._change = threading.Condition()

    @contextlib.contextmanager
    def borrowed(self, once: bool = False) -> Iterator[_Slot]:
        """A slot for one run; the device must be current. One whose run failed is freed, since work may be left in its stream,
        and so is one that is used just `once`."""
        slot, profile = self._take()
        try:
            if slot is None:
                slot = _Slot(self, profile)
            yield slot
        except BaseException:
            if slot is not None:
                slot.free()
            self._give_back(None, profile)
            raise
        if once:
            slot.free()
        self._give_back(None if once else slot, profile)

    def _take(self) -> Tuple[Optional[_Slot], int]:
        with self._change:
            while not (self._closed or self._idle or self._profiles is None or self._profiles):
                self._change.wait()
            if self._closed:
                raise RuntimeError("The runner was closed: it can't run any more.")
            self._busy += 1
            if self._idle:
                slot = self._idle.pop()
                return slot, slot.profile
            return None, 0 if self._profiles is None else self._profiles.pop()

    def _give_back(self, slot: Optional[_Slot], profile: int) -> None:
        with self._change:
            self._busy -= 1
            if slot is None and self._profiles is not None:
                self._profiles.append(profile)
            if slot is not None and not self._closed:
                self._idle.append(slot)
                slot = None
            self._change.notify_all()
        if slot is not None:  # close() did not wait any longer
            slot.free()

    def close(self) -> None:
        """See Runner.close. At exit it must raise nothing, whatever state the GPU is in."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._busy == 0, _CLOSING)
            slots, self._idle = self._idle, []
        with contextlib.suppress(CudaError), self.device:
            while slots:
                slots.pop().free()
            self.loaded = None


class _Slot:
    """What one run needs at a time."""

    def __init__(self, slots: _Slots, profile: int) -> None:
        device, tensors = slots.device, slots.tensors
        self.profile = profile
        self._slots, self._tensors = slots, tensors
        self._batch, self._streak, self._patience = 0, 0, _PATIENCE
        self._graph: Optional[Graph] = None
        self._frees: List[Callable[[], None]] = []
        try:
            self._stream = self._own(device.stream())
            self._events = [self._own(device.event()) for _ in range(4)]
            self._input: Buffer = self._own(device.buffer((tensors.max_batch, *tensors.shape), tensors.input_dtype))
            self._outputs: List[Buffer] = [
                self._own(device.buffer((tensors.max_batch, *output.shape), output.dtype)) for output in tensors.outputs
            ]
            self._context = slots.loaded.new_context()
            if self._context is None:
                free, total = device.free_memory()
                raise ContextRefused(
                    f"TensorRT can't make an execution context for this engine. It says: {self._said()}. {free / 1e6:,.0f} of "
                    f"{total / 1e6:,.0f} MB of the GPU's memory are free: if that is little, close other programs that use "
                    "the GPU, or build the engine for smaller batches."
                )
            if self._context.active_optimization_profile != profile:
                done = self._context.set_optimization_profile_async(profile, self._stream.handle)
                self._check(done, "set_optimization_profile_async")
            outputs = zip((output.name for output in tensors.outputs), self._outputs)
            for name, buffer in ((tensors.input, self._input), *outputs):
                self._check(self._context.set_tensor_address(name, buffer.address), "set_tensor_address")
        except BaseException:
            self.free()
            raise

    def run(self, images: np.ndarray, answers: List[np.ndarray], stages: Optional[List[Stages]]) -> None:
        """`images` [n, ...] -> `answers` [n, ...], n at most the largest batch; appends its times to `stages`."""
        n, batch = len(images), self._filled(images)
        stream, events = self._stream, self._events if stages is not None else None
        if events:
            stream.record(events[0])
        stream.copy_in(self._input, batch)
        if events:
            stream.record(events[1])
        self._compute(batch)
        if events:
            stream.record(events[2])
        for output in self._outputs:
            stream.copy_out(output, n)
        if events:
            stream.record(events[3])
        stream.synchronize()
        for answer, output in zip(answers, self._outputs):
            answer[...] = output.host[:n]
        if stages is not None and events:
            stages.append(Stages(*(later.milliseconds_since(earlier) for earlier, later in zip(events, events[1:]))))

    def profiled(self, images: np.ndarray, rounds: int, warm: int) -> Dict[str, float]:
        """See Runner.profiled. The profiler stays in the context, so the slot can't be used again."""
        trt, totals = self._slots.trt, {}  # type: Any, Dict[str, float]

        class Profiler(trt.IProfiler):
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                totals[layer_name] = totals.get(layer_name, 0.0) + ms

        batch = self._filled(images)
        self._stream.copy_in(self._input, batch)
        self._shape(batch)
        for _ in range(warm):
            self._enqueue()
            self._stream.synchronize()
        self._profiler = self._context.profiler = Profiler()  # from here on each execution reports its layers
        for _ in range(rounds):
            self._enqueue()
            self._stream.synchronize()
        return {name: total / rounds for name, total in totals.items()}

    def _filled(self, images: np.ndarray) -> int:
        """Puts `images` into the input's buffer; the number that is run, with zeros for what is missing of the least batch."""
        n, host = len(images), self._input.host
        batch = max(n, self._tensors.min_batch)
        np.copyto(host[:n], images, casting="same_kind")
        host[n:batch] = 0
        return batch

    def _shape(self, batch: int) -> None:
        if batch != self._batch:
            self._drop_graph()
            self._batch = self._streak = 0  # until the shape is set
            shape = (batch, *self._tensors.shape)
            self._check(self._context.set_input_shape(self._tensors.input, shape), f"set_input_shape{shape}")
            self._batch = batch

    def _compute(self, batch: int) -> None:
        self._shape(batch)
        if self._graph is None and self._streak >= self._patience and self._capturable():
            self._patience = min(2 * self._patience, 1 << 16)  # sizes that keep changing are not worth capturing
            try:
                self._graph = self._stream.capture(self._enqueue)
            except (CudaError, OutOfDeviceMemory, TensorRtError) as error:
                self._slots.no_graphs = f"capturing failed ({error})"
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue()  # for a new shape TensorRT does work here that must not be captured
            self._streak += 1

    def _capturable(self) -> bool:
        if self._slots.no_graphs:
            return False
        told = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX: not before its kernels are compiled
        return told is None or bool(told(self._stream.handle))

    def _enqueue(self) -> None:
        self._check(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def _check(self, done: bool, call: str) -> None:
        if not done:
            raise TensorRtError(f"TensorRT's {call} failed. It says: {self._said()}")

    def _said(self) -> str:
        loaded = self._slots.loaded  # None once the runner was closed
        return loaded.log.said()[:400] if loaded is not None else "nothing"

    def _own(self, thing: Any) -> Any:
        self._frees.append(thing.free)
        return thing

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
            self._graph = None

    def free(self) -> None:
        """Gives everything back; the device must be current. What a GPU in error refuses to free is left to the driver."""
        if self._frees:
            with contextlib.suppress(CudaError):
                self._stream.synchronize()
        with contextlib.suppress(CudaError):
            self._drop_graph()
        self._context = None
        while self._frees:
            with contextlib.suppress(CudaError):
                self._frees.pop()()
