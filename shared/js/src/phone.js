// What a phone does, in a page: follow the pointer, download, check, run. LiteRT.js on WebAssembly, without WebGPU,
// threads or cross-origin isolation. Types: browser.d.ts.

// Cloud Storage for Firebase, over which phones read; a browser needs a CORS rule on the bucket.
export const STORAGE = 'https://firebasestorage.googleapis.com';

export class Damaged extends Error {
  constructor(version, found) {
    super(`the file of ${version} is damaged: its SHA-256 is ${found}; the one before it can go on`);
    this.name = 'Damaged';
  }
}

// The objects that are published under a name. `version` is empty for the one that the pointer names.
export class Published {
  constructor({bucket, name, storage = STORAGE, fetch = (...request) => globalThis.fetch(...request)}) {
    Object.assign(this, {bucket, name, storage, fetch});
  }

  url(object) {
    return `${this.storage}/v0/b/${encodeURIComponent(this.bucket)}/o/${encodeURIComponent(object)}?alt=media`;
  }

  async get(object, options = {}) {
    const response = await this.fetch(this.url(object), options);
    if (!response.ok) throw Object.assign(new Error(`${object}: HTTP ${response.status}`), {status: response.status});
    return response;
  }

  // Which file is to be used: version, model, manifest, sha256, size, min_app_version.
  async latest() {
    return (await this.get(`models/${this.name}/latest.json`, {cache: 'no-store'})).json();
  }

  async manifest(version) {
    return (await this.get(`models/${this.name}/${version}/manifest.json`)).json();
  }

  // The file, once its checksum is that of the manifest or pointer; throws Damaged.
  async file({version, sha256}) {
    const response = await this.get(`models/${this.name}/${version}/model.tflite`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const found = await hexDigest(bytes);
    if (found !== sha256) throw new Damaged(version, found);
    return bytes;
  }

  // When to ask the cloud, for `policyOf`; null where nothing is published for the version.
  async routing(version) {
    try {
      return await (await this.get(`models/${this.name}/routing/${version}.json`)).json();
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }
}

async function hexDigest(bytes) {
  // Only in a secure context: https, or localhost.
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

// What a model takes, by the type of its input: ours float32, those of Vertex AI's AutoML uint8; from 0 to 255 in both.
const PIXELS = Object.freeze({
  float32: (pixels) => pixels,
  uint8: (pixels) => Uint8Array.from(pixels, Math.round),
});

// The types of input, as a manifest names them, that this client can feed. An app that follows the pointer keeps the
// file that it has when a manifest names another one.
export const INPUT_TYPES = Object.freeze(Object.keys(PIXELS));

// One loaded .tflite file. `litert` is the module @litertjs/core, whose `loadLiteRt(folder)` was awaited once in this
// page; `labels` and `output` are the manifest's. Another version may be loaded beside this one.
export class PhoneModel {
  static async load(file, {litert, labels, output = {}, version = ''}) {
    const model = await litert.loadAndCompile(file, {accelerator: 'wasm'});
    const [input] = model.getInputDetails();
    const [, height, width, channels] = input.shape;
    if (height !== width || channels !== 3 || !Object.hasOwn(PIXELS, input.dtype)) {
      model.delete?.();
      const known = Object.keys(PIXELS).join(' or ');
      throw new TypeError(`the model takes ${input.dtype} [${input.shape}], not one square RGB picture of ${known}`);
    }
    const toInput = PIXELS[input.dtype];
    return Object.assign(new PhoneModel(), {litert, model, labels, output, version, toInput, size: height});
  }

  // `pixels` [size, size, 3] as `resize` gives them.
  async predict(pixels) {
    const {Tensor} = this.litert;
    const input = new Tensor(this.toInput(pixels), [1, this.size, this.size, 3]);
    let outputs = [];
    try {
      outputs = await this.model.run(input);
      return this.#prediction(await outputs[0].data());
    } finally {
      // WebAssembly's memory is not collected.
      input.delete();
      outputs.forEach((each) => each.delete());
    }
  }

  #prediction(values) {
    // Integers say a probability each by scale and zero point: the manifest's `output`.
    const {scale = 0, zero_point: zero = 0} = this.output;
    const scores = scale ? Array.from(values, (value) => scale * (value - zero)) : values;
    const best = scores.indexOf(Math.max(...scores));
    const probabilities = Object.fromEntries(this.labels.map((label, place) => [label, scores[place]]));
    return {label: this.labels[best], confidence: scores[best], probabilities, modelVersion: this.version};
  }

  delete() {
    this.model.delete?.();
  }
}
