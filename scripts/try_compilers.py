"""Compile what `COMPILE` compiles, without a GPU: Triton's kernels and their launchers, and a function for the CPU.

Where torch is built for a CPU alone, as its wheels for ARM are, there is no Triton and nothing for it to do.

Needs only what serving needs. Exits with a traceback at the first compiler that fails.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

GPUS = (80, 90, 100)  # compute capabilities: A100, H100, B200, whose assembler is one of its own
SIGNATURE = {"parts": "*fp32", "logs": "*fp32", "positions": "*i64", "y": "*bf16", "context": "i32", "splits": "i32"}
SIZES = {"GROUPS": 4, "HEAD_DIM": 64, "SPLIT": 128, "QUERIES": 4, "DIMS": 64}


def main() -> None:
    if torch.version.cuda:
        _try_triton()
    x = torch.linspace(-1, 1, 1000)
    torch.testing.assert_close(torch.compile(_gelu_sum)(x), _gelu_sum(x))
    print("Inductor: a function for the CPU", flush=True)


def _try_triton() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver
    from triton.compiler import ASTSource
    from triton.runtime import build

    from engine.model.ragged_attention_kernel import _join_splits

    for capability in GPUS:
        source = ASTSource(_join_splits, SIGNATURE | dict.fromkeys(SIZES, "constexpr"), SIZES)
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        print(f"Triton: {len(kernel.asm['cubin'])} bytes for compute capability {capability}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        launcher = Path(driver.__file__).with_name("driver.c")
        built = build._build("launcher", str(launcher), folder, [], driver.include_dirs, [], [])
        print(f"C: {Path(built).stat().st_size} bytes of Triton's launcher", flush=True)


def _gelu_sum(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x * 2 + 1).sum()


if __name__ == "__main__":
    main()
