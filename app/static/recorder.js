// Records a voice from the microphone.

import * as microphone from "./client/microphone.js";

const TYPES = [
  ["audio/webm;codecs=opus", "webm"],
  ["audio/mp4", "m4a"],
  ["audio/ogg;codecs=opus", "ogg"],
];
const MAX_SECONDS = 29.5; // the service accepts 30

/** The reason why recording is unavailable; "" if it is available. */
export function unavailableReason() {
  return microphone.unavailableReason() || (globalThis.MediaRecorder ? "" : "This browser cannot record.");
}

export class Recorder {
  #recorder;
  #context;
  #stream;
  #stopped;

  /** onProgress: called with (seconds, level from 0 to 1) while recording. Throws MicrophoneError. */
  static async start(onProgress) {
    // Echo cancellation and noise suppression would change the voice.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    return new Recorder(await microphone.openStream(audio), onProgress);
  }

  constructor(stream, onProgress) {
    const [type, extension] = TYPES.find(([each]) => MediaRecorder.isTypeSupported(each)) ?? ["", "webm"];
    const parts = [];
    this.#stream = stream;
    this.#recorder = new MediaRecorder(stream, type ? { mimeType: type, audioBitsPerSecond: 128_000 } : {});
    this.#recorder.ondataavailable = ({ data }) => parts.push(data);
    this.#stopped = new Promise((resolve) => {
      this.#recorder.onstop = () => resolve(new File(parts, `my-voice.${extension}`, { type: type.split(";")[0] }));
    });
    this.#recorder.start();
    this.#watch(onProgress);
  }

  /** Resolves with the File when recording ends, by `stop` or at MAX_SECONDS. */
  get file() {
    return this.#stopped;
  }

  stop() {
    if (this.#recorder.state === "recording") this.#recorder.stop();
    for (const track of this.#stream.getTracks()) track.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }

  #watch(onProgress) {
    this.#context = new AudioContext();
    const analyser = new AnalyserNode(this.#context, { fftSize: 1024 });
    this.#context.createMediaStreamSource(this.#stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const began = performance.now();
    const update = () => {
      if (this.#recorder.state !== "recording") return;
      analyser.getFloatTimeDomainData(samples);
      const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      const seconds = (performance.now() - began) / 1000;
      onProgress(seconds, Math.sqrt(loudest));
      if (seconds >= MAX_SECONDS) this.stop();
      else setTimeout(update, 60);
    };
    update();
  }
}
