"""Selects the decoder's Triton kernels, if they agree with PyTorch's operators on this device."""

from __future__ import annotations

import logging

import torch

from .decoder import PLAIN, MimiDecoder, Operators

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # largest accepted difference of samples, relative to the loudest: products may be rounded to TF32


def verified_operators(decoder: MimiDecoder) -> Operators:
    """The kernels on a GPU on which they work, otherwise PyTorch's operators, with a logged reason.

    Raises torch.OutOfMemoryError.
    """
    if decoder.table.device.type != "cuda":
        return PLAIN
    try:
        kernels = kernel_operators()
        error = operators_error(decoder, kernels)
    except torch.OutOfMemoryError:
        raise
    except Exception as reason:  # no Triton, no compiler, an unknown GPU: the plain operators give the same samples
        log.warning("the codec's kernels are not available, using PyTorch's operators: %r", reason)
        return PLAIN
    if not error <= TOLERANCE:
        log.warning(
            "the codec's kernels have a relative error of %.2g, above the tolerance of %.2g, using PyTorch's operators",
            *(error, TOLERANCE),
        )
        return PLAIN
    return kernels


def kernel_operators() -> Operators:
    from .kernels import RingKernel, windows

    return Operators(windows, RingKernel)


@torch.inference_mode()
def operators_error(decoder: MimiDecoder, operators: Operators, frames: int = 2) -> float:
    """Largest difference from the plain operators' samples, relative to the loudest; NaN if any sample is NaN.

    The rows have as many positions behind them as fill no slot, some, all but one and all, and one is inactive.
    """
    shape, device = decoder.ring_shape, decoder.table.device
    behind = torch.tensor([0, shape.step, 70, shape.capacity - 1, 3 * shape.capacity + 5], device=device)
    active = torch.arange(len(behind), device=device) != 1
    before, samples = decoder.operators, []
    for used in (PLAIN, operators):
        generator = torch.Generator(device).manual_seed(0)
        state = decoder.allocate(len(behind))
        state.ring.position.copy_(behind)
        for tensor in (state.ring.slots, state.past):
            tensor.normal_(generator=generator)
        size = (frames, len(behind), len(decoder.book_offsets))
        codes = torch.randint(len(decoder.table) // size[-1], size, generator=generator, device=device)
        decoder.operators = used
        try:
            samples.append(torch.stack([decoder(each, active, state) for each in codes])[:, active])
        finally:
            decoder.operators = before
    expected, actual = samples
    return float((actual - expected).abs().max() / expected.abs().max())
