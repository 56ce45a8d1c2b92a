"""Remembers that a start did not survive its trial of the kernel: an error of a launch ends all use of the GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent


class Trial:
    """A file that exists while the kernel is tried. Found at a start, it tells that the trial before was broken off."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(device: torch.device) -> Trial:
        """Of this version of the kernel on this GPU, which has one worker. Beside Triton's compiled kernels."""
        import triton

        sources = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.cu*")))
        version = hashlib.sha256(sources).hexdigest()[:16]
        uuid = torch.cuda.get_device_properties(device).uuid
        return Trial(Path(triton.knobs.cache.dir) / f"persistent-depth-{version}-{uuid}.tried")

    @property
    def broken_off(self) -> bool:
        return self.path.exists()

    def begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    def end(self) -> None:
        self.path.unlink(missing_ok=True)
