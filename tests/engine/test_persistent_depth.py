"""The persistent kernel without a GPU: its source emulated on a CPU, compiled for a GPU, and when it is used."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.model import fused_frames, persistent_frames
from engine.model.config import CsmConfig, TransformerConfig
from engine.model.csm import CsmModel, StepState
from engine.model.int8_linear import quantize
from engine.model.persistent.depth import KernelShape, PersistentDepth
from engine.model.persistent.packing import unsupported
from engine.model.persistent.trial import Trial

from .test_fused_step import FULL, KERNELS, SMALL, DirectCapturer, Launches, ReferenceStep, meta_model

ROOT = Path(__file__).resolve().parents[2]
EMULATION = Path(__file__).parent / "emulated_gpu"
SOURCES = Path(persistent_frames.__file__).parent / "persistent"
HOPPER_SHARED = 232_448  # bytes of shared memory that a block may have

# The smallest that the kernel divides: some blocks with two tiles of QKV, down in more slots than are loaded ahead.
DEPTH = TransformerConfig(256, 1280, 2, 8, 2, 32, 1e-5, 1e4, None)
CONFIG = CsmConfig(TransformerConfig(512, 64, 1, 8, 2, 64, 1e-5, 1e4, None), DEPTH, 3, 1030, 20, 32, 0, True, None)


@pytest.fixture(scope="module")
def model() -> CsmModel:
    model = CsmModel(CONFIG, 5, 1024)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1.2 / parameter.shape[1] ** 0.5, generator=generator)
        else:
            parameter.data.normal_(1, 0.3, generator=generator)
    model = model.to(torch.bfloat16).eval()
    model.build_tables()
    return model


class EmulatedKernel:
    """Runs depth.cu on the CPU, its threads in an order of chance."""

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch
        self._launch.restype = ctypes.c_char_p
        self._launches = 0

    def launch(self, parameters: ctypes.Structure, stream: int) -> None:
        self._launches += 1
        assert self._launch(ctypes.byref(parameters), self._launches).decode() == ""


@pytest.fixture(scope="module")
def emulated(model: CsmModel, tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernel:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("emulated") / "depth.so"
    # A ring of three slots, which every step goes around many times.
    macros = KernelShape.of(model, model.allocate(2), HOPPER_SHARED).macros | {"RING": 3}
    options = ("-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE")
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    folders = ("-I", str(EMULATION), "-I", str(SOURCES))
    command = [compiler, *options, *defined, *folders, "-o", str(library), str(EMULATION / "depth.cpp")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert built.returncode == 0, built.stderr
    return EmulatedKernel(library)


def contrived(model: CsmModel) -> StepState:
    """Four rows: greedy and sampled, one with guidance, one that takes another's codes."""
    state = model.allocate(4)
    fused_frames._fill(state)
    state.sampling.sampler[3] = 1
    return state


def poison(persistent: PersistentDepth) -> None:
    """What is read before it is written shows. But for the cache, whose stale values are multiplied with zeros."""
    for name in ("q", "attended", "gated", "updated", "first", "logits"):
        persistent._tensors[name].fill_(torch.nan)


def test_the_emulated_kernel_computes_the_model(model: CsmModel, emulated: EmulatedKernel) -> None:
    """Logits, codes, the same bits for a row among fewer; all counters as they were."""
    state = contrived(model)
    with torch.inference_mode():
        persistent = PersistentDepth(model, state, emulated)
        x = torch.randn(4, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
        codes, fewer = torch.zeros(2, 4, 3, dtype=torch.int64)
        poison(persistent)
        persistent.run(x, 4, codes)
        logits = persistent.logits.clone()
        hidden = model.backbone.norm(x, None)[1][:, None]
        for actual, expected in zip(logits, fused_frames._forced_logits(model, hidden, codes), strict=True):
            assert fused_frames.relative_error(actual, expected, state.active | True, 0) < 2**-6  # bfloat16's rounding
        check = fused_frames.FusedCheck(model, state, ReferenceStep(model, state), 24)
        assert torch.equal(check._sampled(4, list(logits)), codes)
        assert codes[3].tolist() == codes[1].tolist()
        poison(persistent)
        persistent.run(x, 1, fewer)
        assert torch.equal(persistent.logits[:, :1], logits[:, :1])
        assert fewer.tolist() == [codes[0].tolist(), *[[0, 0, 0]] * 3]
    assert persistent.fault == ""
    assert not any(persistent._tensors[name].any() for name in ("arrivals", "leavers", "fault"))


@pytest.mark.timeout(300)
def test_it_compiles_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At CSM-1B's size, with NVRTC, without a GPU; a second time it comes from the cache."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings comes with PyTorch on Linux x86-64")
    from engine.model.persistent import cuda_program

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    model = meta_model(replace(FULL, backbone=replace(FULL.backbone, layers=1)))
    shape = KernelShape.of(model, model.allocate(2), HOPPER_SHARED)
    assert (shape.blocks, shape.threads, shape.macros["RING"]) == (128, 288, 11)
    assert shape.shared_bytes <= HOPPER_SHARED
    try:
        code = cuda_program.cached_program("depth.cu", shape.macros, (9, 0))
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    assert code.startswith(b"\x7fELF")
    monkeypatch.setattr(cuda_program, "compile_program", None)
    assert cuda_program.cached_program("depth.cu", shape.macros, (9, 0)) == code


def test_what_the_compiler_says_is_told() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings comes with PyTorch on Linux x86-64")
    from engine.model.persistent.cuda_program import CudaError, compile_program

    with pytest.raises(CudaError, match="HIDDEN"):
        compile_program("depth.cu", {}, (9, 0))


LAUNCHER = """
import ctypes, sys
from engine.model.persistent.cuda_program import CooperativeKernel, CudaError

class Numbers(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int), ("second", ctypes.c_int)]

kernel = CooperativeKernel(b"code", "depth", 128, 288, 230000)
kernel.launch(Numbers(7, 9), 33)
for attempt in (lambda: kernel.launch(Numbers(0, 0), 33), lambda: CooperativeKernel(b"", "depth", 133, 288, 9)):
    try:
        attempt()
    except CudaError as error:
        print(error, file=sys.stderr)
"""


def test_the_driver_is_called_as_it_should_be(tmp_path: Path) -> None:
    """By a process that finds a driver which tells its calls."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings comes with PyTorch on Linux x86-64")
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    command = [compiler, "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(EMULATION / "driver.c")]
    subprocess.run(command, check=True, timeout=60)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", LAUNCHER]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines() == [
        "load code",
        "kernel depth of 1",
        "attribute 8 of 2 is 230000",  # the most dynamic shared memory
        "occupancy of 2 with 288 threads, 230000 bytes",
        "launch 2: 128 1 1 blocks of 288 1 1, 230000 bytes, stream 33, 7 9",
        "launch 2: 128 1 1 blocks of 288 1 1, 230000 bytes, stream 33, 0 0",
        "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        "load ",
        "kernel depth of 1",
        "attribute 8 of 2 is 9",
        "occupancy of 2 with 288 threads, 9 bytes",
        "depth needs 133 blocks at once; this GPU runs 132 of them",
    ]


@pytest.mark.parametrize(
    ("config", "vocab", "dtype", "message"),
    [
        (FULL, 2048, torch.float32, "not float32"),
        (FULL, 2050, torch.bfloat16, "do not divide"),
        (SMALL, 67, torch.bfloat16, "do not divide"),
        (replace(FULL, codebooks=33), 2048, torch.bfloat16, "do not divide"),
    ],
)
def test_other_models_are_refused(config: CsmConfig, vocab: int, dtype: torch.dtype, message: str) -> None:
    heads = meta_model(replace(SMALL, codebooks=2)).heads
    assert message in unsupported(config, vocab, dtype, heads)
    assert unsupported(FULL, 2048, torch.bfloat16, heads) == ""


def test_int8_weights_and_little_shared_memory_are_refused(model: CsmModel) -> None:
    with pytest.raises(ValueError, match="shared memory, not"):
        KernelShape.of(model, model.allocate(2), 32 << 10)
    small = CsmModel(SMALL, 5, 67).to(torch.bfloat16)
    for parameter in small.parameters():
        parameter.data.fill_(0.5)
    quantize(small.heads, "heads")
    assert "int8" in unsupported(FULL, 2048, torch.bfloat16, small.heads)


# ---- its use


def test_a_step_launches_it_in_place_of_the_depth_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """At CSM-1B's size: 66 launches beside it and the attention, of 783."""
    pytest.importorskip("triton")
    from engine.model import fused
    from engine.model.fused import step as steps

    counts: Counter[str] = Counter()
    given: list[tuple[Any, ...]] = []
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(getattr(fused, module), name, Launches(name, counts, given))
    monkeypatch.setattr(steps, "attend", lambda q, *others: q)
    model = meta_model(FULL)
    step = steps.FusedStep(model, model.allocate(4))
    ran: list[tuple[Any, ...]] = []
    step.persistent = SimpleNamespace(run=lambda *given: ran.append(given), logits=torch.zeros(32, 4, 9))
    logits: list[Tensor] = []
    step.frame(3, 2048, logits)
    assert ran == [(step.backbone.x, 3, step.codes)]
    assert [tuple(each.shape) for each in logits] == [(3, 9)] * 32
    assert counts == dict.fromkeys(("qkv_kernel", "add_kernel", "gate_up_kernel", "down_kernel"), 16) | dict.fromkeys(
        ("embed_kernel", "finish_kernel"), 1
    )


class FakePersistent:
    """Stands in for a PersistentDepth that a FakeStep runs."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.fatal = fault, False

    def fail_loudly(self) -> None:
        self.fatal = True


class FakeStep(ReferenceStep):
    """Its depth decoder is wrong by `wrong`, where the persistent kernel computes it."""

    wrong: int = 0

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        self.shift = self.wrong if self.persistent is not None else 0
        super().frame(rows, context, logits)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[CsmModel, StepState, FakeStep]:
    model = CsmModel(SMALL, 5, 67).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    model.build_tables()
    state = model.allocate(4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(persistent_frames, "unsupported", lambda *given: "")
    monkeypatch.setattr(persistent_frames.Trial, "of", lambda device: Trial(tmp_path / "cache" / "tried"))
    return model, state, FakeStep(model, state)


def use(
    on_hopper: tuple[CsmModel, StepState, FakeStep], monkeypatch: pytest.MonkeyPatch, made: Any,
    rows: tuple[int, ...] = (2, 4), seconds: tuple[float, float] = (2, 1),
) -> Any:  # fmt: skip
    """The step's persistent kernel after the choice. seconds: of the fused kernels and with the persistent one."""
    model, state, step = on_hopper
    times = iter(seconds)
    monkeypatch.setattr(fused_frames.FusedCheck, "_timed", lambda self, replay: next(times))

    def build(model: CsmModel, state: StepState) -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(persistent_frames, "build", build)
    persistent_frames.use_persistent_depth(model, state, step, rows, 24, DirectCapturer)
    assert not state.output.any()
    return step.persistent


def test_it_is_used_where_it_is_right_and_faster(on_hopper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakePersistent()
    assert use(on_hopper, monkeypatch, made) is made
    assert made.fatal


@pytest.mark.parametrize(
    ("made", "wrong", "seconds", "message"),
    [
        (ImportError("no NVRTC"), 0, (2, 1), "no NVRTC"),
        (FakePersistent("weights"), 0, (2, 1), "waited in vain for weights"),
        (FakePersistent(), 1, (2, 1), "other codes are sampled"),
        (FakePersistent(), 0, (1, 2), "fused kernels are faster"),
    ],
)
def test_it_is_not_used_where_it_fails(
    made: Any, wrong: int, seconds: tuple[float, float], message: str, on_hopper: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    on_hopper[2].wrong = wrong
    with caplog.at_level(logging.WARNING):
        assert use(on_hopper, monkeypatch, made, seconds=seconds) is None
    assert message in caplog.text
    assert not list(tmp_path.glob("cache/*"))  # the next start tries it again


def test_a_kernel_that_breaks_the_gpu_is_not_tried_again(
    on_hopper: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(device: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    with monkeypatch.context() as broken_gpu:
        broken_gpu.setattr(torch.cuda, "synchronize", broken)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            use(on_hopper, monkeypatch, RuntimeError("launch failed"))
    assert use(on_hopper, monkeypatch, FakePersistent()) is None
    assert "to try again remove" in caplog.text


def test_a_trial_is_of_one_gpu_and_one_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"GPU-{device}"))
    first, second = Trial.of("one"), Trial.of("two")  # type: ignore[arg-type]
    first.begin()
    assert first.path.parent == tmp_path
    assert (first.broken_off, second.broken_off) == (True, False)
    first.end()
    assert not first.broken_off


def test_more_rows_than_it_can_take_use_the_fused_kernels(on_hopper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has the same bits among any number of rows."""
    assert use(on_hopper, monkeypatch, FakePersistent(), rows=(2, 4, 8)) is None


def test_older_gpus_use_the_fused_kernels(on_hopper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert use(on_hopper, monkeypatch, FakePersistent()) is None
