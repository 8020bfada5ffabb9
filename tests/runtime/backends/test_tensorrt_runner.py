"""The runner on a FAKE TensorRT and a FAKE GPU: what it asks of them, in which order, and what it gives back."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import onnxruntime
import pytest

from runtime.backends.cuda import Device, open_device
from runtime.backends.cuda.errors import CudaError, OutOfDeviceMemory
from runtime.backends.tensorrt.engine import Loaded
from runtime.backends.tensorrt.log import log_of
from runtime.backends.tensorrt.runner import ContextRefused, Runner, TensorRtError
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing
from tests.runtime.artifacts.onnx_bytes import taking_pixels, tiny_onnx
from tests.runtime.backends.fake_cuda import Library, collected, install
from tests.runtime.backends.fake_tensorrt import build, fake_module
from tests.runtime.backends.test_tensorrt_build import EACH

SIDE = 4


def opened(trt: Any, device: Device, engine: bytes, **options: Any) -> Runner:
    trt.device, log = device.library, log_of(trt)  # type: ignore[attr-defined]
    with device:
        runtime = trt.Runtime(log)
        return Runner(trt, Loaded(log, runtime, runtime.deserialize_cuda_engine(engine), None), device, **options)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def expected(images: np.ndarray, onnx: bytes = tiny_onnx()) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0].astype(np.float32)


def in_threads(count: int, work: Callable[[int], Any]) -> List[Any]:
    """What `work` gave in each of `count` threads that start together."""
    results: List[Any] = [None] * count
    start = threading.Barrier(count)

    def body(index: int) -> None:
        start.wait()
        try:
            results[index] = work(index)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def gpu() -> Library:
    """The FAKE driver."""
    return Library()


@pytest.fixture
def device(gpu: Library, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from device_on(gpu, monkeypatch)


def device_on(gpu: Library, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    install(gpu, monkeypatch)
    made: Any = open_device()
    made.library = gpu
    with collected():
        yield made
    assert not gpu.problems
    assert not gpu.leaks(), "the test closed its runner, and yet something is left"
    made.close()


@pytest.mark.parametrize("version", EACH)
@pytest.mark.parametrize("output", [np.float32, np.float16])
def test_every_version_answers_for_every_number_of_images(version: str, output: Any, device: Any) -> None:
    trt, onnx = fake_module(version), tiny_onnx(output=output)
    runner = opened(trt, device, build(trt, onnx, batch=(1, 4, 32)))
    assert (runner.min_batch, runner.max_batch) == (1, 32)
    for count in (1, 70, 0, 32, 33, 1, 1, 1, 1, 5):  # 70 is run as 32 + 32 + 6
        images = pictures(count, seed=count)
        logits = runner.run(images)
        assert logits.dtype == np.float32 and logits.shape == (count, 5)
        np.testing.assert_allclose(logits, expected(images, onnx), rtol=1e-5, atol=1e-5)
    runner.close()


@pytest.mark.parametrize("version", EACH)
def test_pixels_go_to_the_gpu_as_they_are(version: str, device: Any) -> None:
    trt, recipe = fake_module(version), Preprocessing(SIDE, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3, "uint8")  # type: ignore[arg-type]
    onnx, used = taking_pixels(tiny_onnx(), recipe), []
    for graph in (tiny_onnx(), onnx):
        runner = opened(trt, device, build(trt, graph, batch=(1, 4, 32)))
        with device:
            free, total = device.free_memory()
            used.append((total - free) // 2)  # the GPU's, and as much of the host's
        if graph is onnx:
            break
        runner.close()
    images = 32 * 3 * SIDE * SIDE
    assert used[0] - used[1] == 4 * images - images
    random = np.random.default_rng(0)
    for count in (1, 70, 0, 3, 3, 3):
        squares = random.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        normalised = (squares.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
        np.testing.assert_allclose(runner.run(squares), expected(normalised.astype(np.float32)), rtol=1e-4, atol=1e-4)
    for wrong in (pictures(2), random.integers(0, 256, (2, 3, SIDE, SIDE), np.uint8), squares.astype(np.float32)):
        with pytest.raises(ValueError, match=r"takes uint8 images \[N, 4, 4, 3\], not"):
            runner.run(wrong)
    runner.close()


def test_fewer_images_than_the_engine_takes_are_filled_up(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx(), batch=(4, 4, 8)))
    runner.run(pictures(8, seed=1))  # what is left in the buffers must not matter
    for count in (1, 3, 9):
        np.testing.assert_allclose(runner.run(pictures(count)), expected(pictures(count)), rtol=1e-5, atol=1e-5)
    runner.run(pictures(8, seed=1))
    runner.run(pictures(1))
    assert trt.ran.shape == (4, 3, SIDE, SIDE) and (trt.ran[0] == pictures(1)[0]).all() and (trt.ran[1:] == 0).all()
    runner.close()


def test_images_of_other_layouts_and_wider_types_are_taken(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    images = pictures(6)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for same in (images.astype(np.float64), channels_last, np.repeat(images, 2, axis=0)[::2]):
        np.testing.assert_array_equal(runner.run(same), runner.run(images))
    runner.close()


@pytest.mark.parametrize("wrong", [np.zeros((1, 3, 5, 4), np.float32), np.zeros((3, 4, 4), np.float32)])
def test_images_of_another_shape_are_refused_in_words(wrong: np.ndarray, device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    with pytest.raises(ValueError, match=r"takes float32 images \[N, 3, 4, 4\], not float32"):
        runner.run(wrong)
    runner.close()


def test_an_answer_is_the_callers_own(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    first = runner.run(pictures(2, seed=1))
    kept = first.copy()
    runner.run(pictures(2, seed=2))
    np.testing.assert_array_equal(first, kept)
    runner.close()


@pytest.mark.parametrize("graphs", [True, False])
def test_nothing_is_allocated_once_it_is_warm(graphs: bool, device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()), graphs=graphs)
    for _ in range(4):
        runner.run(pictures(3))
    made = dict(device.library.made)
    assert made.get("graph", 0) == (1 if graphs else 0)
    for _ in range(5):
        runner.run(pictures(3))
        runner.timed(pictures(3))
    assert device.library.made == made
    runner.close()


def test_on_a_gpu_that_shares_the_cpus_memory_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Library()
    gpu.integrated = True
    for call in ("cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"):
        monkeypatch.delattr(Library, call)
    for device in device_on(gpu, monkeypatch):
        trt = fake_module("10.3.0")
        runner = opened(trt, device, build(trt, tiny_onnx(), batch=(2, 4, 8)))
        for count in (1, 3, 3, 3, 3, 20):
            np.testing.assert_allclose(runner.run(pictures(count)), expected(pictures(count)), rtol=1e-5, atol=1e-5)
        assert gpu.made["mapped"] == 2 and runner.description == "CUDA graphs, no copies"
        runner.close()


def test_threads_at_once_get_their_own_answers(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx(), batch=(1, 4, 8)))

    def work(index: int) -> None:
        for turn in range(15):
            images = pictures(1 + (index + turn) % 11, seed=100 * index + turn)
            np.testing.assert_allclose(runner.run(images), expected(images), rtol=1e-5, atol=1e-5)

    assert in_threads(6, work) == [None] * 6
    assert trt.living["IExecutionContext"] == device.library.made["stream"] <= 6
    runner.close()


def test_runs_at_the_same_time_have_a_slot_each_and_later_threads_use_those_again(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    together = threading.Barrier(3)
    execute = trt.IExecutionContext.execute_async_v3

    def meeting(self: Any, stream_handle: int) -> Any:
        together.wait(timeout=120)  # three are inside TensorRT at once, or this breaks
        return execute(self, stream_handle)

    trt.IExecutionContext.execute_async_v3 = meeting
    answers = in_threads(3, lambda index: runner.run(pictures(2, seed=index)))
    trt.IExecutionContext.execute_async_v3 = execute
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected(pictures(2, seed=index)), rtol=1e-5, atol=1e-5)
    made = dict(device.library.made)
    assert made["stream"] == trt.living["IExecutionContext"] == 3
    for _ in range(5):  # those threads are dead; new ones take over what they had
        in_threads(1, lambda index: runner.run(pictures(1)))
    assert {**device.library.made, "graph": 0, "executable graph": 0} == {**made, "graph": 0, "executable graph": 0}
    runner.close()


@pytest.mark.parametrize("profiles", [1, 2])
def test_before_tensorrt_10_no_two_contexts_hold_one_profile(profiles: int, device: Any) -> None:
    """8.5 refuses that, so with one profile threads wait for each other instead of failing."""
    trt = fake_module("8.5.3")
    runner = opened(trt, device, build(trt, tiny_onnx(), profiles=profiles))
    answers = in_threads(5, lambda index: [runner.run(pictures(40, seed=index)) for _ in range(4)][-1])
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected(pictures(40, seed=index)), rtol=1e-5, atol=1e-5)
    assert trt.living["IExecutionContext"] <= profiles
    runner.close()


def test_a_batch_size_that_comes_again_is_replayed_as_a_graph(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    assert runner.description == "CUDA graphs"
    for turn in range(6):
        np.testing.assert_allclose(runner.run(pictures(2, turn)), expected(pictures(2, turn)), rtol=1e-5, atol=1e-5)
    executed = [member for _, member in trt.calls].count("execute_async_v3")
    assert executed == 3 and device.library.made["graph"] == 1  # twice plainly, once while it was captured
    runner.close()


def test_a_graph_is_dropped_before_its_context_gets_another_shape(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    live_graphs = []
    set_shape = trt.IExecutionContext.set_input_shape

    def watched(self: Any, name: str, shape: Any) -> Any:
        live_graphs.append(device.library.leaks().count("executable graph"))
        return set_shape(self, name, shape)

    trt.IExecutionContext.set_input_shape = watched
    for count in (2, 2, 2, 2, 5, 2, 2, 2, 5, 5, 5, 5, 5, 5, 2):
        images = pictures(count, seed=count)
        np.testing.assert_allclose(runner.run(images), expected(images), rtol=1e-5, atol=1e-5)
    assert len(live_graphs) == 5 and not any(live_graphs)
    assert (
        device.library.made["graph"] == 2
    )  # of the first 2s and the last 5s: sizes that keep changing are not captured
    runner.close()


def test_without_graphs_it_says_why(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()), graphs=False)
    for _ in range(5):
        runner.run(pictures(1))
    assert runner.description == "no CUDA graphs: not asked for" and "graph" not in device.library.made
    runner.close()


def test_a_driver_without_graphs_runs_without_and_says_so(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Library, "cuGraphInstantiateWithFlags")
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    for turn in range(5):
        np.testing.assert_allclose(runner.run(pictures(2, turn)), expected(pictures(2, turn)), rtol=1e-5, atol=1e-5)
    assert "no CUDA graphs: capturing failed" in runner.description and "update the driver" in runner.description
    runner.close()


def test_what_cannot_be_captured_is_launched_plainly_and_it_says_so(device: Any) -> None:
    trt = fake_module("10.3.0")
    trt.capturable_after = None
    runner = opened(trt, device, build(trt, tiny_onnx()))
    for turn in range(6):
        np.testing.assert_allclose(runner.run(pictures(2, turn)), expected(pictures(2, turn)), rtol=1e-5, atol=1e-5)
    assert runner.description.startswith("no CUDA graphs: capturing failed (TensorRT's execute_async_v3 failed")
    executed = [member for _, member in trt.calls].count("execute_async_v3")
    assert executed == 7  # it is tried once
    runner.close()


def test_rtx_is_asked_when_it_can_be_captured(device: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trt = fake_module("rtx-1.7.1")
    trt.capturable_after = 5
    runner = opened(trt, device, build(trt, tiny_onnx()))
    for turn in range(9):
        np.testing.assert_allclose(runner.run(pictures(2, turn)), expected(pictures(2, turn)), rtol=1e-5, atol=1e-5)
        assert device.library.made.get("graph", 0) == (0 if turn < 5 else 1)
    assert runner.description == "CUDA graphs" and not capsys.readouterr().out  # it was never tried in vain
    runner.close()


def test_the_stages_are_timed_by_the_gpu_in_their_order(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    for parts, count in ((1, 2), (3, 70), (0, 0)):
        logits, stages = runner.timed(pictures(count))
        np.testing.assert_allclose(logits, expected(pictures(count)), rtol=1e-5, atol=1e-5)
        assert stages == (1.0 * parts,) * 3  # the fake's clock ticks once for each event that passes
    runner.close()


@pytest.mark.parametrize("call", ["set_input_shape", "execute_async_v3"])
def test_a_call_that_tensorrt_refuses_is_an_error_in_words_and_the_next_run_works(call: str, device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    trt.faults[f"IExecutionContext.{call}"] = "Error Code 1: something on the GPU"
    for _ in range(3):
        with pytest.raises(
            TensorRtError, match=f"TensorRT's {call}.* failed. It says: Error Code 1: something on the GPU"
        ):
            runner.run(pictures(40))
    trt.faults.clear()
    np.testing.assert_allclose(runner.run(pictures(40)), expected(pictures(40)), rtol=1e-5, atol=1e-5)
    assert trt.living["IExecutionContext"] == 1  # those of the failed runs are gone
    runner.close()


def test_8_5_gets_its_only_profile_back_from_a_run_that_failed(device: Any) -> None:
    trt = fake_module("8.5.3")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    trt.faults["IExecutionContext.execute_async_v3"] = "Error Code 1: something on the GPU"
    with pytest.raises(TensorRtError):
        runner.run(pictures(1))
    trt.faults.clear()
    np.testing.assert_allclose(runner.run(pictures(1)), expected(pictures(1)), rtol=1e-5, atol=1e-5)
    runner.close()


def test_no_context_is_a_users_error_with_the_free_memory(device: Any) -> None:
    trt = fake_module("10.3.0")
    trt.faults["ICudaEngine.create_execution_context"] = "OutOfMemory"
    with device:  # the engine, which the error's traceback holds, must go while a context is current
        with pytest.raises(
            ContextRefused, match=r"It says: OutOfMemory\. 1,0\d\d of 1,074 MB of the GPU's memory are free"
        ):
            opened(trt, device, build(trt, tiny_onnx()))
        gc.collect()


@pytest.mark.parametrize("fail_at", range(1, 10))
def test_where_memory_ends_while_it_opens_nothing_is_left(fail_at: int, device: Any) -> None:
    trt = fake_module("10.3.0")
    device.library.fail_at = fail_at  # a stream, four events, two buffers of page-locked and of GPU memory
    with device:
        with pytest.raises(OutOfDeviceMemory):
            opened(trt, device, build(trt, tiny_onnx()))
        assert not device.library.leaks()
        gc.collect()


def test_no_memory_for_one_more_thread_fails_that_thread_alone(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()), graphs=False)
    device.library.fail_at = sum(device.library.made.values()) + 3
    inside, go_on = threading.Event(), threading.Event()
    execute = trt.IExecutionContext.execute_async_v3

    def slow(self: Any, stream_handle: int) -> Any:
        inside.set()
        assert go_on.wait(timeout=120)
        return execute(self, stream_handle)

    trt.IExecutionContext.execute_async_v3 = slow
    answers: List[np.ndarray] = []
    first = threading.Thread(target=lambda: answers.append(runner.run(pictures(1))))
    first.start()
    assert inside.wait(timeout=120)
    with pytest.raises(OutOfDeviceMemory):
        runner.run(pictures(1))
    go_on.set()
    first.join()
    np.testing.assert_allclose(answers[0], expected(pictures(1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(runner.run(pictures(1)), answers[0])
    runner.close()


def test_close_frees_everything_once_from_any_thread_and_a_run_after_it_is_an_error(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    for _ in range(4):
        runner.run(pictures(1))  # a graph is held too
    assert in_threads(4, lambda index: runner.close()) == [None] * 4  # the fake refuses double frees
    runner.close()
    gc.collect()
    assert not device.library.leaks() and not device.library.problems
    assert trt.living["IExecutionContext"] == trt.living["ICudaEngine"] == trt.living["Runtime"] == 0
    with pytest.raises(RuntimeError, match="closed"):
        runner.run(pictures(1))
    with pytest.raises(RuntimeError, match="closed"):
        runner.timed(pictures(0))


def test_close_waits_for_the_run_of_another_thread(device: Any) -> None:
    trt = fake_module("8.5.3")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    inside, go_on, answers = threading.Event(), threading.Event(), []
    execute = trt.IExecutionContext.execute_async_v3

    def slow(self: Any, stream_handle: int) -> Any:
        inside.set()
        assert go_on.wait(timeout=120)
        return execute(self, stream_handle)

    def answer_or_error() -> None:
        try:
            answers.append(runner.run(pictures(1)))
        except RuntimeError as error:
            answers.append(str(error))

    trt.IExecutionContext.execute_async_v3 = slow
    running, waiting = (threading.Thread(target=answer_or_error) for _ in range(2))
    running.start()
    assert inside.wait(timeout=120)
    waiting.start()  # 8.5 has one profile: this one waits for its turn, which never comes
    closing = threading.Thread(target=runner.close)
    closing.start()
    waiting.join(timeout=120)
    assert answers == ["The runner was closed: it can't run any more."] and closing.is_alive()
    go_on.set()
    running.join()
    closing.join()
    np.testing.assert_allclose(answers[1], expected(pictures(1)), rtol=1e-5, atol=1e-5)
    assert not device.library.leaks()


def test_a_runner_that_nobody_closed_frees_everything_when_it_is_forgotten(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    runner.run(pictures(1))
    del runner
    gc.collect()
    assert not device.library.leaks() and not device.library.problems and trt.living["IExecutionContext"] == 0


def test_it_runs_where_a_context_is_current_already_and_leaves_the_thread_as_it_was(device: Any) -> None:
    trt = fake_module("10.3.0")
    runner = opened(trt, device, build(trt, tiny_onnx()))
    with device:
        runner.run(pictures(1))
        device.free_memory()  # still current here
    runner.run(pictures(1))
    with pytest.raises(CudaError, match="no CUDA context is current"):
        device.free_memory()
    runner.close()


@pytest.mark.parametrize(
    "member, wrong, words",
    [
        ("get_tensor_shape", lambda self, name: (-1, 3, 4), "not one input of images, and outputs of logits or maps"),
        ("get_tensor_dtype", lambda self, name: self._trt.DataType.INT32, "choose FP32 or FP16 for both"),
    ],
)
def test_an_engine_of_another_kind_is_refused(member: str, wrong: Any, words: str, device: Any) -> None:
    trt = fake_module("10.3.0")
    setattr(trt.ICudaEngine, member, wrong)
    with device:
        with pytest.raises(UserError, match=words):
            opened(trt, device, build(trt, tiny_onnx()))
        gc.collect()


def test_a_real_network_answers_as_onnxruntime_does(device: Any, model: Path) -> None:
    trt, onnx = fake_module("8.5.3"), model.read_bytes()
    runner = opened(trt, device, build(trt, onnx, batch=(1, 1, 2)))
    images = np.random.default_rng(0).standard_normal((3, 3, 224, 224)).astype(np.float32)
    np.testing.assert_allclose(runner.run(images), expected(images, onnx), rtol=1e-4, atol=1e-4)
    runner.close()
