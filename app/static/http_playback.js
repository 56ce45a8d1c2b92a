// Playback of raw samples from a streamed POST with an audio worklet: for requests that no URL and no /ws can hold.

import { client } from "./api.js";
import { NetworkError, floatOf } from "./client/index.js";
import { playSamples } from "./sample_playback.js";

export { unavailableReason } from "./client/pcm_player.js";

export const formats = () => ["int16"];

/** See playback.js. */
export function play({ parameters, ...output }) {
  return playSamples(receive(parameters, output), output);
}

async function* receive(parameters, { meter, signal }) {
  const response = await client.generate({ ...parameters, format: "raw_pcm" }, signal);
  meter.engine(response.headers.get("X-TTS-Engine"));
  const reader = response.body.getReader();
  let rest = new Uint8Array(0); // half a sample
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new NetworkError("the stream was aborted: the audio is incomplete");
    });
    if (done) return;
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    const samples = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
    rest = bytes.slice(2 * samples.length);
    if (samples.length) yield floatOf(samples);
  }
}
