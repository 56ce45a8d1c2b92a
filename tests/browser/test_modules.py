"""Unit tests of the page's JavaScript modules, in the browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.page import Page

_RING = """
const { Ring } = await import("/static/client/ring.js");
const ring = new Ring(8), out = [];
let next = 0;
for (let turn = 1; turn < 200; turn++) {
  ring.push(Float32Array.from({ length: (turn * 7) % 23 }, () => next++));
  const block = new Float32Array((turn * 5) % 17);
  out.push(...block.subarray(0, ring.pull(block)));
}
const rest = new Float32Array(ring.length);
ring.pull(rest);
out.push(...rest);
return [next, out.length, out.every((value, at) => value === at), ring.length];
"""

_RESAMPLER = """
const { Resampler } = await import("/static/client/resampler.js");
const turns = 2 * Math.PI * 440;
const sine = (count, rate) => Float32Array.from({ length: count }, (_, at) => Math.sin((turns * at) / rate));
const input = sine(24000, 24000);
const inPieces = (sizes) => {
  const resampler = new Resampler(24000, RATE), out = [];
  for (let at = 0, turn = 0; at < input.length; turn++) {
    const size = sizes[turn % sizes.length];
    out.push(...resampler.process(input.subarray(at, at + size)));
    at += size;
  }
  return out.concat(...resampler.flush());
};
const whole = inPieces([24000]), pieces = inPieces([1920, 1, 0, 777]), ideal = sine(RATE, RATE);
const worst = (a, b, from, to) =>
  a.slice(from, to).reduce((most, value, at) => Math.max(most, Math.abs(value - b[from + at])), 0);
return [whole.length, worst(whole, pieces, 0, whole.length), worst(whole, ideal, 200, RATE - 200)];
"""

_QUEUE = """
const { AppendQueue } = await import("/static/append_queue.js");
class Buffer extends EventTarget {
  updating = false; held = []; removed = 0; overlapping = 0;
  get buffered() { return { length: 1, start: () => this.removed }; }
  #change(act) {
    if (this.updating) this.overlapping++;
    this.updating = true;
    setTimeout(() => { act(); this.updating = false; this.dispatchEvent(new Event("updateend")); }, 1);
  }
  appendBuffer(bytes) {
    if (this.held.length - this.removed >= 3) throw new DOMException("full", "QuotaExceededError");
    this.#change(() => this.held.push(bytes));
  }
  remove(from, to) { this.#change(() => (this.removed = Math.floor(to))); }
}
const buffer = new Buffer();
const element = Object.assign(new EventTarget(), { currentTime: 0 });
const playing = setInterval(() => { element.currentTime += 1; element.dispatchEvent(new Event("timeupdate")); }, 2);
const queue = new AppendQueue(buffer, element, new AbortController().signal);
await Promise.all(Array.from({ length: 20 }, (_, at) => queue.append(at)));
clearInterval(playing);
const stopping = new AbortController();
const stopped = new AppendQueue(buffer, { currentTime: 0, addEventListener() {} }, stopping.signal).append(20);
stopping.abort(new Error("stopped"));
return [buffer.held, buffer.overlapping, await stopped.catch((error) => error.message)];
"""

_ADVICE = """
const notice = await import("/static/notice.js");
const { ServiceError } = await import("/static/client/index.js");
const shown = (status, code, seconds) => {
  notice.show(new ServiceError(status, "why", code, seconds), () => {});
  const text = document.querySelector("#notice strong").textContent;
  return [text, document.querySelector("#notice button").textContent];
};
const all = [shown(429, "busy", 3), shown(429, "daily_audio_limit", 43_000), shown(429, "request_rate_limit", 150)];
notice.clear();
return all;
"""


def evaluate(page: Page, script: str) -> Any:
    wrapped = (
        f"const done = arguments[0]; (async () => {{ {script} }})().then(done, (error) => done(String(error.stack)));"
    )
    return page.driver.execute_async_script(wrapped)


def test_a_ring_buffer_keeps_the_order_while_it_grows(page: Page) -> None:
    count, given, in_order, left = evaluate(page, _RING)
    assert (given, in_order, left) == (count, True, 0)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_resampled_sine_is_continuous_across_blocks(page: Page, rate: int) -> None:
    length, seam, error = evaluate(page, _RESAMPLER.replace("RATE", str(rate)))
    assert abs(length - rate) <= 2
    assert seam < 1e-6
    assert error < 2e-3


def test_appends_are_sequential_and_wait_for_space(page: Page) -> None:
    held, overlapping, stopped = evaluate(page, _QUEUE)
    assert held == list(range(20))
    assert overlapping == 0
    assert stopped == "stopped"


def test_a_notice_tells_a_busy_service_from_a_key_s_limit(page: Page) -> None:
    limited = "This key’s limit is reached: "
    assert evaluate(page, _ADVICE) == [
        ["All slots are busy: ", "Try again in 3 s"],
        [limited, "Try again in 12 h"],
        [limited, "Try again in 3 min"],
    ]
