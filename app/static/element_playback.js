// Playback with a plain audio element and a URL, as in one line of HTML.

import { client } from "./api.js";
import { once } from "./append_queue.js";
import { SAMPLE_RATE, wavOf } from "./client/index.js";

const TYPES = {
  wav: "audio/wav",
  mp3: "audio/mpeg",
  opus: 'audio/ogg; codecs="opus"',
  webm: 'audio/webm; codecs="opus"',
  fmp4: 'audio/mp4; codecs="mp4a.40.2"',
  flac: "audio/flac",
  aac: "audio/aac",
};
const EXTENSIONS = { opus: "ogg", fmp4: "mp4" };

export const formats = () => Object.keys(TYPES).filter((format) => new Audio().canPlayType(TYPES[format]));

/** Always available. */
export const unavailableReason = () => "";

/** See playback.js. */
export async function play({ parameters, format, sound, meter, signal, keep }) {
  const element = sound.element();
  const address = client.urlOf("/tts/generate", { ...parameters, format });
  keep({
    name: `speech.${EXTENSIONS[format] ?? format}`,
    // An element does not expose its data, but the seed generates the same audio again, up to what was played.
    blob: () => makeFile({ ...parameters, format, ...(signal.aborted && maxLength(meter.playedSeconds)) }),
  });
  const ended = listen(element, meter, signal);
  const broken = once(element, "error", signal).then(async () => {
    const cause = meter.started ? null : await client.errorOf({ ...parameters, format });
    throw cause ?? new Error("the stream was aborted, or this browser cannot play it");
  });
  const arriving = observeCompletion(address, meter);
  element.src = address;
  try {
    await Promise.race([Promise.all([element.play(), ended]), broken]);
    meter.played(element.currentTime);
  } catch (error) {
    throw error.name === "NotSupportedError" ? await broken : error; // play() rejects first, with less detail
  } finally {
    arriving.disconnect();
    element.pause();
    element.removeAttribute("src"); // closes the connection, which frees the slot
    element.load();
  }
}

/** Resolves at the end of playback. */
function listen(element, meter, signal) {
  const update = () => {
    const { buffered, currentTime } = element;
    if (buffered.length) meter.received(buffered.end(buffered.length - 1));
    if (currentTime) meter.played(currentTime);
  };
  element.addEventListener("progress", update, { signal });
  element.addEventListener("timeupdate", update, { signal });
  element.addEventListener("playing", () => meter.played(element.currentTime), { signal });
  element.addEventListener("waiting", () => meter.started && !element.ended && meter.underrun(), { signal });
  return once(element, "ended", signal);
}

/** Reports when the response is complete, from the browser's resource timing; elements update `buffered` late. */
function observeCompletion(address, meter) {
  const observer = new PerformanceObserver((list) => {
    for (const { name, responseEnd } of list.getEntries())
      if (name === address && responseEnd) meter.completeAt(responseEnd);
  });
  observer.observe({ type: "resource" });
  return observer;
}

/** A downloaded wav gets a header with its length, which a streamed one does not have. */
async function makeFile({ format, ...parameters }) {
  if (format !== "wav") return (await client.generate({ ...parameters, format })).blob();
  return wavOf(await (await client.generate({ ...parameters, format: "raw_pcm" })).arrayBuffer(), SAMPLE_RATE);
}

/** Rounded up to frames of 80 ms. */
const maxLength = (seconds) => ({ max_audio_length_ms: Math.max(1, Math.ceil(seconds / 0.08)) * 80 });
