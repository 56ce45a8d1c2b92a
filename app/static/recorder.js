// A recording from the microphone.

const TYPES = [
  ["audio/webm;codecs=opus", "webm"],
  ["audio/mp4", "m4a"],
  ["audio/ogg;codecs=opus", "ogg"],
];
const LONGEST = 29.5; // seconds: the service takes 30

/** Why nothing can be recorded here; "" if it can. */
export function obstacle() {
  if (!isSecureContext) return "Browsers give the microphone over https or on localhost only.";
  if (!navigator.mediaDevices || !globalThis.MediaRecorder) return "This browser cannot record.";
  return "";
}

export class Recorder {
  #recorder;
  #context;
  #stream;
  #stopped;

  /** onProgress: told (seconds, loudness from 0 to 1) while it records. Raises an Error that says what to do. */
  static async start(onProgress) {
    let stream;
    try {
      // A voice as it is: what calls do against echo and noise takes from it what makes it one's own.
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: true };
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      const why =
        error.name === "NotAllowedError" ? "the page may not use it: allow it beside the address" : error.message;
      throw new Error(`There is no microphone for this (${why}).`, { cause: error });
    }
    return new Recorder(stream, onProgress);
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

  /** Resolves with the File, also when it stopped by itself because it was long enough. */
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
    const look = () => {
      if (this.#recorder.state !== "recording") return;
      analyser.getFloatTimeDomainData(samples);
      const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      const seconds = (performance.now() - began) / 1000;
      onProgress(seconds, Math.sqrt(loudest));
      if (seconds >= LONGEST) this.stop();
      else setTimeout(look, 60);
    };
    look();
  }
}
