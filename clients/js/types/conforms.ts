// The code has the types of index.d.ts: compiled, never run.

import type * as declared from "csm-serve-client";
import { CsmClient, SAMPLE_RATE } from "../src/client.js";
import { NetworkError, ServiceError } from "../src/errors.js";
import { Microphone, MicrophoneError } from "../src/microphone.js";
import { PcmPlayer } from "../src/pcm_player.js";
import { RealtimeSocket } from "../src/realtime_socket.js";
import { Recording, floatOf, wavOf } from "../src/wav.js";

export const code: typeof declared = {
  CsmClient,
  Microphone,
  MicrophoneError,
  NetworkError,
  PcmPlayer,
  RealtimeSocket,
  Recording,
  SAMPLE_RATE,
  ServiceError,
  floatOf,
  wavOf,
};

type Undeclared<Code, Declared> = Exclude<keyof Code, keyof Declared>;

// What the code has and index.d.ts does not name.
export const undeclared: never[] = [] as (
  | Undeclared<CsmClient, declared.CsmClient>
  | Undeclared<Microphone, declared.Microphone>
  | Undeclared<PcmPlayer, declared.PcmPlayer>
  | Undeclared<RealtimeSocket, declared.RealtimeSocket>
  | Undeclared<Recording, declared.Recording>
  | Undeclared<ServiceError, declared.ServiceError>
)[];
