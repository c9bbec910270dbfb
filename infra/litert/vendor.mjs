// `node vendor.mjs NODE_MODULES FOLDER`: the files of LiteRT.js that a page without threads and WebGPU loads.

import {copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';

const [modules, folder] = process.argv.slice(2);
const from = (...parts) => join(modules, '@litertjs', ...parts);
const text = (...parts) => readFileSync(from(...parts), 'utf8').replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n');
rmSync(folder, {recursive: true, force: true});
mkdirSync(folder, {recursive: true});

// With relaxed SIMD, and for browsers that have none.
for (const build of ['litert_wasm_internal', 'litert_wasm_compat_internal']) {
  for (const ending of ['js', 'wasm']) copyFileSync(from('core', 'wasm', `${build}.${ending}`), join(folder, `${build}.${ending}`));
}
writeFileSync(join(folder, 'wasm-utils.js'), text('wasm-utils', 'dist', 'index.js'));
// A page knows no bare names, and an import map would be a script inside it, which the console's policy forbids.
const parts = text('core', 'dist', 'index.js').split('from "@litertjs/wasm-utils"');
if (parts.length !== 2) throw new Error(`@litertjs/core imports @litertjs/wasm-utils ${parts.length - 1} times, not once`);
// The last one: without it the folder counts as empty.
writeFileSync(join(folder, 'index.js'), parts.join('from "./wasm-utils.js"'));
