// Scrolling waveform of the analyser's signal, drawn as bars.

const BAR = 3; // CSS pixels, including the space after it
const STEP = 1000 / 30; // milliseconds per bar

export class Waveform {
  #canvas;
  #paint;
  #peaks = [];
  #next = 0;
  #loudest = 0;
  #samples = null;
  #running = false;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#paint = canvas.getContext("2d");
    new ResizeObserver(() => this.#fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Draws until `stop`. */
  start(analyser) {
    this.#peaks = [];
    this.#samples ??= new Float32Array(analyser.fftSize);
    if (this.#running) return;
    this.#running = true;
    const frame = (now) => {
      if (!this.#running) return;
      this.#sample(analyser, now);
      this.#draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.#running = false;
    this.#draw();
  }

  #sample(analyser, now) {
    analyser.getFloatTimeDomainData(this.#samples);
    for (const sample of this.#samples.subarray(-1024)) this.#loudest = Math.max(this.#loudest, Math.abs(sample));
    if (now < this.#next) return;
    this.#peaks.push(this.#loudest);
    this.#loudest = 0;
    this.#next = Math.max(this.#next + STEP, now - STEP);
  }

  #fit() {
    const { clientWidth, clientHeight } = this.#canvas;
    this.#canvas.width = clientWidth * devicePixelRatio;
    this.#canvas.height = clientHeight * devicePixelRatio;
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const style = getComputedStyle(this.#canvas);
    const bars = Math.floor(width / BAR);
    const peaks = this.#peaks.slice(-bars);
    this.#paint.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    this.#paint.clearRect(0, 0, width, height);
    for (let bar = 0; bar < bars; bar++) {
      const peak = peaks[bar - (bars - peaks.length)];
      const size = Math.max(2, Math.sqrt(peak ?? 0) * height); // square root, because loudness is not linear in amplitude
      this.#paint.fillStyle = style.getPropertyValue(peak === undefined ? "--line" : "--accent");
      this.#paint.fillRect(bar * BAR, (height - size) / 2, BAR - 1, size);
    }
  }
}
