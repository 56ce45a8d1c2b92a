// A voice conversation over WS /v1/realtime: sends what the microphone hears, plays and shows what comes back.

import { AnswerPlayer } from "./answer_player.js";
import { client } from "./api.js";

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
  #asked = false; // for one that has not been created yet
  #waiting = false; // another is to be asked for when that one is done
  #typed = 0; // messages so far
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
    this.#socket = client.converse({
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
    if (this.#connected && (!this.#settings.pushToTalk || this.#held !== null))
      this.#socket.send("input_audio_buffer.append", { audio: btoa(String.fromCharCode(...new Uint8Array(pcm))) });
  }

  /** Begins a turn, in push-to-talk. */
  press() {
    if (this.#held !== null || !this.#connected) return;
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
    this.#ask();
  }

  /** Adds a typed message and asks for an answer to it. Without a connection it is kept until there is one. */
  async say(text) {
    const id = `typed_${Date.now()}_${++this.#typed}`;
    this.#captions.begin(id, "user");
    this.#captions.set(id, text);
    if (!this.#connected) {
      this.#waiting = true; // the captions are restored then, this one with them
      return;
    }
    this.#socket.send("conversation.item.create", { item: typedMessage("user", text, id) });
    if (this.#response) this.#socket.send("response.cancel");
    await this.#fallSilent(); // what was heard of the last answer is part of the question
    if (this.#connected) {
      this.#enter("thinking");
      this.#ask();
    } else {
      this.#waiting = true;
    }
  }

  get #connected() {
    return this.#state !== "connecting" && this.#state !== "lost";
  }

  #ask() {
    if (this.#response || this.#asked) {
      this.#waiting = true;
      return;
    }
    this.#asked = true;
    this.#socket.send("response.create");
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
        this.#enter("listening");
        return this.#askAgain();
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
        this.#asked = false;
        if (this.#waiting) {
          this.#silenced = this.#response; // there is more to answer by now
          this.#socket.send("response.cancel");
        }
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
        this.#asked = false;
        return this.#show.problem(event.error.message);
    }
  }

  #onDone({ id, status, status_details: details, metadata }) {
    this.#response = null;
    this.#player.end(id);
    if (metadata?.total_ms) this.#show.latency(metadata);
    if (status === "failed") this.#show.problem(`No answer: ${details?.error?.message ?? "the service failed"}`);
    if (this.#waiting) {
      this.#askAgain();
    } else if (this.#state === "thinking" && !this.#player.playing && status !== "cancelled") {
      this.#enter("listening");
    }
  }

  #askAgain() {
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#enter("thinking");
    this.#ask();
  }

  /** A new connection knows nothing of what was said on the one before. */
  #restore() {
    for (const { role, text } of this.#captions.turns.slice(-RESTORED_TURNS)) {
      this.#socket.send("conversation.item.create", { item: typedMessage(role, text) });
    }
  }

  #onLost() {
    this.#player.stop();
    this.#response = this.#held = null;
    this.#waiting = this.#asked = false;
    this.#enter("lost");
  }

  #enter(state) {
    this.#state = state;
    this.#show.state(state);
  }
}

function typedMessage(role, text, id) {
  const content = [{ type: role === "user" ? "input_text" : "output_text", text }];
  return { type: "message", role, content, ...(id && { id }) };
}
