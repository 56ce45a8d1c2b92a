"""Worker assignment: the index, the role, the GPU and the environment of each worker process."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..settings import Settings
from ..settings_loader import SettingsError
from .compile_cache import keep_compiled_kernels

Role = Literal["all", "engine", "http"]


@dataclass(frozen=True)
class WorkerAssignment:
    """One of the service's workers.

    index: from 0.
    gpu: as in CUDA_VISIBLE_DEVICES; None on a CPU.
    prints_banner: it prints the example commands once it is ready.
    workers: number of workers with an engine; they share the machine's cores and, on a CPU, its memory.
    role: all (an engine and HTTP), or with HTTP_WORKERS engine (speaks for the others) or http (no engine).
    name: in place of the index, where workers of several machines are told apart.
    """

    index: int = 0
    gpu: str | None = None
    prints_banner: bool = False
    workers: int = 1
    role: Role = "all"
    name: str | None = None

    @property
    def has_engine(self) -> bool:
        return self.role != "http"

    @property
    def serves_http(self) -> bool:
        return self.role != "engine"

    @property
    def worker_id(self) -> str:
        """Sent as X-Worker-ID if it has an engine."""
        if self.name is not None:
            return self.name
        return str(self.index) if self.has_engine else f"http-{self.index - self.workers}"

    @property
    def unit(self) -> str:
        """The key of its engine in /health."""
        return f"{'cpu' if self.gpu is None else 'gpu'}_{self.worker_id}"


def assign_workers(settings: Settings, gpus: Sequence[str]) -> list[WorkerAssignment]:
    """One worker with an engine for each visible GPU; on a CPU, WORKERS of them. Then HTTP_WORKERS without one.

    Raises SettingsError if WORKERS asks for two workers on one GPU.
    """
    if gpus and settings.workers is not None and settings.workers > len(gpus):
        raise SettingsError(
            f"WORKERS is {settings.workers}, but {len(gpus)} GPUs are visible: the limit is one worker for each GPU. "
            "Set WORKERS=auto, and CONCURRENT_REQUESTS_PER_WORKER for more requests on each."
        )
    count = 1 if settings.debug else settings.workers or len(gpus) or 1
    http = 0 if settings.debug else settings.http_workers
    role: Role = "engine" if http else "all"
    engines = [
        WorkerAssignment(index, gpus[index] if gpus else None, index == 0, count, role) for index in range(count)
    ]
    return engines + [WorkerAssignment(count + index, workers=count, role="http") for index in range(http)]


def apply_worker_environment(assignment: WorkerAssignment, environ: MutableMapping[str, str]) -> None:
    """Set the environment variables of a worker process, before it imports torch.

    Variables that the user has set are kept, except CUDA_VISIBLE_DEVICES: it shows the worker its own GPU only.
    """
    if assignment.gpu is not None:
        if "CUDA_VISIBLE_DEVICES" not in environ:
            environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the driver's order, in which they were counted
        environ["CUDA_VISIBLE_DEVICES"] = assignment.gpu
        environ.setdefault("OMP_NUM_THREADS", "1")
        environ.setdefault("MKL_NUM_THREADS", "1")
        environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        environ.setdefault("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
        keep_compiled_kernels(environ)
