// Client of csm-serve for browsers and Node: see README.md.

export { CsmClient, SAMPLE_RATE } from "./client.js";
export { NetworkError, ServiceError } from "./errors.js";
export { Microphone, MicrophoneError } from "./microphone.js";
export { PcmPlayer } from "./pcm_player.js";
export { RealtimeSocket } from "./realtime_socket.js";
export { Recording, floatOf, wavOf } from "./wav.js";
