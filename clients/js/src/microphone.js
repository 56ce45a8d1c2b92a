// The microphone: permission, and a stream of 16-bit PCM at 24 kHz for a conversation.

const MODULE = new URL("./microphone_worklet.js", import.meta.url).href;

/** The microphone cannot be used; the message says why. */
export class MicrophoneError extends Error {
  name = "MicrophoneError";
}

/** The reason why the microphone is unavailable; "" if it is available. */
export function unavailableReason() {
  if (!isSecureContext) return "Browsers allow the microphone over https or on localhost only.";
  if (!navigator.mediaDevices) return "This browser has no access to a microphone.";
  return "";
}

/**
 * A MediaStream with these audio constraints. Throws MicrophoneError.
 * @param {MediaTrackConstraints} audio
 */
export async function openStream(audio) {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const { name, message } = /** @type {DOMException} */ (error);
    const reason = name === "NotAllowedError" ? "permission denied: allow it in the address bar" : message;
    throw new MicrophoneError(`The microphone is not available (${reason}).`, { cause: error });
  }
}

export class Microphone {
  #stream;
  #context;

  /**
   * onAudio: called with (pcm, level) 25 times a second: an ArrayBuffer of int16 at 24 kHz, and the peak from 0 to 1.
   * onLost: called if the device is unplugged or its permission withdrawn. Throws MicrophoneError.
   * @param {(pcm: ArrayBuffer, level: number) => void} onAudio
   * @param {() => void} onLost
   */
  static async open(onAudio, onLost) {
    const stream = await openStream({ echoCancellation: true, noiseSuppression: true, autoGainControl: true });
    const microphone = new Microphone(stream);
    try {
      await microphone.#listen(onAudio, onLost);
    } catch (error) {
      microphone.close();
      throw new MicrophoneError(`The microphone is not available (${/** @type {Error} */ (error).message}).`, { cause: error });
    }
    return microphone;
  }

  /** @param {MediaStream} stream */
  constructor(stream) {
    this.#stream = stream;
    this.#context = new AudioContext(); // at the device's rate: Firefox connects no stream to a context of another
  }

  /**
   * @param {(pcm: ArrayBuffer, level: number) => void} onAudio
   * @param {() => void} onLost
   */
  async #listen(onAudio, onLost) {
    await this.#context.audioWorklet.addModule(MODULE);
    const mono = /** @type {AudioWorkletNodeOptions} */ ({ numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const node = new AudioWorkletNode(this.#context, "microphone", mono);
    node.port.onmessage = ({ data }) => onAudio(data.pcm, data.level);
    for (const track of this.#stream.getTracks()) track.onended = onLost;
    this.#context.createMediaStreamSource(this.#stream).connect(node);
    await this.#context.resume();
  }

  close() {
    for (const track of this.#stream.getTracks()) track.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }
}
