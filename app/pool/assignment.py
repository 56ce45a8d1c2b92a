"""Worker assignment: the index, the GPU and the environment of each worker process."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from ..settings import Settings, SettingsError


@dataclass(frozen=True)
class WorkerAssignment:
    """One of the service's workers.

    index: from 0.
    gpu: as in CUDA_VISIBLE_DEVICES; None on a CPU.
    prints_banner: it prints the example commands once it is ready.
    workers: number of workers; they share the machine's cores and, on a CPU, its memory.
    """

    index: int = 0
    gpu: str | None = None
    prints_banner: bool = False
    workers: int = 1

    @property
    def worker_id(self) -> str:
        """Sent as X-Worker-ID."""
        return str(self.index)

    @property
    def unit(self) -> str:
        """The key of its engine in /health."""
        return f"{'cpu' if self.gpu is None else 'gpu'}_{self.worker_id}"


def assign_workers(settings: Settings, gpus: Sequence[str]) -> list[WorkerAssignment]:
    """One worker for each visible GPU; on a CPU, WORKERS of them.

    Raises SettingsError if WORKERS asks for two workers on one GPU.
    """
    if gpus and settings.workers is not None and settings.workers > len(gpus):
        raise SettingsError(
            f"WORKERS is {settings.workers}, but {len(gpus)} GPUs are visible: the limit is one worker for each GPU. "
            "Set WORKERS=auto, and CONCURRENT_REQUESTS_PER_WORKER for more requests on each."
        )
    count = 1 if settings.debug else settings.workers or len(gpus) or 1
    return [WorkerAssignment(index, gpus[index] if gpus else None, index == 0, count) for index in range(count)]


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
