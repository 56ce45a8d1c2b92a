"""Where compiled kernels are kept, so that only the first start compiles them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# PyTorch's default is below /tmp, which a reboot empties; Triton's is in the home directory, which may be read-only.
_FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def keep_compiled_kernels(environ: MutableMapping[str, str]) -> None:
    """Set the cache directories of torch.compile and Triton that the user has not set, to one that can be written."""
    missing = [name for name in _FOLDERS if not environ.get(name)]
    if missing:
        folder = cache_folder(environ)
        for name in missing:
            environ[name] = str(folder / _FOLDERS[name])


def cache_folder(environ: Mapping[str, str]) -> Path:
    """csm-serve in XDG_CACHE_HOME or ~/.cache; in the temporary directory if that cannot be written."""
    cache = environ.get("XDG_CACHE_HOME", "")
    home = environ.get("HOME") or os.path.expanduser("~")  # Path.home raises where there is none
    folder = (Path(cache) if Path(cache).is_absolute() else Path(home) / ".cache") / "csm-serve"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return _temporary_folder()


def _temporary_folder() -> Path:
    """The same at each start, unless another user has made it: code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"csm-serve-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="csm-serve-"))
