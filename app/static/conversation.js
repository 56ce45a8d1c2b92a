// A voice conversation over WS /v1/realtime: sends what the microphone hears, plays and shows what comes back.

import { AnswerPlayer } from "./answer_player.js";
import { RealtimeSocket } from "./realtime_socket.js";

const DEFAULT_VOICE = "alloy"; // the protocol's
const RESTORED_TURNS = 40;
const SHORTEST_TURN = 150; // milliseconds of push-to-talk

/**
 * States: "connecting", "lost" (a new connection is attempted), "listening", "hearing" (the user speaks), "thinking",
 * "speaking".
 */
export class Conversation {
  #socket;
  #player;
  #captions;
  #settings;
  #show;
  #response = null; // id of the one in progress
  #silenced = null; // id of the one that was interrupted: more of it may be on its way
  #waiting = false; // another is to be asked for when that one is done
  #held = null; // since when the button is held, in push-to-talk
  #state = "connecting";

  /**
   * settings: {voice, pushToTalk}. show: {state(name), session(csm), latency(metadata), problem(text)}, called with
   * what changes, and refused(error), called when the conversation cannot go on.
   */
  constructor({ sound, captions, settings, show }) {
    this.#captions = captions;
    this.#settings = settings;
    this.#show = show;
    this.#player = new AnswerPlayer(sound, {
      onStart: () => this.#enter("speaking"),
      onEnd: () => this.#state === "speaking" && this.#enter("listening"),
    });
    this.#enter("connecting");
    this.#socket = new RealtimeSocket({
      onEvent: (event) => this.#on(event),
      onLost: () => this.#onLost(),
      onRefused: (error) => show.refused(error),
    });
  }

  close() {
    this.#socket.close();
    this.#player.stop();
  }

  /** Applies {voice, pushToTalk}. */
  configure(settings) {
    if (settings.pushToTalk !== this.#settings.pushToTalk) {
      this.#held = null;
      this.#socket.send("input_audio_buffer.clear");
    }
    this.#settings = settings;
    const detection = settings.pushToTalk ? null : { type: "server_vad" };
    const audio = { input: { turn_detection: detection }, output: { voice: settings.voice || DEFAULT_VOICE } };
    this.#socket.send("session.update", { session: { type: "realtime", audio } });
  }

  /** Takes audio of the microphone: an ArrayBuffer of int16 at 24 kHz. */
  hear(pcm) {
    const ready = this.#state !== "connecting" && this.#state !== "lost";
    if (ready && (!this.#settings.pushToTalk || this.#held !== null))
      this.#socket.send("input_audio_buffer.append", { audio: btoa(String.fromCharCode(...new Uint8Array(pcm))) });
  }

  /** Begins a turn, in push-to-talk. */
  press() {
    if (this.#held !== null || this.#state === "connecting" || this.#state === "lost") return;
    this.interrupt();
    this.#socket.send("input_audio_buffer.clear");
    this.#held = performance.now();
    this.#enter("hearing");
  }

  /** Ends the turn, and asks for an answer. */
  release() {
    if (this.#held === null) return;
    const milliseconds = performance.now() - this.#held;
    this.#held = null;
    if (milliseconds < SHORTEST_TURN) {
      this.#show.problem("Hold the button while you speak.");
      this.#enter("listening");
      return;
    }
    this.#socket.send("input_audio_buffer.commit");
    this.#enter("thinking");
    if (this.#response) this.#waiting = true;
    else this.#socket.send("response.create");
  }

  /** Ends the answer that is being given. */
  interrupt() {
    if (this.#response) this.#socket.send("response.cancel");
    this.#fallSilent();
    if (this.#state === "speaking" || this.#state === "thinking") this.#enter("listening");
  }

  /** Stops playback at once, and tells the service how much was heard: only that stays in the conversation. */
  async #fallSilent() {
    this.#silenced = this.#response;
    const heard = await this.#player.stop();
    if (!heard) return;
    this.#captions.note(heard.itemId, "interrupted");
    const { itemId, milliseconds } = heard;
    this.#socket.send("conversation.item.truncate", { item_id: itemId, content_index: 0, audio_end_ms: milliseconds });
  }

  #on(event) {
    switch (event.type) {
      case "session.created":
        this.#show.session(event.session.csm ?? {});
        this.configure(this.#settings);
        this.#restore();
        return this.#enter("listening");
      case "input_audio_buffer.speech_started":
        this.#fallSilent();
        this.#captions.begin(event.item_id, "user");
        return this.#enter("hearing");
      case "input_audio_buffer.speech_stopped":
        return this.#enter("thinking");
      case "input_audio_buffer.committed":
        return this.#captions.begin(event.item_id, "user");
      case "conversation.item.input_audio_transcription.delta":
        return this.#captions.append(event.item_id, event.delta);
      case "conversation.item.input_audio_transcription.completed":
        return this.#captions.set(event.item_id, event.transcript, event.transcript ? "" : "no words understood");
      case "conversation.item.input_audio_transcription.failed":
        return this.#captions.note(event.item_id, `not understood: ${event.error.message}`);
      case "response.created":
        this.#response = event.response.id;
        return;
      case "response.output_audio_transcript.delta":
        if (event.response_id === this.#silenced) return;
        this.#captions.begin(event.item_id, "assistant");
        return this.#captions.append(event.item_id, event.delta);
      case "response.output_audio.delta":
        if (event.response_id !== this.#silenced)
          this.#player.push(event.response_id, event.item_id, event.delta);
        return;
      case "response.done":
        return this.#onDone(event.response);
      case "conversation.item.truncated":
        return this.#socket.send("conversation.item.retrieve", { item_id: event.item_id });
      case "conversation.item.retrieved":
        return this.#captions.set(event.item.id, event.item.content[0]?.transcript ?? "", "interrupted");
      case "error":
        return this.#show.problem(event.error.message);
    }
  }

  #onDone({ id, status, status_details: details, metadata }) {
    this.#response = null;
    this.#player.end(id);
    if (metadata?.total_ms) this.#show.latency(metadata);
    if (status === "failed") this.#show.problem(`No answer: ${details?.error?.message ?? "the service failed"}`);
    if (this.#waiting) {
      this.#waiting = false;
      this.#socket.send("response.create");
    } else if (this.#state === "thinking" && !this.#player.playing && status !== "cancelled") {
      this.#enter("listening");
    }
  }

  /** A new connection knows nothing of what was said on the one before. */
  #restore() {
    for (const { role, text } of this.#captions.turns.slice(-RESTORED_TURNS)) {
      const content = [{ type: role === "user" ? "input_text" : "output_text", text }];
      this.#socket.send("conversation.item.create", { item: { type: "message", role, content } });
    }
  }

  #onLost() {
    this.#player.stop();
    this.#response = this.#held = null;
    this.#waiting = false;
    this.#enter("lost");
  }

  #enter(state) {
    this.#state = state;
    this.#show.state(state);
  }
}
