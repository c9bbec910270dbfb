// From the bytes of a JPEG or PNG to what both models take: the project's one definition of resizing, in a page.
// Bit for bit what Python's `dualdeploy.images` gives: shared/fixtures/pixels.json. Types: browser.d.ts.

const f32 = Math.fround;

// Decoded as stored: not turned by EXIF, no colour profile applied. Of a picture with transparency the colours below
// alpha 0 are lost, because a canvas keeps them multiplied.
export async function decode(bytes) {
  // imageOrientation 'none' is an old name of 'from-image': hiding the EXIF is the only way that leaves a picture be.
  const file = new Blob(withoutExif(bytes));
  const bitmap = await createImageBitmap(file, {colorSpaceConversion: 'none', premultiplyAlpha: 'none'});
  const {width, height} = bitmap;
  const context = canvas(width, height).getContext('2d', {willReadFrequently: true});
  // One to one: scaling by drawImage is another definition.
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return {width, height, rgba: context.getImageData(0, 0, width, height).data};
}

// The file in parts, without what turns it: a JPEG's APP1 segments that begin with "Exif", a PNG's eXIf chunks. What is
// neither, or is cut off, is left as it is: its decoder judges it.
export function withoutExif(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kept = [];
  let from = 0;
  for (const [start, end] of exifParts(bytes, view)) {
    if (end > bytes.length) break;
    kept.push(bytes.subarray(from, start));
    from = end;
  }
  return [...kept, bytes.subarray(from)];
}

function* exifParts(bytes, view) {
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (bytes[0] === 0xff && bytes[1] === 0xd8) {
    // Segments up to the scan (SDA): marker, length, content. ITU-T T.81, annex B.
    for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
      if (bytes[at + 1] === 0xff) { at += 1; continue; } // fill bytes before a marker
      const next = at + 2 + view.getUint16(at + 2);
      if (bytes[at + 1] === 0xe1 && text(at + 4, 4) === 'Exif') yield [at, next];
      at = next;
    }
  } else if (text(1, 3) === 'PNG') {
    for (let at = 8; at + 12 <= bytes.length;) {
      const next = at + 12 + view.getUint32(at);
      if (text(at + 4, 4) === 'eXIf') yield [at, next];
      at = next;
    }
  }
}

// Bilinear, half-pixel centres, no antialiasing, aspect not kept: [size, size, 3], 0 to 255. Every step in float32, as
// in TensorFlow's kernel.
export function resize({width, height, rgba}, size) {
  const across = neighbours(width, size);
  const down = neighbours(height, size);
  const out = new Float32Array(size * size * 3);
  let to = 0;
  for (let y = 0; y < size; y++) {
    const top = down.lower[y] * width;
    const bottom = down.upper[y] * width;
    const dy = down.way[y];
    for (let x = 0; x < size; x++) {
      const left = across.lower[x];
      const right = across.upper[x];
      const dx = across.way[x];
      const a = (top + left) * 4, b = (top + right) * 4, c = (bottom + left) * 4, d = (bottom + right) * 4;
      for (let channel = 0; channel < 3; channel++) {
        const upper = f32(rgba[a + channel] + f32((rgba[b + channel] - rgba[a + channel]) * dx));
        const lower = f32(rgba[c + channel] + f32((rgba[d + channel] - rgba[c + channel]) * dx));
        out[to++] = f32(upper + f32(f32(lower - upper) * dy));
      }
    }
  }
  return out;
}

function neighbours(length, size) {
  const lower = new Int32Array(size), upper = new Int32Array(size), way = new Float32Array(size);
  const scale = f32(length / size);
  for (let i = 0; i < size; i++) {
    const position = f32(f32(f32(i + 0.5) * scale) - 0.5);
    const before = Math.floor(position);
    lower[i] = Math.max(before, 0);
    upper[i] = Math.min(Math.ceil(position), length - 1);
    way[i] = f32(position - before);
  }
  return {lower, upper, way};
}

// What to send to the cloud: a PNG of the resized picture. Some 40 KB at 224 px whatever the photo's size, the same
// answer, and no place or time of the photo in it.
export async function toPng(pixels, size) {
  const rgba = new Uint8ClampedArray(size * size * 4).fill(255);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    for (let channel = 0; channel < 3; channel++) rgba[to + channel] = Math.round(pixels[from + channel]);
  }
  const target = canvas(size, size);
  target.getContext('2d').putImageData(new ImageData(rgba, size, size), 0, 0);
  if (target.convertToBlob) return target.convertToBlob({type: 'image/png'});
  return new Promise((resolve) => target.toBlob(resolve, 'image/png'));
}

function canvas(width, height) {
  if (globalThis.OffscreenCanvas) return new OffscreenCanvas(width, height);
  return Object.assign(document.createElement('canvas'), {width, height});
}
