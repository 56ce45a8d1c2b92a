"""What leaves the page for the loudspeaker, sample by sample, and whether it is whole."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE
from tests.browser.page import Page

Samples = npt.NDArray[np.float32]

# Whatever is connected to the loudspeaker is connected to a tap as well, on the thread that makes the sound.
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
    """Listen from the first sample of the next speech on."""
    page.speak("x", "socket")  # the page opens its way to the loudspeaker at the first press
    page.wait_until_over()
    page.until(lambda: page.run("return window.tapped !== null"))
    assert page.run("return window.rate") == SAMPLE_RATE
    page.run("window.tapped = []")


def heard(page: Page) -> Samples:
    """float32 (samples,) at 24 kHz: all since `tap`."""
    return np.frombuffer(base64.b64decode(page.driver.execute_async_script(_TAKE)), "<f4")


def sounding(samples: Samples) -> Samples:
    """From the first sample that is not silence to the last one."""
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    return samples[loud[0] : loud[-1] + 1]


def loudness(samples: Samples, milliseconds: int = 10) -> Samples:
    """RMS of each whole window."""
    size = SAMPLE_RATE * milliseconds // 1000
    windows = samples[: samples.size // size * size].reshape(-1, size)
    return np.sqrt((windows**2).mean(axis=1))


def seams(samples: Samples) -> npt.NDArray[np.int64]:
    """Where a sine is not the sine that it was: each of its samples follows from the two before it."""
    before, here, after = samples[:-2].astype(float), samples[1:-1].astype(float), samples[2:].astype(float)
    twice_cosine = (here @ (before + after)) / (here @ here)
    return np.flatnonzero(np.abs(before + after - twice_cosine * here) > 1e-3)
