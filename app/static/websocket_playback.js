// Playback of raw samples from the WebSocket /ws with an audio worklet: no codec, no container, lowest latency.

import { client } from "./api.js";
import { playSamples } from "./sample_playback.js";

export { unavailableReason } from "./client/pcm_player.js";

export const formats = () => ["float32"];

/** See playback.js. */
export function play({ parameters, ...output }) {
  const { meter, signal } = output;
  return playSamples(client.speak(parameters, { signal, onStatus: ({ engine }) => meter.engine(engine) }), output);
}
