"""Runs one engine from any number of threads: its contexts, streams and buffers, all allocated once.

TensorRT's named-tensor interface only, the one that 8.5 to 11 and TensorRT-RTX have in common.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ...errors import UserError
from ..cuda import Device, Graph
from ..cuda.errors import CudaError, OutOfDeviceMemory

_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}  # of trt.DataType
_PATIENCE = 2  # runs of one batch size, one after another, before it is captured as a graph
_CLOSING = 10.0  # seconds that close() waits for runs in other threads; one that takes longer hangs


class TensorRtError(RuntimeError):
    """TensorRT refused a call that should have worked. It wrote the reason to its own log, on stderr."""


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

    Each call takes a slot (an execution context, a stream, page-locked and GPU buffers for the largest batch, events),
    the first one to run beside others makes another, and all are kept: in the long run nothing is allocated but answers.

    With `graphs`, and a device that can capture, a batch size that comes twice in a row is captured as a CUDA graph and
    replayed while it keeps coming. Another size drops it: after a change of shape, replaying what was captured from the
    same context is undefined (TensorRT's developer guide, "CUDA Graphs").
    """

    def __init__(self, trt: Any, engine: Any, device: Device, graphs: bool = True) -> None:
        """`engine`: an ICudaEngine of the module `trt` with one input [-1, 3, S, S] or, in uint8, [-1, S, S, 3], and an
        output [-1, classes] or several, vectors or maps, FP32 or FP16, made while `device` was current. Raises UserError if
        it is another kind of engine, or the GPU has no memory for its buffers.
        """
        self._spec = spec = _Spec.of(trt, engine)
        self.outputs = [output.name for output in spec.outputs]  # in the order in which run_all gives them
        self.min_batch, self.max_batch = spec.min_batch, spec.max_batch
        self._slots = _Slots(trt, engine, device, spec, "" if graphs else "not asked for")
        if not device.can_capture:
            self._slots.no_graphs = f"{device.name} has none"
        self._end = weakref.finalize(self, self._slots.close)  # also at exit: contexts must go before the device does
        try:
            with device, self._slots.borrowed():
                pass  # what does not fit into the GPU's memory is found here, not at the first image
        except BaseException:
            self._end()
            raise

    @property
    def description(self) -> str:
        """How it runs, for reports: "CUDA graphs", or "no CUDA graphs: pycuda 2024.1 has none"."""
        return f"no CUDA graphs: {self._slots.no_graphs}" if self._slots.no_graphs else "CUDA graphs"

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

    def close(self) -> None:
        """Waits for runs in other threads, then frees everything but the engine, which its owner may now drop. Callable
        from any thread, more than once."""
        self._end()

    def _run(self, images: np.ndarray, stages: Optional[List[Stages]]) -> List[np.ndarray]:
        spec = self._spec
        if images.shape[1:] != spec.shape or not np.can_cast(images.dtype, spec.input_dtype, "same_kind"):
            raise ValueError(
                f"This engine takes {np.dtype(spec.input_dtype)} images [N, {', '.join(map(str, spec.shape))}], "
                f"not {images.dtype} {list(images.shape)}."
            )
        answers = [np.empty((len(images), *output.shape), np.float32) for output in spec.outputs]
        with self._slots.device, self._slots.borrowed() as slot:
            for start in range(0, len(images), spec.max_batch):
                part = images[start : start + spec.max_batch]
                slot.run(part, [answer[start : start + len(part)] for answer in answers], stages)
        return answers


class _Output(NamedTuple):
    name: str
    shape: Tuple[int, ...]  # for one image: (classes,), or (C, H, W)
    dtype: Any


class _Spec(NamedTuple):
    """What an engine takes and gives."""

    input: str
    shape: Tuple[int, ...]  # of one image: (3, S, S) or (S, S, 3)
    input_dtype: Any
    outputs: List[_Output]
    min_batch: int
    max_batch: int

    @staticmethod
    def of(trt: Any, engine: Any) -> _Spec:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        ranks = [len(shapes[name]) for name in outputs]
        if [len(shapes[name]) for name in inputs] != [4] or not ranks or set(ranks) - {2, 4}:
            raise UserError(
                f"This engine's tensors are {shapes}: not one input of images, and outputs of logits or maps."
            )
        source = inputs[0]
        known = {getattr(trt.DataType, name): dtype for name, dtype in _DTYPES.items()}
        takes, gives = engine.get_tensor_dtype(source), [engine.get_tensor_dtype(name) for name in outputs]
        if takes not in known or not all(kind in (trt.DataType.FLOAT, trt.DataType.HALF) for kind in gives):
            given = ", ".join(map(str, gives))
            raise UserError(
                f"This engine takes {takes} and gives {given}: choose FP32 or FP16 for both, or an input of UINT8."
            )
        results = [_Output(name, shapes[name][1:], known[kind]) for name, kind in zip(outputs, gives)]
        batch = shapes[source][0]
        lowest, highest = batch, batch  # an engine without a dynamic batch
        if batch < 0:
            low, _, high = engine.get_tensor_profile_shape(source, 0)
            lowest, highest = int(tuple(low)[0]), int(tuple(high)[0])
        return _Spec(source, shapes[source][1:], known[takes], results, lowest, highest)


class _Slots:
    """The slots of one engine. Whoever runs borrows one; an idle one is taken again before another is made."""

    def __init__(self, trt: Any, engine: Any, device: Device, spec: _Spec, no_graphs: str) -> None:
        self.device, self.spec, self.no_graphs = device, spec, no_graphs
        self._engine = engine
        # Before 10.0 two contexts must not use one profile at a time (8.5's NvInferRuntime.h, createExecutionContext):
        # there an engine serves as many threads at once as it has equal profiles, and the others wait for their turn.
        self._profiles: Optional[List[int]] = None
        if int(trt.__version__.split(".")[0]) in (8, 9):
            shapes = [
                [tuple(shape) for shape in engine.get_tensor_profile_shape(spec.input, index)]
                for index in range(engine.num_optimization_profiles)
            ]
            self._profiles = [index for index, shape in enumerate(shapes) if shape == shapes[0]][::-1]
        self._idle: List[_Slot] = []
        self._busy, self._closed = 0, False
        self._change = threading.Condition()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[_Slot]:
        """A slot for one run; the device must be current. One whose run failed is freed: work may be left in its stream."""
        slot, profile = self._take()
        try:
            if slot is None:
                slot = _Slot(self, self._engine, profile)
            yield slot
        except BaseException:
            if slot is not None:
                slot.free()
            self._give_back(None, profile)
            raise
        self._give_back(slot, profile)

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
            self._engine = None


class _Slot:
    """What one run needs at a time."""

    def __init__(self, slots: _Slots, engine: Any, profile: int) -> None:
        device, spec = slots.device, slots.spec
        self.profile = profile
        self._slots, self._spec = slots, spec
        self._batch, self._streak, self._patience = 0, 0, _PATIENCE
        self._graph: Optional[Graph] = None
        self._frees: List[Callable[[], None]] = []
        try:
            self._stream = self._own(device.stream())
            self._events = [self._own(device.event()) for _ in range(4)]
            self._host_in = self._pinned((spec.max_batch, *spec.shape), spec.input_dtype)
            self._host_out = [self._pinned((spec.max_batch, *output.shape), output.dtype) for output in spec.outputs]
            self._memory_in = self._own(device.memory(self._host_in.nbytes))
            self._memory_out = [self._own(device.memory(host.nbytes)) for host in self._host_out]
            self._context = engine.create_execution_context()
            if self._context is None:
                free, total = device.used_memory()
                raise ContextRefused(
                    f"TensorRT can't make an execution context for this engine; its log says why. {free / 1e6:,.0f} of "
                    f"{total / 1e6:,.0f} MB of the GPU's memory are free: if that is little, close other programs that use "
                    "the GPU, or build the engine for smaller batches."
                )
            if self._context.active_optimization_profile != profile:
                done = self._context.set_optimization_profile_async(profile, self._stream.handle)
                self._check(done, "set_optimization_profile_async")
            outputs = zip((output.name for output in spec.outputs), self._memory_out)
            for name, memory in ((spec.input, self._memory_in), *outputs):
                self._check(self._context.set_tensor_address(name, memory.address), "set_tensor_address")
        except BaseException:
            self.free()
            raise

    def run(self, images: np.ndarray, answers: List[np.ndarray], stages: Optional[List[Stages]]) -> None:
        """`images` [n, ...] -> `answers` [n, ...], n at most the largest batch; appends its times to `stages`."""
        n = len(images)
        batch = max(n, self._spec.min_batch)
        np.copyto(self._host_in[:n], images, casting="same_kind")
        self._host_in[n:batch] = 0
        stream, events = self._stream, self._events if stages is not None else None
        if events:
            stream.record(events[0])
        stream.copy_in(self._memory_in, self._host_in[:batch])
        if events:
            stream.record(events[1])
        self._compute(batch)
        if events:
            stream.record(events[2])
        for host, memory in zip(self._host_out, self._memory_out):
            stream.copy_out(host[:n], memory)
        if events:
            stream.record(events[3])
        stream.synchronize()
        for answer, host in zip(answers, self._host_out):
            answer[...] = host[:n]
        if stages is not None and events:
            stages.append(Stages(*(later.milliseconds_since(earlier) for earlier, later in zip(events, events[1:]))))

    def _compute(self, batch: int) -> None:
        if batch != self._batch:
            self._drop_graph()
            self._batch = self._streak = 0  # until the shape is set
            shape = (batch, *self._spec.shape)
            self._check(self._context.set_input_shape(self._spec.input, shape), f"set_input_shape{shape}")
            self._batch = batch
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
            raise TensorRtError(f"TensorRT's {call} failed; what it logged before this says why.")

    def _own(self, thing: Any) -> Any:
        self._frees.append(thing.free)
        return thing

    def _pinned(self, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
        array = self._slots.device.pinned(shape, dtype)
        self._frees.append(lambda: self._slots.device.free_pinned(array))
        return array

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
