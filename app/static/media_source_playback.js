// Playback of a compressed stream with Media Source Extensions.

import { client } from "./api.js";
import { AppendQueue, once } from "./append_queue.js";
import { NetworkError } from "./client/index.js";

const TYPES = { fmp4: 'audio/mp4; codecs="mp4a.40.2"', webm: 'audio/webm; codecs="opus"' };
const EXTENSIONS = { fmp4: "mp4", webm: "webm" };
const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource; // iPhones have only the former

export const formats = () => Object.keys(TYPES).filter((format) => Source?.isTypeSupported(TYPES[format]));

/** The reason why this mode is unavailable; "" if it is available. */
export const unavailableReason = () => (formats().length ? "" : "This browser has no Media Source Extensions for AAC or Opus.");

/** See playback.js. */
export async function play({ parameters, format, sound, meter, signal, keep, slow }) {
  const element = sound.element();
  element.disableRemotePlayback = true; // required on iPhones
  const source = new Source();
  const address = URL.createObjectURL(source);
  element.src = address;
  try {
    await once(source, "sourceopen", signal);
    const queue = new AppendQueue(source.addSourceBuffer(TYPES[format]), element, signal);
    const filled = fill({ queue, element, parameters, format, meter, signal, keep, lead: slow ? 0.8 : 0.24 }).then(
      () => {
        if (source.readyState === "open") source.endOfStream();
        return start(element);
      },
    );
    await Promise.all([filled, listen(element, meter, signal)]);
  } finally {
    element.pause();
    element.removeAttribute("src");
    element.load();
    URL.revokeObjectURL(address);
  }
}

async function fill({ queue, element, parameters, format, meter, signal, keep, lead }) {
  const parts = [];
  const response = await client.generate({ ...parameters, format }, signal);
  const type = response.headers.get("Content-Type");
  meter.engine(response.headers.get("X-TTS-Engine"));
  keep({ name: `speech.${EXTENSIONS[format]}`, blob: async () => new Blob(parts, { type }) });
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new NetworkError("the stream was aborted: the audio is incomplete");
    });
    if (done) return;
    parts.push(value);
    await queue.append(value);
    const end = element.buffered.length ? element.buffered.end(element.buffered.length - 1) : 0;
    meter.received(end);
    if (end >= lead) await start(element);
  }
}

/** Starts playback unless it is running. */
async function start(element) {
  if (!element.paused || !element.buffered.length) return;
  element.currentTime = Math.max(element.currentTime, element.buffered.start(0)); // skips the encoder's delay
  await element.play();
}

/** Resolves at the end of playback. */
function listen(element, meter, signal) {
  element.addEventListener("playing", () => meter.played(element.currentTime), { signal });
  element.addEventListener("timeupdate", () => element.currentTime && meter.played(element.currentTime), { signal });
  element.addEventListener("waiting", () => meter.started && !element.ended && meter.underrun(), { signal });
  const broken = once(element, "error", signal).then(() => {
    throw new Error(`the browser cannot play this stream (${element.error?.message || "no reason given"})`);
  });
  return Promise.race([once(element, "ended", signal), broken]);
}
