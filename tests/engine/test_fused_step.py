"""The fused frame step without a GPU: interpreted kernels, compilation for GPUs, launches, and when it is used."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.model import fused_frames
from engine.model.config import CsmConfig, TransformerConfig
from engine.model.csm import CsmModel, StepState
from engine.model.graphs import Work
from engine.model.int8_linear import Int8Linear
from engine.model.sampling import SamplingInputs, SamplingMode, sample

from .test_ragged_attention import ROOT, AbsentGpu, CompileOnly, FakeCudaDevice

PART = TransformerConfig(64, 128, 1, 4, 2, 16, 1e-5, 1e4, None)
SMALL = CsmConfig(PART, PART, 3, 69, 70, 40, 0, True, None)
# CSM-1B's: what the kernels' sizes follow from.
BACKBONE = TransformerConfig(2048, 8192, 16, 32, 8, 64, 1e-5, 5e5, None)
DEPTH = TransformerConfig(1024, 8192, 4, 8, 2, 128, 1e-5, 5e5, None)
FULL = CsmConfig(BACKBONE, DEPTH, 32, 2051, 128256, 2048, 0, True, None)

LAUNCH_BUDGET = 783


@pytest.mark.timeout(300)
def test_the_interpreted_kernels_pass_the_gpu_tests() -> None:
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_fused_step.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "7 passed, 1 skipped" in ran.stdout


# ---- kernels

KERNELS = {
    "products": ("qkv_kernel", "add_kernel", "gate_up_kernel", "down_kernel", "head_kernel"),
    "frame_kernels": (
        "embed_kernel",
        "embed_prompt_kernel",
        "depth_attention_kernel",
        "sample_kernel",
        "finish_kernel",
    ),
}
PRODUCTS = len(KERNELS["products"])


def meta_model(config: CsmConfig) -> CsmModel:
    """In bfloat16, without memory."""
    with torch.device("meta"):
        model = CsmModel(config, 5, 2048)
        model.build_tables()
        return model.to(torch.bfloat16)


def as_int8(model: CsmModel) -> CsmModel:
    """With int8 weights in the depth decoder, which `quantize` cannot make without memory."""
    for root in (model.depth, model.heads):
        for parent in list(root.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    layer = Int8Linear(torch.ones(1, 1))
                    int8 = torch.empty(child.weight.shape, dtype=torch.int8, device="meta")
                    layer.product.weight = nn.Parameter(int8, requires_grad=False)
                    layer.product.scale = nn.Parameter(child.weight.detach()[:, 0], requires_grad=False)
                    setattr(parent, name, layer)
    return model


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the fused step, with attention over live positions left out: it has tests of its own."""
    pytest.importorskip("triton")
    from engine.model.fused import step

    monkeypatch.setattr(step, "attend", lambda q, keys, values, positions: q)
    return step


@pytest.mark.parametrize(
    ("capability", "rows", "int8"), [(80, (128,), False), (90, (2, 64), True)], ids=["sm_80", "sm_90"]
)
def test_the_kernels_compile_for_a_gpu(
    capability: int, rows: tuple[int, ...], int8: bool, steps: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiling needs no GPU. A sum's order follows from the instruction, which must not change with the tile."""
    from triton.runtime import driver

    from engine.model import fused
    from engine.model.fused.prefill import FusedPrefill

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    # One layer in each, and a backbone of the depth decoder's size: few builds.
    config = replace(FULL, backbone=replace(DEPTH, layers=1), depth=replace(DEPTH, layers=1), codebooks=2)
    model = meta_model(config)
    if int8:
        model = as_int8(model)
    state = model.allocate(max(rows))
    step = steps.FusedStep(model, state, pdl=capability >= 90)
    prefill = FusedPrefill(model, state.backbone, lambda q, *others: q, 32, pdl=capability >= 90)  # type: ignore[arg-type]
    builds: dict[str, list[Any]] = {}
    for module, names in KERNELS.items():
        for name in names:
            builds[name] = []
            kernel = CompileOnly(getattr(getattr(fused, module), name), builds[name])
            monkeypatch.setattr(getattr(fused, module), name, kernel)
    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    for count in rows:
        step.frame(count, 2048)
    if capability >= 90:
        prefill.run(torch.zeros(32, 5, dtype=torch.int64, device="meta"))
    for name, built in builds.items():
        products = name in KERNELS["products"]
        assert len(set(map(id, built))) <= (3 if products else 1) * len(rows)
        assert built or (name == "embed_prompt_kernel" and capability < 90)
        for each in built:
            assert each.metadata.shared <= 99 << 10  # available to a block on every GPU since 2020
            assert each.metadata.global_scratch_size == 0  # otherwise every launch would allocate
            assert ("griddepcontrol.wait" in each.asm["ptx"]) == (capability >= 90)
        if products:
            large = name in ("gate_up_kernel", "down_kernel") and capability >= 90
            instruction, other = ("wgmma", "mma.sync") if large else ("mma.sync", "wgmma")
            assert all(instruction in each.asm["ptx"] and other not in each.asm["ptx"] for each in built)
    if int8:  # converted on the way to the tensor cores, not before
        read = ["!tt.ptr<i8>" in each.asm["ttir"] for each in builds["gate_up_kernel"]]
        assert read == [False, True] * len(rows)  # the backbone's, the depth decoder's


class Launches:
    """Stands in for a kernel and counts its launches, and the tensors that each reads or writes."""

    def __init__(self, name: str, counts: Counter[str], given: list[tuple[Any, ...]]) -> None:
        self._name, self._counts, self._given = name, counts, given

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            self._counts[self._name] += 1
            self._given.append(arguments)

        return launch


def test_a_step_launches_few_kernels_and_reads_every_weight(steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At CSM-1B's size. The plain step launched 2,187 on an H200."""
    from engine.model import fused

    model = meta_model(FULL)
    counts: Counter[str] = Counter()
    given: list[tuple[Any, ...]] = []

    def attend(q: Tensor, *others: Tensor) -> Tensor:
        counts["attention"] += 2  # splits, then their combination
        return q

    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(getattr(fused, module), name, Launches(name, counts, given))
    monkeypatch.setattr(steps, "attend", attend)
    steps.FusedStep(model, model.allocate(2)).frame(2, 2048)
    assert counts.total() <= LAUNCH_BUDGET, counts
    read = Counter(id(each) for arguments in given for each in arguments if isinstance(each, Tensor))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embeddings" not in name:
            assert read[id(parameter)] == (31 if name.startswith("depth.") else 1), name


class Builds:
    """Stands in for a kernel and collects what Triton compiles it for: constants, types, and alignment of pointers."""

    def __init__(self, name: str, launched: set[Any], compiled: set[Any]) -> None:
        self._name, self._launched, self._compiled = name, launched, compiled

    def _key(self, arguments: tuple[Any, ...], constants: dict[str, Any]) -> Any:
        kinds = (
            (each.dtype, each.data_ptr() % 16 == 0) if isinstance(each, Tensor) else type(each) for each in arguments
        )
        return self._name, tuple(kinds), tuple(sorted(constants.items(), key=lambda item: item[0]))

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **constants: self._launched.add(self._key(arguments, constants))

    def warmup(self, *arguments: Any, grid: tuple[int, ...], **constants: Any) -> None:
        self._compiled.add(self._key(arguments, constants))


def test_all_kernels_are_compiled_ahead(steps: Any, model: CsmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.model import fused

    launched: set[Any] = set()
    compiled: set[Any] = set()
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(getattr(fused, module), name, Builds(name, launched, compiled))
    step = steps.FusedStep(model, model.allocate(130))
    step.compile_ahead((2, 8, 40, 64, 130), 24, 2)
    assert not launched
    for rows in (2, 8, 40, 64, 130):
        step.frame(rows, 24)
    assert launched == compiled
    assert len(compiled) > 20


@pytest.mark.parametrize(
    ("config", "dtype", "message"),
    [
        (replace(SMALL, depth=replace(PART, hidden=48)), torch.bfloat16, "hidden size is 48"),
        (replace(SMALL, backbone=replace(PART, intermediate=96)), torch.bfloat16, "intermediate size is 96"),
        (replace(SMALL, depth=replace(PART, heads=16, head_dim=12)), torch.bfloat16, "head size is 12"),
        (SMALL, torch.float16, "not float16"),
    ],
)
def test_other_models_are_refused(config: CsmConfig, dtype: torch.dtype, message: str, steps: Any) -> None:
    from engine.model.fused.layers import unsupported

    assert message in unsupported(config, dtype)
    with torch.device("meta"):
        model = CsmModel(config, 5, 67).to(dtype)
        state = model.allocate(2)
    with pytest.raises(ValueError, match=message):
        steps.FusedStep(model, state)
    assert unsupported(FULL, torch.bfloat16) == ""


# ---- its use


class ReferenceStep:
    """Implements FusedStep with the plain model, in float32, and with mistakes.

    attended: positions that each row attends to beyond its own. shift: of the sampled codes. noise: added to the logits
    of this many rows and more.
    """

    def __init__(
        self, model: CsmModel, state: StepState, attended: int = 0, shift: int = 0, noise: int = 99, pdl: bool = False
    ) -> None:
        self.model, self.state, self.pdl = model, state, pdl
        self.attended, self.shift, self.noise = attended, shift, noise
        self.codes = torch.zeros_like(state.codes)
        self.persistent: Any = None

    def compile_ahead(self, rows: Sequence[int], context: int, threads: int) -> None:
        pass

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        model, state, books = self.model, self.state, self.model.config.codebooks
        every = len(state.active)  # always as many, because a CPU's products round by the number of rows
        state.position += self.attended
        hidden = model._backbone_step(state, every, context, state.active)
        state.position -= self.attended
        mode = SamplingMode(top_k=model.sampled_vocab, sampled=True, guided=True)
        inputs = SamplingInputs.of(state.sampling, mode, books, model.sampled_vocab)
        self.codes.zero_()
        for codebook in range(books):
            each = fused_frames._forced_logits(model, hidden, self.codes)[codebook]
            each = each + 1e-6 * (rows >= self.noise)
            self.codes[:, codebook] = (sample(each, state.sampling, mode, inputs, codebook) + self.shift) % 67
            if logits is not None:
                logits.append(each[:rows])
        model.finish_step(state, rows, self.codes[:rows])


@pytest.fixture(scope="module")
def model() -> CsmModel:
    model = CsmModel(SMALL, 5, 67).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1.2 / 8, generator=generator)
        else:
            parameter.data.fill_(1)
    model.build_tables()
    return model


class DirectCapturer:
    """Implements GraphCapturer without graphs; counts what is captured."""

    def __init__(self) -> None:
        self.captured = 0

    def capture(self, work: Work) -> Work:
        self.captured += 1
        return work


def chosen(
    model: CsmModel, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float] = (2, 1), **wrong: int
) -> Any:
    """The buckets in which a ReferenceStep is used. seconds: of the plain and of the fused step."""
    times = iter(seconds[::-1] * 9)
    monkeypatch.setattr(fused_frames.FusedCheck, "_timed", lambda self, replay: next(times))
    state = model.allocate(6)
    before = state.table.words.clone()
    found = fused_frames.choose(
        model, state, ReferenceStep(model, state, **wrong), (2, 4, 6), 24, lambda rows: min(rows, 4), DirectCapturer()
    )
    assert torch.equal(state.table.words, before)
    assert not state.active.any()
    assert not state.output.any()
    assert not state.backbone.keys[..., :-1, :].any()
    return found


def test_a_right_and_faster_step_is_used_for_every_bucket(model: CsmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(model, monkeypatch) == [2, 4, 6]


@pytest.mark.parametrize(
    ("wrong", "rows", "message"),
    [
        ({"attended": 1}, [], "relative error of the keys and values"),
        ({"shift": 1}, [], "other codes are sampled"),
        ({"noise": 6}, [2, 4], "6 rows: a row has other logits than among 4 rows"),
    ],
)
def test_a_bucket_that_differs_is_left_out(
    wrong: dict[str, int], rows: list[int], message: str, model: CsmModel, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert chosen(model, monkeypatch, **wrong) == rows
    assert message in caplog.text


def test_a_slower_step_is_not_used(
    model: CsmModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(model, monkeypatch, (1, 2)) == []
    assert "the plain step is faster" in caplog.text


def test_a_kernel_that_cannot_run_is_left_out(
    model: CsmModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def frame(self: ReferenceStep, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        if rows > 2:
            raise RuntimeError("out of resource: shared memory")
        plain(self, rows, context, logits)

    plain = ReferenceStep.frame
    monkeypatch.setattr(ReferenceStep, "frame", frame)
    assert chosen(model, monkeypatch) == [2]
    assert "shared memory" in caplog.text


def test_a_graph_with_other_codes_is_refused(model: CsmModel) -> None:
    state = model.allocate(2)
    fused_frames._fill(state)
    step = ReferenceStep(model, state)
    check = fused_frames.FusedCheck(model, state, step, 24)

    class Faulty:
        def capture(self, work: Work) -> Work:
            def replay() -> None:
                work()
                step.codes += 1

            return replay

    with pytest.raises(RuntimeError, match="graph of fused kernels for 2 rows"), torch.inference_mode():
        check.seconds(2, Faulty())


@pytest.mark.parametrize(
    ("capability", "failing", "used"),
    [((9, 0), (), True), ((9, 0), (True,), False), ((8, 0), (), False), ((9, 0), (True, False), None)],
)
def test_programmatic_dependent_launch_is_left_out_where_it_fails(
    capability: tuple[int, int], failing: tuple[bool, ...], used: bool | None, steps: Any, model: CsmModel,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """used: with it, without it, or not at all."""
    tried: list[bool] = []

    def choose(model: CsmModel, state: StepState, step: Any, rows: Any, *others: Any) -> list[int]:
        tried.append(step.pdl)
        if step.pdl in failing:
            raise RuntimeError("a graph of fused kernels has other codes")
        return [2]

    state = model.allocate(2)
    monkeypatch.setattr(CsmModel, "device", FakeCudaDevice())
    monkeypatch.setattr(CsmModel, "dtype", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fused_frames, "choose", choose)
    monkeypatch.setattr(steps, "FusedStep", lambda model, state, pdl: ReferenceStep(model, state, pdl=pdl))
    found = fused_frames.verified_fused_frames(model, state, (2,), 24, 1, DirectCapturer)
    assert (found.step.pdl if found else None) is used
    assert tried == [True, False][capability < (9, 0) :][: len(failing) + (used is not None)]
    assert caplog.text.count("other codes") == len(failing)


def test_float32_uses_the_plain_step(
    model: CsmModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = model.allocate(2)
    monkeypatch.setattr(CsmModel, "device", FakeCudaDevice())
    with caplog.at_level(logging.INFO):
        assert fused_frames.verified_fused_frames(model, state, (2,), 24, 1, DirectCapturer) is None
    assert "bfloat16, not float32" in caplog.text


def test_a_cpu_uses_the_plain_step(model: CsmModel) -> None:
    state = model.allocate(2)
    assert fused_frames.verified_fused_frames(model, state, (2,), 24, 1, DirectCapturer) is None
