// Play an address with nothing but an audio element: what any page could do in one line of HTML.

import { addressOf, askWhy, generate } from "./api.js";
import { once } from "./append_queue.js";
import { wavOf } from "./wav.js";

const RATE = 24000; // of the service
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

/** Why this way is closed here: it never is. */
export const obstacle = () => "";

/** See way.js. */
export async function play({ parameters, format, sound, meter, signal, keep }) {
  const element = sound.element();
  const address = new URL(addressOf("/tts/generate", { ...parameters, format }), location).href;
  keep({
    name: `speech.${EXTENSIONS[format] ?? format}`,
    // An element does not give out what it has received, but the seed makes the same once more, as far as it was heard.
    blob: () => makeFile({ ...parameters, format, ...(signal.aborted && upTo(meter.heardSeconds)) }),
  });
  const ended = listen(element, meter, signal);
  const broken = once(element, "error", signal).then(async () => {
    const why = meter.sounds ? null : await askWhy({ ...parameters, format });
    throw why ?? new Error("the stream broke off, or this browser cannot play it");
  });
  const arriving = watchArrival(address, meter);
  element.src = address;
  try {
    await Promise.race([Promise.all([element.play(), ended]), broken]);
    meter.heard(element.currentTime);
  } catch (error) {
    throw error.name === "NotSupportedError" ? await broken : error; // play() tells of it first, and less
  } finally {
    arriving.disconnect();
    element.pause();
    element.removeAttribute("src"); // closes the connection, which frees the slot
    element.load();
  }
}

/** Resolves when it is heard to the end. */
function listen(element, meter, signal) {
  const look = () => {
    const { buffered, currentTime } = element;
    if (buffered.length) meter.received(buffered.end(buffered.length - 1));
    if (currentTime) meter.heard(currentTime);
  };
  element.addEventListener("progress", look, { signal });
  element.addEventListener("timeupdate", look, { signal });
  element.addEventListener("playing", () => meter.heard(element.currentTime), { signal });
  element.addEventListener("waiting", () => meter.sounds && !element.ended && meter.gap(), { signal });
  return once(element, "ended", signal);
}

/** Elements look at what they receive in their own time; only the browser's record says when the last of it came. */
function watchArrival(address, meter) {
  const observer = new PerformanceObserver((list) => {
    for (const { name, responseEnd } of list.getEntries())
      if (name === address && responseEnd) meter.completeAt(responseEnd);
  });
  observer.observe({ type: "resource" });
  return observer;
}

/** The header of a wav that is streamed cannot tell its length; the one of a file should. */
async function makeFile({ format, ...parameters }) {
  if (format !== "wav") return (await generate({ ...parameters, format })).blob();
  return wavOf(await (await generate({ ...parameters, format: "raw_pcm" })).arrayBuffer(), RATE);
}

/** Frames of 80 ms. */
const upTo = (seconds) => ({ max_audio_length_ms: Math.max(1, Math.ceil(seconds / 0.08)) * 80 });
