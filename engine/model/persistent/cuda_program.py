"""CUDA C++ compiled with NVRTC, which comes with PyTorch's wheels: no compiler is needed where it runs.

cuda-bindings comes with PyTorch from 2.10 on, on Linux x86-64.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuda.bindings import driver, nvrtc
from triton.runtime.cache import get_cache_manager

_FOLDER = Path(__file__).resolve().parent
_HEADERS = ("primitives.cuh",)


class CudaError(Exception):
    """A call of the driver or the compiler failed."""


def cached_program(file: str, macros: Mapping[str, int], capability: tuple[int, int]) -> bytes:
    """As `compile_program`, which is called once: the result is kept in Triton's cache."""
    version = ".".join(map(str, _checked(nvrtc.nvrtcVersion())))
    sources = b"".join((_FOLDER / name).read_bytes() for name in (file, *_HEADERS))
    key = f"{version} {capability} {sorted(macros.items())}".encode() + sources
    cache, name = get_cache_manager(hashlib.sha256(key).hexdigest()), f"{Path(file).stem}.cubin"
    found = cache.get_file(name)
    if found is not None:
        return Path(found).read_bytes()
    code = compile_program(file, macros, capability)
    cache.put(code, name, binary=True)
    return code


def compile_program(file: str, macros: Mapping[str, int], capability: tuple[int, int]) -> bytes:
    """The machine code of a file of this folder, for one GPU architecture. Needs no GPU.

    macros: defined for the program. Raises CudaError with the compiler's messages.
    """
    source, headers = (_FOLDER / file).read_bytes(), [(_FOLDER / name).read_bytes() for name in _HEADERS]
    names = [name.encode() for name in _HEADERS]
    program = _checked(nvrtc.nvrtcCreateProgram(source, file.encode(), len(headers), headers, names))
    options = [
        f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode(),
        b"--std=c++17",
        *(f"-D{name}={value}".encode() for name, value in macros.items()),
    ]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            messages = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            _checked(nvrtc.nvrtcGetProgramLog(program, messages))
            raise CudaError(f"NVRTC cannot compile {file}: {messages.decode(errors='replace')[-2000:]}")
        code = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def shared_memory_limit() -> int:
    """Bytes of shared memory that a block may have on the current device."""
    limit = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_checked(driver.cuDeviceGetAttribute(limit, _checked(driver.cuCtxGetDevice()))))


class CooperativeKernel:
    """A kernel whose blocks all run at once, since they wait for one another. On PyTorch's context and current device.

    Raises CudaError, also if the GPU cannot run them all at once.
    """

    def __init__(self, code: bytes, name: str, blocks: int, threads: int, shared_bytes: int) -> None:
        self._module = _checked(driver.cuModuleLoadData(code))  # kept for as long as its kernel
        self._kernel = _checked(driver.cuModuleGetFunction(self._module, name.encode()))
        self._blocks, self._threads, self._shared_bytes = blocks, threads, shared_bytes
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(self._kernel, limit, shared_bytes))
        each = _checked(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(self._kernel, threads, shared_bytes))
        count = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        multiprocessors = _checked(driver.cuDeviceGetAttribute(count, _checked(driver.cuCtxGetDevice())))
        if each * multiprocessors < blocks:
            raise CudaError(f"{name} needs {blocks} blocks at once; this GPU runs {each * multiprocessors} of them")

    def launch(self, parameters: ctypes.Structure, stream: int) -> None:
        """parameters: the kernel's only argument, by value. stream: the driver's. Can be captured in a CUDA graph."""
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(parameters))
        _checked(
            driver.cuLaunchCooperativeKernel(
                self._kernel, self._blocks, 1, 1, self._threads, 1, 1, self._shared_bytes, stream,
                ctypes.addressof(arguments),
            )
        )  # fmt: skip


def _checked(results: tuple[Any, ...]) -> Any:
    """The result of a call without its status: a tuple if it has several. Raises CudaError."""
    status, *values = results
    if int(status):
        raise CudaError(getattr(status, "name", str(status)))
    return values[0] if len(values) == 1 else tuple(values)
