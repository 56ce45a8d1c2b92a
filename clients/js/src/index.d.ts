// Types of index.js.

/** The service's sample rate: 24000. */
export const SAMPLE_RATE: number;

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

/** Parameters of /tts/dialogue, beside those of /tts/generate. */
export interface DialogueParameters extends Omit<SpeechParameters, "text" | "voice_id"> {
  turns: { voice_id: string; text: string; gap_ms?: number }[];
  gap_ms?: number;
}

/** Parameters of /tts/generate and /ws; docs/api.md lists them all. */
export interface SpeechParameters {
  text: string;
  voice_id?: string;
  format?: "wav" | "mp3" | "fmp4" | "raw_pcm" | "webm" | "opus" | "flac" | "aac" | "mulaw" | "alaw";
  synthesis_temperature?: number;
  top_k?: number;
  cfg_guidance_weight?: number;
  voice_exaggeration_factor?: number;
  max_audio_length_ms?: number;
  seed?: number;
  [name: string]: unknown;
}

export interface SpeechStarted {
  type: "audio_status";
  status: "started";
  engine: string;
  [name: string]: unknown;
}

export interface VoiceDetails {
  seconds: number;
  has_transcript: boolean;
  preloaded: boolean;
  created: string;
  sha256: string;
  [name: string]: unknown;
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

export class CsmClient {
  /** WebSocket: the class to use where there is no global one. */
  constructor(options?: { url?: string; key?: string | (() => string); WebSocket?: any });
  call(path: string, options?: RequestInit): Promise<Response>;
  urlOf(path: string, parameters?: Record<string, string>): string;
  generate(parameters: SpeechParameters | DialogueParameters, signal?: AbortSignal): Promise<Response>;
  errorOf(parameters: SpeechParameters): Promise<Error | null>;
  voices(): Promise<string[]>;
  voice(id: string): Promise<VoiceDetails>;
  addVoice(
    file: Blob,
    details?: { voiceId?: string; transcript?: string; replace?: boolean },
  ): Promise<StoredVoice>;
  deleteVoice(id: string): Promise<void>;
  socket(path: string, parameters?: Record<string, string>): WebSocket;
  speak(
    parameters: Omit<SpeechParameters, "text" | "format"> & { text: string | AsyncIterable<string> | Iterable<string> },
    options?: { signal?: AbortSignal; onStatus?: (status: SpeechStarted) => void },
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
  push(samples: Float32Array): void;
  end(): void;
  stop(): Promise<number>;
}

/** The microphone cannot be used; the message says why. */
export class MicrophoneError extends Error {}

/** The microphone as 16-bit PCM at 24 kHz, 25 pieces a second. */
export class Microphone {
  static open(onAudio: (pcm: ArrayBuffer, level: number) => void, onLost: () => void): Promise<Microphone>;
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
