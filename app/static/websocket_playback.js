// Play raw samples from the WebSocket /ws through an audio worklet: no codec, no container, no gap.

import { Refusal, Unreachable, addressOf, askWhy } from "./api.js";
import { Resampler } from "./resampler.js";
import { Recording } from "./wav.js";

const RATE = 24000;
const STATUS = { busy: 429, starting: 503, draining: 503, unavailable: 503, no_model: 503, unknown_voice: 404 };
const OF_THE_ENGINE = new Set(["engine_failed", "out_of_memory", "internal_error"]);

export const formats = () => ["float32"];

/** Why this way is closed here; "" if it is open. */
export const obstacle = () =>
  globalThis.AudioWorkletNode && isSecureContext
    ? ""
    : "Browsers allow audio worklets over https or on localhost only.";

/** See way.js. */
export async function play({ parameters, sound, meter, signal, keep, slow }) {
  const node = await sound.player(slow ? 0.6 : 0.12); // what is made hardly faster than heard needs more in hand
  signal.throwIfAborted();
  const resampler = sound.rate === RATE ? null : new Resampler(RATE, sound.rate);
  const recording = new Recording(RATE);
  const feed = (samples) => samples.length && node.port.postMessage({ samples }, [samples.buffer]);
  const socket = new WebSocket(addressOf(location.origin.replace(/^http/, "ws") + "/ws"));
  socket.binaryType = "arraybuffer";
  keep({ name: "speech.wav", blob: async () => recording.wav() });
  try {
    await new Promise((resolve, reject) => {
      let complete = false;
      socket.onopen = () => socket.send(JSON.stringify({ ...parameters, binary: true }));
      socket.onmessage = ({ data }) => {
        if (data instanceof ArrayBuffer) {
          const samples = new Float32Array(data);
          recording.push(samples.slice());
          meter.received(recording.seconds);
          feed(resampler ? resampler.process(samples) : samples);
          return;
        }
        const message = JSON.parse(data);
        if (message.type === "audio_status") meter.engine(message.engine);
        if (message.type === "error") reject(refusalOf(message));
        if (message.type === "completion") {
          complete = true;
          if (resampler) feed(resampler.flush());
          node.port.postMessage({ end: true });
          socket.close();
        }
      };
      socket.onclose = () => complete || brokenOff(parameters, recording.seconds).then(reject);
      node.port.onmessage = ({ data }) => {
        if (data.played !== undefined) meter.heard(data.played / sound.rate);
        if (data.told === "started") meter.heard(0);
        if (data.told === "underrun") meter.gap();
        if (data.told === "ended") resolve();
      };
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  } finally {
    socket.onclose = null;
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "cancel" })); // nothing, if it is said
    socket.close();
    node.port.onmessage = null;
    node.port.postMessage({ stop: true });
    node.disconnect();
  }
}

/** The socket tells nothing of why it was refused; HTTP does. */
async function brokenOff(parameters, seconds) {
  if (seconds) return new Unreachable(`the stream broke off after ${seconds.toFixed(1)} s: this is not the whole`);
  return (await askWhy(parameters)) ?? new Unreachable("the WebSocket was closed before anything came");
}

function refusalOf({ code, message, retry_after: retryAfter }) {
  const status = STATUS[code] ?? (OF_THE_ENGINE.has(code) ? 500 : 422);
  return new Refusal(status, message, code, retryAfter ?? null);
}
