"""Records the page's audio output, sample by sample, and checks its continuity."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE
from tests.browser.page import Page

Samples = npt.NDArray[np.float32]

# Connects an audio worklet to everything that is connected to the context's destination.
TAP = """
(() => {
  const processor = `registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[samples]]) { this.port.postMessage(samples ? samples.slice() : new Float32Array(128)); return true; }
  })`;
  const connect = AudioNode.prototype.connect;
  window.tapped = null;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target === this.context.destination) {
      const address = URL.createObjectURL(new Blob([processor], { type: "text/javascript" }));
      this.context.audioWorklet.addModule(address).then(() => {
        const tap = new AudioWorkletNode(this.context, "tap");
        window.rate = this.context.sampleRate;
        window.tapped = [];
        tap.port.onmessage = ({ data }) => window.tapped.push(data);
        connect.call(this, tap);
      });
    }
    return connect.call(this, target, ...rest);
  };
})();
"""

_TAKE = """
const done = arguments[0];
const reader = new FileReader();
reader.onload = () => done(reader.result.split(",")[1] ?? "");
reader.readAsDataURL(new Blob(window.tapped));
"""


def tap(page: Page) -> None:
    """Start recording at the next request."""
    page.speak("x", "socket")  # the page opens its AudioContext on the first click
    page.wait_until_over()
    page.until(lambda: page.run("return window.tapped !== null"))
    assert page.run("return window.rate") == SAMPLE_RATE
    page.run("window.tapped = []")


def recorded_audio(page: Page) -> Samples:
    """float32 (samples,) at 24 kHz since `tap`."""
    return np.frombuffer(base64.b64decode(page.driver.execute_async_script(_TAKE)), "<f4")


def trim_silence(samples: Samples) -> Samples:
    """From the first sample that is not silence to the last one."""
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    return samples[loud[0] : loud[-1] + 1]


def rms(samples: Samples, milliseconds: int = 10) -> Samples:
    """RMS of each whole window."""
    size = SAMPLE_RATE * milliseconds // 1000
    windows = samples[: samples.size // size * size].reshape(-1, size)
    return np.sqrt((windows**2).mean(axis=1))


def discontinuities(samples: Samples) -> npt.NDArray[np.int64]:
    """Indices where a sine is interrupted: each of its samples is determined by its two neighbours."""
    before, here, after = samples[:-2].astype(float), samples[1:-1].astype(float), samples[2:].astype(float)
    twice_cosine = (here @ (before + after)) / (here @ here)
    return np.flatnonzero(np.abs(before + after - twice_cosine * here) > 1e-3)
