// How loud a stream is, from 0 (60 dB below full scale, or silent) to 1.

const FLOOR_DB = -60;

export class LevelMeter {
  #source;
  #analyser;
  #samples;

  constructor(context, stream) {
    this.#analyser = new AnalyserNode(context, { fftSize: 1024 });
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    this.#source.connect(this.#analyser);
  }

  read() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let energy = 0;
    for (const sample of this.#samples) energy += sample * sample;
    const decibel = 10 * Math.log10(energy / this.#samples.length + 1e-12);
    return Math.min(1, Math.max(0, 1 - decibel / FLOOR_DB));
  }

  close() {
    this.#source.disconnect();
  }
}
