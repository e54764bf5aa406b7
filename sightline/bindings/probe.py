"""What this machine lacks for an engine: packages, libraries, devices. Quick, and never an error."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sightline.bindings import openvino_package


class Obstacle(NamedTuple):
    """Why an engine cannot be used here."""

    reason: str
    remedy: str | None = None
    """What to type, or None where only other hardware helps."""
    package: str | None = None
    """The package that is not installed, where that is all."""
    extra: str | None = None
    """The extra of Sightline that brings it."""


TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
_CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
_GPU_BUILD = "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"


def installed(package: str) -> bool:
    """Whether a package can be imported, as far as one can say without importing it."""
    try:
        return sys.modules.get(package) is not None or find_spec(package) is not None
    except (ImportError, ValueError):  # a broken parent package, or a module without a spec
        return False


def _folders(package: str) -> list[Path]:
    """Where a package lies; none where it is not installed. It is not imported: this one would load its libraries."""
    if (module := sys.modules.get(package)) is not None:
        return [Path(folder) for folder in getattr(module, "__path__", ())]
    spec = find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def onnxruntime_cpu() -> Obstacle | None:
    """ONNX Runtime, any build."""
    _, obstacle = _providers()
    return obstacle


def onnxruntime_cuda() -> Obstacle | None:
    """ONNX Runtime's build for GPUs, a GPU, CuPy."""
    return _gpu_provider("CUDAExecutionProvider", "CUDA")


def onnxruntime_tensorrt() -> Obstacle | None:
    """As :func:`onnxruntime_cuda`, and TensorRT 10. The build for GPUs lists the provider with or without it."""
    if obstacle := _gpu_provider("TensorrtExecutionProvider", "TensorRT"):
        return obstacle
    library = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
    if any((folder / library).is_file() for folder in _folders("tensorrt_libs")) or _loads(library):
        return None
    return Obstacle("the TensorRT 10 that its provider needs is not installed", "pip install 'tensorrt-cu13<11'")


def tensorrt() -> Obstacle | None:
    """TensorRT's own Python package, PyCUDA, a GPU, CuPy."""
    if obstacle := cuda():
        return obstacle
    for package in ("tensorrt", "pycuda"):
        if not installed(package):
            return _missing(package, "tensorrt")
    _, obstacle = _imported("tensorrt", "the tensorrt package")
    return obstacle


def openvino_cpu() -> Obstacle | None:
    """OpenVINO."""
    return _openvino("CPU")


def openvino_gpu() -> Obstacle | None:
    """OpenVINO and a GPU of Intel's with its driver."""
    return _openvino("GPU")


def torch_cpu() -> Obstacle | None:
    """torch, any build. It is not imported, which takes seconds."""
    return None if installed("torch") else _missing("torch", "torch")


def torch_cuda() -> Obstacle | None:
    """A build of torch for CUDA, a GPU, CuPy."""
    if obstacle := torch_cpu() or cuda():
        return obstacle
    if (module := sys.modules.get("torch")) is not None:
        with_cuda = bool(module.cuda.is_available())
    else:
        spec = find_spec("torch")
        folders = [Path(folder) / "lib" for folder in (spec and spec.submodule_search_locations) or ()]
        with_cuda = any(any(folder.glob("*torch_cuda*")) for folder in folders)
    if with_cuda:
        return None
    return Obstacle("this torch is a CPU build", "install torch with CUDA: pytorch.org/get-started says how")


def cuda() -> Obstacle | None:
    """A CUDA device, and CuPy to use it."""
    without_driver = Obstacle("no CUDA device: there is no NVIDIA driver")
    if not installed("cupy"):
        # Who has no GPU should not install CuPy to learn that.
        return _missing("cupy", "gpu") if _driver() else without_driver
    module, obstacle = _imported("cupy", "CuPy")
    if obstacle:
        return obstacle
    try:
        count = module.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError, which must not be imported to be named
        return Obstacle(f"no CUDA device ({error})", "update the NVIDIA driver") if _driver() else without_driver
    return None if count > 0 else Obstacle("no CUDA device")


def tensorrt_provider_lacks(precision: str) -> str | None:
    """Why ONNX Runtime's TensorRT provider would not compute in this precision on this GPU, with the way out.

    TensorRT rounds float32 to TF32 unless told otherwise, and the provider has no option that tells it.
    """
    if precision != "fp32" or os.environ.get(TF32_OVERRIDE) == "0":
        return None
    if int(importlib.import_module("cupy").cuda.Device().compute_capability) < 80:
        return None  # TF32 came with this generation
    return (
        "its provider takes TF32 on this GPU and has no option against it; set the environment variable "
        f"{TF32_OVERRIDE}=0 before the process starts, or take precision 'tf32', or another engine"
    )


def openvino_lacks(plugin: str, precision: str) -> str | None:
    """Why OpenVINO does not compute in this precision on its ``CPU`` or ``GPU``; it would take another one silently."""
    core = openvino_package.core()
    capabilities = core.get_property(plugin, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] in capabilities:
        return None
    return (
        f"{core.get_property(plugin, 'FULL_DEVICE_NAME').strip()} has no {_CAPABILITIES[precision]} "
        f"(it has {', '.join(sorted(capabilities))}); choose another precision or engine"
    )


def _providers() -> tuple[list[str], Obstacle | None]:
    if not installed("onnxruntime"):
        return [], _missing("onnxruntime")
    module, obstacle = _imported("onnxruntime", "onnxruntime")
    return ([], obstacle) if obstacle else (list(module.get_available_providers()), None)


def _gpu_provider(provider: str, name: str) -> Obstacle | None:
    if obstacle := cuda():
        return obstacle
    if not installed("onnxruntime"):
        return _missing("onnxruntime-gpu")
    providers, obstacle = _providers()
    if obstacle or provider in providers:
        return obstacle
    if "CUDAExecutionProvider" in providers:
        return Obstacle(f"this onnxruntime was built without the {name} provider", _GPU_BUILD)
    return Obstacle(f"the {name} provider is missing: this onnxruntime is the CPU build", _GPU_BUILD)


def _openvino(plugin: str) -> Obstacle | None:
    if not installed("openvino"):
        return _missing("openvino", "openvino")
    try:
        openvino_package.load()
    except Exception as error:
        return _broken("openvino", error)
    try:
        devices = list(openvino_package.core().available_devices)
    except Exception as error:  # RuntimeError, from the driver of any device
        return Obstacle(f"OpenVINO finds no devices ({error})")
    if any(device.partition(".")[0] == plugin for device in devices):
        return None
    if plugin == "GPU":
        return Obstacle("OpenVINO finds no Intel GPU; one needs Intel's compute runtime (OpenCL)")
    return Obstacle(f"OpenVINO does not support this CPU ({platform.machine()})")


def _missing(package: str, extra: str | None = None) -> Obstacle:
    wanted = f"'sightline[{extra}]'" if extra else package
    return Obstacle(f"{package} is not installed", f"pip install {wanted}", package, extra)


def _imported(package: str, name: str) -> tuple[Any, Obstacle | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's about a CUDA toolkit that it does not need
            return importlib.import_module(package), None
    except Exception as error:
        return None, _broken(name, error)


def _broken(name: str, error: Exception) -> Obstacle:
    """A shared library that does not load, for instance."""
    return Obstacle(f"{name} is installed but cannot be imported ({error})", "install it again")


def _driver() -> bool:
    return _loads("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
