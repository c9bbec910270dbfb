import type {Prediction, Routing} from './router.js';

/** As `getImageData` gives it: [height, width, 4], 0 to 255. */
export interface Decoded {
  width: number;
  height: number;
  rgba: Uint8ClampedArray;
}

/** Decodes a JPEG or PNG as it is stored: not turned by EXIF, without its colour profile. */
export function decode(bytes: Uint8Array): Promise<Decoded>;

/** The file in parts, without the EXIF that would turn it. */
export function withoutExif(bytes: Uint8Array): Uint8Array[];

/** [size, size, 3], 0 to 255: bit for bit `tf.image.resize(bilinear, antialias=False)`. */
export function resize(decoded: Decoded, size: number): Float32Array;

/** What to send to the cloud model. */
export function toPng(pixels: Float32Array, size: number): Promise<Blob>;

/** A picture that the router can hand to either model. */
export class Picture {
  /** Rejects when the bytes are not a picture that the browser can decode. */
  static of(bytes: Uint8Array): Promise<Picture>;
  readonly decoded: Decoded;
  pixels(size: number): Float32Array;
  png(px: number): Promise<Blob>;
}

export const STORAGE: string;

/** The file's SHA-256 is another one. */
export class Damaged extends Error {
  constructor(version: string, found: string);
}

export interface Pointer {
  v: number;
  name: string;
  version: string;
  model: string;
  manifest: string;
  sha256: string;
  size: number;
  min_app_version: string;
  previous: string;
}

export interface Manifest {
  version: string;
  sha256: string;
  size: number;
  labels: string[];
  input: {shape: number[]; type: string};
  output: {shape: number[]; type: string; scale?: number; zero_point?: number};
  [more: string]: unknown;
}

/** What is published under a name, over Cloud Storage for Firebase. Every method rejects with {status} on an HTTP error. */
export class Published {
  constructor(options: {bucket: string; name: string; storage?: string; fetch?: typeof globalThis.fetch});
  url(object: string): string;
  latest(): Promise<Pointer>;
  manifest(version: string): Promise<Manifest>;
  /** Rejects with Damaged. */
  file(of: {version: string; sha256: string}): Promise<Uint8Array>;
  /** null where nothing is published for the version. */
  routing(version: string): Promise<Routing | null>;
}

/** As much of @litertjs/core as is used; await its `loadLiteRt(folder)` once in a page, before. */
export interface LiteRt {
  loadAndCompile(file: Uint8Array, options: {accelerator: 'wasm'}): Promise<any>;
  Tensor: new (data: Float32Array | Uint8Array, shape: number[]) => any;
}

/** What a manifest's `input.type` may be for `PhoneModel`. */
export const INPUT_TYPES: readonly string[];

export class PhoneModel {
  /** Rejects when the file cannot be loaded, or takes anything but one square RGB picture of INPUT_TYPES. */
  static load(
    file: Uint8Array,
    options: {litert: LiteRt; labels: string[]; output?: Manifest['output']; version?: string},
  ): Promise<PhoneModel>;
  /** Side in pixels. */
  readonly size: number;
  readonly version: string;
  readonly labels: string[];
  /** `pixels` [size, size, 3] as `resize` gives them. */
  predict(pixels: Float32Array): Promise<Prediction>;
  delete(): void;
}
