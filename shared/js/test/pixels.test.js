// Pixels against those of Python (shared/fixtures/pixels.json). Node has no canvas: what the browser decodes is given.

import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {Damaged, INPUT_TYPES, PhoneModel, Published, resize, withoutExif} from '../src/browser.js';

const {pictures} = JSON.parse(readFileSync(new URL('../../fixtures/pixels.json', import.meta.url)));
const bytesOf = (text) => new Uint8Array(Buffer.from(text, 'base64'));
const sha256 = (data) => createHash('sha256').update(data).digest('hex');

for (const {name, width, height, rgb, sizes} of pictures) {
  const from = bytesOf(rgb);
  const rgba = new Uint8ClampedArray(width * height * 4).map((_, at) => (at % 4 === 3 ? 255 : from[(at >> 2) * 3 + at % 4]));
  for (const [size, expected] of Object.entries(sizes)) {
    test(`${name}, resized to ${size}`, () => {
      const pixels = resize({width, height, rgba}, Number(size));
      assert.equal(sha256(new Uint8Array(pixels.buffer)), expected);
    });
  }
}

for (const {name, file, without_exif: expected} of pictures) {
  test(`${name}, without EXIF`, () => {
    const found = Buffer.concat(withoutExif(bytesOf(file)));
    assert.equal(sha256(found), expected);
  });
}

test('some of the pictures have an EXIF to cut out', () => {
  const cut = pictures.filter(({file, without_exif: left}) => sha256(bytesOf(file)) !== left);
  assert.ok(cut.length >= 4);
});

test('what is cut off, or not a picture, is left as it is', () => {
  for (const {file} of pictures) {
    const whole = bytesOf(file);
    for (let length = 0; length < Math.min(whole.length, 200); length++) {
      const part = whole.subarray(0, length);
      assert.ok(Buffer.concat(withoutExif(part)).length <= part.length);
    }
  }
  assert.deepEqual(withoutExif(new Uint8Array([1, 2, 3])), [new Uint8Array([1, 2, 3])]);
});

// What is published ----------------------------------------------------------------------------------------------

const FILE = new TextEncoder().encode('a model');
const objects = {
  'models/flowers/latest.json': '{"version": "1", "sha256": "x"}',
  'models/flowers/1/manifest.json': '{"labels": ["daisy"]}',
  'models/flowers/1/model.tflite': FILE,
  'models/flowers/routing/1.json': '{"threshold": 0.5}',
};
const published = new Published({
  bucket: 'b',
  name: 'flowers',
  fetch: async (url) => {
    const [, name] = /\/v0\/b\/b\/o\/([^/?]+)\?alt=media$/.exec(url);
    const found = objects[decodeURIComponent(name)];
    return new Response(found ?? 'no', {status: found ? 200 : name.includes('broken') ? 500 : 404});
  },
});

test('pointer, manifest, file and routing are read where they lie', async () => {
  assert.equal((await published.latest()).version, '1');
  assert.deepEqual((await published.manifest('1')).labels, ['daisy']);
  assert.deepEqual(await published.file({version: '1', sha256: sha256(FILE)}), FILE);
  assert.equal((await published.routing('1')).threshold, 0.5);
});

test('a file with another checksum is not given out', async () => {
  await assert.rejects(published.file({version: '1', sha256: 'x'}), Damaged);
});

test('a missing routing is not an error, and a server that fails is one', async () => {
  assert.equal(await published.routing('2'), null);
  await assert.rejects(published.routing('broken'), ({status}) => status === 500);
  await assert.rejects(published.manifest('2'), ({status}) => status === 404);
});

// The model --------------------------------------------------------------------------------------------------------

class Tensor {
  static left = 0;
  constructor(data) { Tensor.left += 1; this.values = data; }
  async data() { return this.values; }
  delete() { Tensor.left -= 1; }
}
const litert = (input, run) => ({Tensor, loadAndCompile: async () => ({getInputDetails: () => [input], run})});
const INPUT = {shape: [1, 2, 2, 3], dtype: 'float32'};

test('the best label, its confidence and all probabilities; nothing stays in the memory of WebAssembly', async () => {
  const run = async () => [new Tensor(Float32Array.of(0.25, 0.75))];
  const model = await PhoneModel.load(FILE, {litert: litert(INPUT, run), labels: ['daisy', 'roses'], version: '1'});
  assert.equal(model.size, 2);
  const expected = {label: 'roses', confidence: 0.75, probabilities: {daisy: 0.25, roses: 0.75}, modelVersion: '1'};
  assert.deepEqual(await model.predict(new Float32Array(12)), expected);
  assert.equal(Tensor.left, 0);
});

test('a model of integers gets the pixels as bytes, and its answers are read by scale and zero point', async () => {
  const fed = [];
  const run = async (input) => {
    fed.push(input.values);
    return [new Tensor(Uint8Array.of(64, 192))];
  };
  const output = {shape: [1, 2], type: 'uint8', scale: 1 / 256, zero_point: 0};
  const integers = litert({...INPUT, dtype: 'uint8'}, run);
  const model = await PhoneModel.load(FILE, {litert: integers, labels: ['daisy', 'roses'], output, version: '1'});
  const pixels = Float32Array.of(0, 0.4, 0.6, 254.6, 255, 1, 2, 3, 4, 5, 6, 7);
  const expected = {label: 'roses', confidence: 0.75, probabilities: {daisy: 0.25, roses: 0.75}, modelVersion: '1'};
  assert.deepEqual(await model.predict(pixels), expected);
  assert.deepEqual(fed, [Uint8Array.of(0, 0, 1, 255, 255, 1, 2, 3, 4, 5, 6, 7)]);
  assert.equal(Tensor.left, 0);
});

test('an app can tell by the manifest whether it can feed a file', () => {
  assert.deepEqual(INPUT_TYPES, ['float32', 'uint8']);
});

test('a run that fails leaves nothing behind, either', async () => {
  const run = async () => { throw new Error('no such op'); };
  const model = await PhoneModel.load(FILE, {litert: litert(INPUT, run), labels: ['daisy']});
  await assert.rejects(model.predict(new Float32Array(12)), /no such op/);
  assert.equal(Tensor.left, 0);
});

test('a model that takes anything else is refused', async () => {
  for (const input of [{...INPUT, dtype: 'int32'}, {...INPUT, dtype: 'toString'}, {...INPUT, shape: [1, 2, 3, 3]}, {...INPUT, shape: [1, 2, 2, 1]}]) {
    await assert.rejects(PhoneModel.load(FILE, {litert: litert(input), labels: []}), /not one square RGB picture/);
  }
});
