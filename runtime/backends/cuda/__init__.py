"""The GPU as far as a TensorRT engine needs it: pycuda's memory and streams where pycuda works, else the driver's own."""

from __future__ import annotations

from ...errors import UserError
from .device import Device
from .driver import gpus


def open_device(index: int = 0) -> Device:
    """The GPU `index`: through pycuda where it is installed and works, else through the driver alone, which does the same.

    Raises UserError if there is no such GPU, CudaError or OutOfDeviceMemory if it can't be used.
    """
    found, why, _ = gpus()
    if not found:
        raise UserError(why)
    if not 0 <= index < len(found):
        raise UserError(f"There is no GPU {index}: the driver lists {len(found)}, counted from 0.")
    try:
        from .pycuda_device import PyCuda

        return PyCuda(found[index])
    except ModuleNotFoundError as error:
        reason = "" if error.name == "pycuda" else str(error)
    except Exception as error:  # built for another numpy (SystemError), Python or CUDA, or it fails on the GPU
        reason = f"{type(error).__name__}: {error}"
    device = Device(found[index])
    if reason:
        device.name += f", since pycuda does not work here ({' '.join(reason.split())[:200]})"
    return device
