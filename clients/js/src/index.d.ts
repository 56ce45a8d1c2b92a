// Types of index.js. `tsc --project clients/js` checks that the code has them.

/** The service's sample rate, in Hz. */
export const SAMPLE_RATE: 24000;

/** An error response of the service. retryAfter: seconds. */
export class ServiceError extends Error {
  readonly status: number;
  readonly code: string;
  readonly retryAfter: number | null;
  readonly requestId: string | null;
  constructor(status: number, detail: string, code: string, retryAfter?: number | null, requestId?: string | null);
  static of(response: Response): Promise<ServiceError>;
  static ofMessage(message: { code: string; message: string; retry_after?: number }): ServiceError;
}

/** The request did not reach the service, or the response was aborted. */
export class NetworkError extends Error {}

export type AudioFormat =
  | "wav"
  | "mp3"
  | "fmp4"
  | "raw_pcm"
  | "webm"
  | "opus"
  | "flac"
  | "aac"
  | "mulaw"
  | "alaw"
  | "wav_mulaw"
  | "wav_alaw";

/** The recording of a voice that comes with its request: base64, or a URL, and the words spoken in it. */
export interface Reference {
  audio?: string;
  url?: string;
  transcript?: string;
}

/** How speech is generated and sent; docs/api.md explains each parameter. Omitted ones have the service's defaults. */
export interface SpeechOptions {
  format?: AudioFormat;
  sample_rate?: number;
  synthesis_temperature?: number;
  top_k?: number;
  cfg_guidance_weight?: number;
  voice_exaggeration_factor?: number;
  text_processing_chunk_size?: number;
  audio_tokens_per_slice?: number;
  remove_leading_milliseconds?: number;
  remove_trailing_milliseconds?: number;
  chunk_overlap_method?: "full" | "zero";
  crossfade_duration_milliseconds?: number;
  max_audio_length_ms?: number;
  normalize?: boolean;
  lexicon?: Record<string, string>;
  subtitles?: "srt" | "vtt";
  seed?: number;
}

/** Parameters of POST /tts/generate. */
export interface SpeechParameters extends SpeechOptions {
  text: string;
  voice_id?: string;
  /** In place of voice_id. */
  reference?: Reference;
}

export interface DialogueTurn {
  voice_id: string;
  text: string;
  /** Milliseconds before this turn, in place of the dialogue's. */
  gap_ms?: number;
}

/** Parameters of POST /tts/dialogue. */
export interface DialogueParameters extends SpeechOptions {
  turns: DialogueTurn[];
  gap_ms?: number;
}

/** Parameters of WS /ws, whose audio is float32. A text that is still being written comes in parts. */
export interface StreamParameters extends Omit<SpeechParameters, "text" | "format" | "sample_rate" | "subtitles"> {
  text: string | AsyncIterable<string> | Iterable<string>;
}

export interface SpeechStarted {
  type: "audio_status";
  status: "started";
  engine: string;
  [name: string]: unknown;
}

export interface MarkedWord {
  text: string;
  text_start: number;
  text_end: number;
  spoken: string;
  start_ms: number;
  end_ms: number;
  estimated: boolean;
}

/** When a text chunk and its words are said, in ms of the audio; `text_start` and `text_end` are code points. */
export interface Mark {
  type: "mark";
  text: string;
  text_start: number;
  text_end: number;
  start_ms: number;
  end_ms: number;
  words: MarkedWord[];
  [name: string]: unknown;
}

export interface VoiceDetails {
  id: string;
  seconds: number;
  has_transcript: boolean;
  preloaded: boolean;
  /** ISO 8601, in UTC. */
  created: string;
  sha256: string;
}

export interface StoredVoice {
  voice_id: string;
  message: string;
  warnings: string[];
}

export interface ConversationHandlers {
  /** An event of the service, as OpenAI's Realtime protocol has it. */
  onEvent(event: { type: string; [name: string]: any }): void;
  /** A connection was lost or refused; a new one is attempted. */
  onLost?(): void;
  /** The key is invalid; no new connection is attempted. */
  onRefused?(error: ServiceError): void;
}

export interface ClientOptions {
  /** Of the service; by default that of the page. */
  url?: string;
  /** An API key, or a function that returns it at each request. */
  key?: string | (() => string);
  /** The class to use where there is no global one, such as that of `ws`. */
  WebSocket?: new (url: string) => any;
}

export class CsmClient {
  constructor(options?: ClientOptions);
  call(path: string, options?: RequestInit): Promise<Response>;
  urlOf(path: string, parameters?: Record<string, string>): string;
  generate(parameters: SpeechParameters | DialogueParameters, signal?: AbortSignal): Promise<Response>;
  errorOf(parameters: SpeechParameters | DialogueParameters): Promise<Error | null>;
  voices(): Promise<string[]>;
  voice(id: string): Promise<VoiceDetails>;
  addVoice(
    file: Blob,
    details?: { voiceId?: string; transcript?: string; replace?: false } | { voiceId: string; transcript?: string; replace: boolean },
  ): Promise<StoredVoice>;
  deleteVoice(id: string): Promise<void>;
  socket(path: string, parameters?: Record<string, string>): WebSocket;
  speak(
    parameters: StreamParameters,
    options?: { signal?: AbortSignal; onStatus?: (status: SpeechStarted) => void; onMark?: (mark: Mark) => void },
  ): AsyncGenerator<Float32Array, void, void>;
  converse(handlers: ConversationHandlers): RealtimeSocket;
}

/** A connection to WS /v1/realtime that comes back by itself. */
export class RealtimeSocket {
  constructor(client: CsmClient, handlers: ConversationHandlers);
  /** Sends an event. Without a connection it is dropped. */
  send(type: string, fields?: Record<string, unknown>): void;
  close(): void;
}

/** Plays streamed samples in an AudioContext, through an audio worklet. */
export class PcmPlayer {
  onStart: () => void;
  onProgress: (seconds: number) => void;
  onUnderrun: () => void;
  onEnd: () => void;
  static open(context: AudioContext, options?: { lead?: number; destination?: AudioNode }): Promise<PcmPlayer>;
  private constructor(context: AudioContext, lead: number, destination: AudioNode);
  push(samples: Float32Array): void;
  end(): void;
  stop(): Promise<number>;
}

/** The microphone cannot be used; the message says why. */
export class MicrophoneError extends Error {}

/** The microphone as 16-bit PCM at 24 kHz, 25 pieces a second. */
export class Microphone {
  static open(onAudio: (pcm: ArrayBuffer, level: number) => void, onLost: () => void): Promise<Microphone>;
  private constructor(stream: MediaStream);
  close(): void;
}

/** Collects samples and writes them as a wav file. */
export class Recording {
  readonly rate: number;
  readonly seconds: number;
  constructor(rate: number);
  push(samples: Float32Array): void;
  wav(): Blob;
}

/** 16-bit samples, as the service sends them, from -1 to 1. */
export function floatOf(samples: Int16Array): Float32Array;

/** A 16-bit mono wav file. */
export function wavOf(samples: ArrayBuffer, rate: number): Blob;
