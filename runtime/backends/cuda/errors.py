"""What CUDA's error numbers mean and what to do about them. Driver and runtime API share the numbers of this table."""

from __future__ import annotations

from ...errors import UserError

OUT_OF_MEMORY, NO_GPU = 2, 100

# https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html, cudaError. Those that users meet.
MEANINGS = {
    1: "a wrong argument was passed",
    OUT_OF_MEMORY: "the GPU's memory is full",
    3: "CUDA can't be initialised in this process; in one that was forked after its parent used CUDA that can't work, "
    "so start worker processes with 'spawn'",
    4: "the CUDA driver is being unloaded: the process is ending",
    34: "the CUDA library found is a stub for building, not the driver's: take its folder out of LD_LIBRARY_PATH",
    35: "the NVIDIA driver is older than this CUDA needs: update the driver",
    46: "another process holds the GPU for itself alone (exclusive compute mode), or it is unavailable",
    NO_GPU: "the driver finds no CUDA GPU",
    101: "there is no GPU of that number",
    201: "no CUDA context is current on this thread, or it was destroyed",
    209: "there is no code for this GPU in the program: it was built for another compute capability",
    214: "an uncorrectable memory error (ECC) occurred on the GPU",
    222: "the driver can't compile the program's PTX: it is older than the CUDA that made it",
    700: "the GPU accessed memory that was not allocated; this process can't use the GPU any more",
    702: "a kernel ran too long and was stopped by the display's watchdog",
    709: "the CUDA context was destroyed while it was in use",
    715: "the GPU met an illegal instruction; this process can't use the GPU any more",
    719: "a kernel failed on the GPU; this process can't use the GPU any more",
    801: "this GPU or driver does not support the operation",
    802: "the GPU system is not ready yet: its fabric manager must be running",
    803: "the kernel module and the library of the NVIDIA driver differ in version, as after an update: restart the machine; in "
    "a container, start it again",
    804: "the CUDA compatibility library supports data-centre GPUs only: take it out of LD_LIBRARY_PATH",
    900: "the operation is not allowed while a stream is being captured",
    901: "the capture was invalidated by an operation that can't be captured",
    999: "the driver met an unknown error: after a suspend, reload the nvidia_uvm module or restart the machine; in a container, "
    "check that it was started with the GPU (docker run --gpus all, or --runtime nvidia on a Jetson)",
}


class CudaError(UserError):
    """A CUDA call failed. call: its name, code: CUDA's number or -1 if that is not known, meaning: in words."""

    status = 1

    def __init__(self, call: str, code: int, detail: str = "") -> None:
        self.call, self.code = call.partition("_v")[0], code
        self.meaning = MEANINGS.get(code) or detail or "no meaning known"
        super().__init__(f"{self.call} failed: {self.meaning}{f' (CUDA error {code})' if code >= 0 else ''}.")


class OutOfDeviceMemory(UserError):
    """The GPU's memory is full, or the host's that can be page-locked."""

    status, code, meaning = 1, OUT_OF_MEMORY, MEANINGS[OUT_OF_MEMORY]

    def __init__(self, wanted: str = "", free: int = 0, total: int = 0) -> None:
        """wanted: what there was no room for, "12.3 MB on the GPU"; free, total: bytes of the GPU's memory if known."""
        told = f" for {wanted}" if wanted else ""
        left = f", {free / 1e6:,.0f} of {total / 1e6:,.0f} MB are free" if total else ""
        super().__init__(
            f"No memory is left{told}{left}. Close other programs that use the GPU, or build the engine for smaller batches."
        )


def failure(call: str, code: int, detail: str = "") -> Exception:
    """The exception for a CUDA call that returned `code`."""
    return (
        OutOfDeviceMemory(f"CUDA ({call.partition('_v')[0]})")
        if code == OUT_OF_MEMORY
        else CudaError(call, code, detail)
    )
