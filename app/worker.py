"""A worker process and its place: which of the workers it is, and which GPU is its own."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from .logs import configure_logging
from .settings import Settings, SettingsError, load_settings


@dataclass(frozen=True)
class Place:
    """Where a worker stands.

    index: from 0; None if there are more workers than places, and this one must not load a model.
    gpu: as CUDA_VISIBLE_DEVICES takes it; None on a CPU.
    greets: it prints the line to try the service with, once it is ready.
    """

    index: int | None = 0
    gpu: str | None = None
    greets: bool = False

    @property
    def worker_id(self) -> str:
        """What X-Worker-ID says."""
        return "spare" if self.index is None else str(self.index)

    @property
    def unit(self) -> str:
        """What /health calls its engine."""
        return f"{'cpu' if self.gpu is None else 'gpu'}_{self.worker_id}"


_here = Place()


def here() -> Place:
    """The place of this process; the first one on a CPU unless `settle` said otherwise."""
    return _here


def places_of(settings: Settings, gpus: Sequence[str]) -> list[Place]:
    """The places there are: one for each visible GPU, or as many as WORKERS says on a CPU.

    Raises SettingsError if WORKERS asks for two workers on one GPU.
    """
    if gpus and settings.workers is not None and settings.workers > len(gpus):
        raise SettingsError(
            f"WORKERS is {settings.workers}, and {len(gpus)} GPUs are visible: one worker for each is the most. "
            "Set WORKERS=auto, and CONCURRENT_REQUESTS_PER_WORKER for more requests on each."
        )
    count = 1 if settings.debug else settings.workers or len(gpus) or 1
    return [Place(index, gpus[index] if gpus else None, greets=index == 0) for index in range(count)]


def free_index(places: int, taken: Iterable[int | None]) -> int | None:
    """The lowest place that no living worker has; None if all are taken."""
    return min(set(range(places)) - set(taken), default=None)


def settle(place: Place, environ: MutableMapping[str, str]) -> None:
    """Make this process the worker of a place, before anything in it imports torch.

    What the user has set stays, but for CUDA_VISIBLE_DEVICES: that shows the worker its own GPU and no other,
    and a worker without a place none at all.
    """
    global _here  # noqa: PLW0603  a process has one place, and is told it once
    _here = place
    if place.gpu is not None:
        if "CUDA_VISIBLE_DEVICES" not in environ:
            environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order the driver counted them in
        environ["CUDA_VISIBLE_DEVICES"] = place.gpu
        environ.setdefault("OMP_NUM_THREADS", "1")
        environ.setdefault("MKL_NUM_THREADS", "1")
        environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        environ.setdefault("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    elif place.index is None:
        environ["CUDA_VISIBLE_DEVICES"] = ""


class ServiceLogger(Logger):  # type: ignore[misc]  # it has no types
    """gunicorn's own lines, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure_logging(load_settings())


class ServiceWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn under gunicorn. The access log is the service's own: this one would write the query and its key."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "access_log": False,
        "server_header": False,
    }
    place: Place = Place()  # set by pre_fork, in the master

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # UvicornWorker gives it gunicorn's handlers, and those are the root's. Of uvicorn.access nothing must come out.
        logging.getLogger("uvicorn.error").propagate = True
        self.config.timeout_graceful_shutdown = stream_seconds(self.cfg.graceful_timeout)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, which the master sends on Ctrl-C: leave at once. UvicornWorker itself would not leave at all."""
        for _ in range(2):  # the first makes uvicorn leave, the second makes it wait for nobody
            signal.raise_signal(signal.SIGINT)


_MARGIN_SECONDS = 5  # to close the engine and leave, once the streams have ended or were cut


def master_seconds(graceful: int) -> int:
    """When the master kills a worker, for streams that may go on for `graceful` seconds."""
    return graceful + _MARGIN_SECONDS


def stream_seconds(master: int) -> int:
    """When a worker cuts its streams, if the master kills it at `master`."""
    return master - _MARGIN_SECONDS
