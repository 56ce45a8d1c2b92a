"""Benchmarks of one GPU, in one process. In a first session on a GPU, in this order, tests and timings one by one:

    nvidia-smi; python -m pytest -q tests/gpu                             what is wrong, the quick files first
    python -m bench.gpu --only limits load frames fused codec             the fused, persistent and codec kernels
    python -m bench.gpu --slots 4 --only load frames                      the persistent kernel beside the codec
    python -m bench.gpu --only listeners prompts http                     what users notice
    python -m bench.gpu --stage profile                                   where a frame's time goes

Start with the lines `fused`, `persistent` and `codec`: a `fault` that is not empty says which kernel differs and how;
the service does without that kernel then. The persistent kernel fills 128 multiprocessors, so its step waits until the
frame before is decoded, and prompts get little of the GPU beside it: compare `overlapped_ms` and the first audio too.
Then put the figures into docs/sizing.md and bench/LOG.md.
"""
