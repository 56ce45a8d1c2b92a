"""A worker process and its place: which of the workers it is, and which GPU is its own."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from ..settings import Settings, SettingsError


@dataclass(frozen=True)
class WorkerAssignment:
    """Where a worker stands.

    index: from 0.
    gpu: as CUDA_VISIBLE_DEVICES takes it; None on a CPU.
    greets: it prints the line to try the service with, once it is ready.
    workers: how many there are in all; they share the machine's cores and, on a CPU, its memory.
    """

    index: int = 0
    gpu: str | None = None
    greets: bool = False
    workers: int = 1

    @property
    def worker_id(self) -> str:
        """What X-Worker-ID says."""
        return str(self.index)

    @property
    def unit(self) -> str:
        """What /health calls its engine."""
        return f"{'cpu' if self.gpu is None else 'gpu'}_{self.worker_id}"


def assign_workers(settings: Settings, gpus: Sequence[str]) -> list[WorkerAssignment]:
    """The places there are: one for each visible GPU, or as many as WORKERS says on a CPU.

    Raises SettingsError if WORKERS asks for two workers on one GPU.
    """
    if gpus and settings.workers is not None and settings.workers > len(gpus):
        raise SettingsError(
            f"WORKERS is {settings.workers}, and {len(gpus)} GPUs are visible: one worker for each is the most. "
            "Set WORKERS=auto, and CONCURRENT_REQUESTS_PER_WORKER for more requests on each."
        )
    count = 1 if settings.debug else settings.workers or len(gpus) or 1
    return [WorkerAssignment(index, gpus[index] if gpus else None, index == 0, count) for index in range(count)]


def apply_worker_environment(place: WorkerAssignment, environ: MutableMapping[str, str]) -> None:
    """Make this process the worker of a place, before anything in it imports torch.

    What the user has set stays, but for CUDA_VISIBLE_DEVICES: that shows the worker its own GPU and no other.
    """
    if place.gpu is not None:
        if "CUDA_VISIBLE_DEVICES" not in environ:
            environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order the driver counted them in
        environ["CUDA_VISIBLE_DEVICES"] = place.gpu
        environ.setdefault("OMP_NUM_THREADS", "1")
        environ.setdefault("MKL_NUM_THREADS", "1")
        environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        environ.setdefault("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
