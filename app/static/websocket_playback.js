// Playback of raw samples from the WebSocket /ws with an audio worklet: no codec, no container, lowest latency.

import { ServiceError, NetworkError, urlOf, fetchError } from "./api.js";
import { Resampler } from "./resampler.js";
import { Recording } from "./wav.js";

const RATE = 24000;
const STATUS = { busy: 429, starting: 503, draining: 503, unavailable: 503, no_model: 503, unknown_voice: 404 };
const ENGINE_ERRORS = new Set(["engine_failed", "out_of_memory", "internal_error"]);

export const formats = () => ["float32"];

/** The reason why this mode is unavailable; "" if it is available. */
export const unavailableReason = () =>
  globalThis.AudioWorkletNode && isSecureContext
    ? ""
    : "Browsers allow audio worklets over https or on localhost only.";

/** See playback.js. */
export async function play({ parameters, sound, meter, signal, keep, slow }) {
  const node = await sound.player(slow ? 0.6 : 0.12); // generation near real time needs a larger buffer
  signal.throwIfAborted();
  const resampler = sound.rate === RATE ? null : new Resampler(RATE, sound.rate);
  const recording = new Recording(RATE);
  const feed = (samples) => samples.length && node.port.postMessage({ samples }, [samples.buffer]);
  const socket = new WebSocket(urlOf(location.origin.replace(/^http/, "ws") + "/ws"));
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
        if (message.type === "error") reject(serviceErrorOf(message));
        if (message.type === "completion") {
          complete = true;
          if (resampler) feed(resampler.flush());
          node.port.postMessage({ end: true });
          socket.close();
        }
      };
      socket.onclose = () => complete || closeError(parameters, recording.seconds).then(reject);
      node.port.onmessage = ({ data }) => {
        if (data.played !== undefined) meter.played(data.played / sound.rate);
        if (data.event === "started") meter.played(0);
        if (data.event === "underrun") meter.underrun();
        if (data.event === "ended") resolve();
      };
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  } finally {
    socket.onclose = null;
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "cancel" })); // no effect after completion
    socket.close();
    node.port.onmessage = null;
    node.port.postMessage({ stop: true });
    node.disconnect();
  }
}

/** A WebSocket does not expose why it was refused; HTTP does. */
async function closeError(parameters, seconds) {
  if (seconds) return new NetworkError(`the stream was aborted after ${seconds.toFixed(1)} s: the audio is incomplete`);
  return (await fetchError(parameters)) ?? new NetworkError("the WebSocket was closed before the first audio");
}

function serviceErrorOf({ code, message, retry_after: retryAfter }) {
  const status = STATUS[code] ?? (ENGINE_ERRORS.has(code) ? 500 : 422);
  return new ServiceError(status, message, code, retryAfter ?? null);
}
