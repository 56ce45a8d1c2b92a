// Plays samples through the audio worklet as they arrive, and records them for the download.

import { Recording, SAMPLE_RATE } from "./client/index.js";

/** speech: an async iterator of Float32Array. The others are those of play() in playback.js. */
export async function playSamples(speech, { sound, meter, signal, keep, slow }) {
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
