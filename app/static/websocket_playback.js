// Playback of raw samples from the WebSocket /ws with an audio worklet: no codec, no container, lowest latency.

import { client } from "./api.js";
import { Recording, SAMPLE_RATE } from "./client/index.js";

export { unavailableReason } from "./client/pcm_player.js";

export const formats = () => ["float32"];

/** See playback.js. */
export async function play({ parameters, sound, meter, signal, keep, slow }) {
  const player = await sound.player(slow ? 0.6 : 0.12); // generation near real time needs a larger buffer
  const recording = new Recording(SAMPLE_RATE);
  player.onStart = () => meter.played(0);
  player.onProgress = (seconds) => meter.played(seconds);
  player.onUnderrun = () => meter.underrun();
  const ended = new Promise((resolve, reject) => {
    player.onEnd = resolve;
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  ended.catch(() => {}); // it may be aborted before anyone waits
  try {
    const speech = client.speak(parameters, { signal, onStatus: ({ engine }) => meter.engine(engine) });
    keep({ name: "speech.wav", blob: async () => recording.wav() });
    for await (const samples of speech) {
      recording.push(samples.slice());
      meter.received(recording.seconds);
      player.push(samples);
    }
    player.end();
    await ended;
  } finally {
    player.stop();
  }
}
