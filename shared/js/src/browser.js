// Both models in a page: pixels, the phone's model on LiteRT.js, and a picture that the router can hand to either.
// Types: browser.d.ts.

import {decode, resize, toPng} from './pixels.js';

export {decode, resize, toPng, withoutExif} from './pixels.js';
export {Damaged, INPUT_TYPES, PhoneModel, Published, STORAGE} from './phone.js';

// A picture as the router passes it on: decoded once, resized for each model when it is asked.
export class Picture {
  static async of(bytes) {
    return Object.assign(new Picture(), {decoded: await decode(bytes)});
  }

  pixels(size) {
    return resize(this.decoded, size);
  }

  png(px) {
    return toPng(this.pixels(px), px);
  }
}
