// An app with both models, in a page. What an app has is ./client, as apps take it; what is here is the page around it.

import {Picture, PhoneModel, Published} from './client/browser.js';
import {Router, gateway, policyOf} from './client/router.js';

const page = document.getElementById('simulator');
const by = (id) => document.getElementById(id);
const {dataset, name, bucket, litert: folder, cloud} = page.dataset;

// How often phones' files are looked at: an app does so when it starts, a page that shows a rollback cannot wait so long.
const LOOKS_MS = 5000;
const SHOWN = 30;
const percent = (share) => `${(share * 100).toFixed(1).replace(/\.0$/, '')} %`;

// Both at this page's own address, which passes them on: see console/simulator.py.
const published = new Published({bucket, name, storage: ''});
const problems = new Map();
let litert;
let phone;
let pointer;
let routing;
let chosen = null;
let current;
let judged = '';
let turn = 0;
let right = 0;
let known = 0;
let next;
let predicted = Promise.resolve();

const router = new Router({
  phone: (picture) => {
    const answer = phone.predict(picture.pixels(phone.size));
    predicted = Promise.allSettled([predicted, answer]);
    return answer;
  },
  cloud: gateway({url: '', dataset, fetch: (...request) => fetch(...request)}),
  mayAsk: () => (by('airplane').checked ? 'airplane' : cloud === 'there' ? '' : 'not_set_up'),
});

// The phone's file ---------------------------------------------------------------------------------------------

async function start() {
  // LiteRT.js writes its notes as errors.
  self.Module = {print() {}, printErr() {}};
  litert = await import(`${folder}index.js`);
  await litert.loadLiteRt(folder);
  await follow();
  next = setTimeout(look, LOOKS_MS);
  document.addEventListener('visibilitychange', look);
}

// What a phone does when its app starts: look at the pointer, fetch what is new, check it, and only then take it.
async function follow() {
  const latest = await published.latest();
  if (latest.version !== pointer?.version) {
    const began = performance.now();
    const [bytes, manifest] = await Promise.all([published.file(latest), published.manifest(latest.version)]);
    const loaded = await PhoneModel.load(bytes, {litert, labels: manifest.labels, version: latest.version});
    const before = phone;
    [phone, pointer] = [loaded, latest];
    // Its memory is given back once its last answer is there.
    predicted.then(() => before?.delete());
    const size = bytes.length < 1e5 ? `${(bytes.length / 1e3).toFixed(1)} KB` : `${(bytes.length / 1e6).toFixed(2)} MB`;
    const took = `${Math.round(performance.now() - began)} ms`;
    const accuracy = manifest.accuracy === undefined ? '' : `, right in ${percent(manifest.accuracy)}`;
    by('file').textContent = `${before ? 'Phones now have' : 'Phones have'} version ${latest.version}: `
      + `${manifest.variant ?? ''} ${size}${accuracy}. Fetched, checked by SHA-256 and loaded in ${took}.`;
  }
  // The threshold is for a pair of models, so it changes with either of them.
  const before = router.policy;
  routing = await published.routing(pointer.version);
  applyPolicy();
  if (current && (judged !== pointer.version || before.threshold !== router.policy.threshold)) await again();
}

async function look() {
  clearTimeout(next);
  if (document.visibilityState === 'visible' && !by('airplane').checked) {
    // No network, or a service that is being replaced: what is loaded goes on.
    await follow().then(() => complain('file', ''), (error) => {
      if (!(error instanceof TypeError)) complain('file', `${error.message}. What is loaded goes on.`);
    });
  }
  clearTimeout(next);
  next = setTimeout(look, LOOKS_MS);
}

// What the app is told -----------------------------------------------------------------------------------------

function applyPolicy() {
  const policy = policyOf(routing, pointer.sha256);
  if (chosen !== null) policy.threshold = chosen;
  router.policy = policy;
  router.mode = by('mode').value || undefined;
  router.budgetMs = Math.max(1, Number(by('budget').value) || 1);
  by('threshold').value = policy.threshold;
  by('threshold-says').textContent = policy.threshold > 1 ? 'never' : percent(policy.threshold);
  by('threshold').setAttribute('aria-valuetext', by('threshold-says').textContent);
  by('published').disabled = chosen === null;
  movePoint(policy.threshold);
}

// The point of the curve that the threshold stands for: the pictures below it are asked about.
function movePoint(threshold) {
  const curve = by('curve');
  if (!curve) return;
  const rows = JSON.parse(curve.dataset.rows);
  const points = curve.querySelector('.curve').getAttribute('points').split(' ').map((each) => each.split(','));
  let at = 0;
  rows.forEach((row, place) => { if (row[2] <= threshold) at = place; });
  let dot = curve.querySelector('.chosen');
  if (!dot) {
    dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    dot.setAttribute('class', 'chosen');
    dot.setAttribute('r', '5');
    curve.append(dot);
  }
  dot.setAttribute('cx', points[at][0]);
  dot.setAttribute('cy', points[at][1]);
  const isPublished = chosen === null && routing?.share !== null && routing?.share !== undefined;
  const [share, accuracy] = isPublished ? [routing.share, routing.accuracy] : rows[at];
  by('curve-says').textContent = `Of the held-out pictures ${percent(share)} are sent with it, and ${percent(accuracy)} are right.`;
}

// A picture ----------------------------------------------------------------------------------------------------

async function take(bytes, title, label = '') {
  let picture;
  try {
    picture = await Picture.of(new Uint8Array(bytes));
  } catch {
    complain('picture', `${title} is not a picture that this browser can decode: take a JPEG or PNG file.`);
    return;
  }
  complain('picture', '');
  current = {picture, title, label};
  show(picture.decoded, title);
  await again();
}

// As the models see it: not turned by EXIF.
function show({width, height, rgba}, title) {
  const canvas = by('picture');
  Object.assign(canvas, {width, height});
  canvas.getContext('2d').putImageData(new ImageData(rgba, width, height), 0, 0);
  canvas.setAttribute('aria-label', title);
}

async function again() {
  if (!phone) return;
  const {picture, title, label} = current;
  judged = pointer.version;
  turn += 1;
  const mine = turn;
  let answer;
  try {
    answer = await router.classify(picture);
  } catch (error) {
    answer = {error, label: 'no answer', latencyMs: 0, fallback: error.reason ?? 'no_device_model'};
  }
  // Another picture, or another setting, came in between.
  if (mine !== turn) return;
  const text = why(answer);
  const asked = answer.confidence === undefined ? '' : `, ${percent(answer.confidence)}`;
  by('answer').textContent = `${answer.label}${asked}`;
  by('why').textContent = text;
  bars(answer.probabilities);
  write(answer, title, label, text);
}

const REASONS = {
  airplane: () => 'airplane mode is on',
  not_set_up: () => 'the cloud model cannot be asked from here',
  timeout: () => `the cloud took longer than ${router.budgetMs} ms`,
  network: () => 'there is no network',
  busy: () => 'the quota is used up',
  server: () => 'no cloud model answers now',
  refused: () => 'the gateway refuses the request',
  breaker: () => 'after three failures in a row the app waits before it asks again',
  no_device_model: () => 'the phone has no model that runs',
};

function why({error, inferenceSource, asked, fallback, onDevice, confidence, label, run}) {
  const reason = fallback ? (REASONS[fallback] ?? (() => fallback))() : '';
  const from = percent(router.policy.threshold);
  if (error) return `Neither model answered: ${reason}.`;
  const unsure = onDevice ?? {confidence, label};
  const doubt = asked === 'label' ? `${unsure.label} is a label to ask about` : `unsure (${unsure.label}, ${percent(unsure.confidence)}, below ${from})`;
  if (inferenceSource === 'in_cloud') {
    const said = `The cloud answered (${run})`;
    if (reason) return `${said}: ${reason}.`;
    return asked ? `${said}: ${asked === 'unsure' ? 'the phone was ' : ''}${doubt}.` : `${said}: the app prefers it.`;
  }
  if (reason) return `The phone answered${asked ? `, though ${doubt}` : ''}: ${reason}.`;
  if (router.mode === 'only_on_device') return 'The phone answered: the app asks no other.';
  return `The phone answered: it is sure enough (${percent(confidence)}; ${from} will do).`;
}

function bars(probabilities = {}) {
  const rows = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 10);
  by('bars').hidden = rows.length === 0;
  by('bars').tBodies[0].replaceChildren(...rows.map(([label, share]) => {
    const meter = Object.assign(document.createElement('meter'), {min: 0, max: 1, value: share});
    meter.setAttribute('aria-label', label);
    return row([label], [meter, ` ${percent(share).replace(' ', '\u00a0')}`]);
  }));
}

function write(answer, title, label, text) {
  const own = answer.onDevice ?? (answer.inferenceSource === 'on_device' ? answer : null);
  const of = answer.error ? '–' : answer.inferenceSource === 'in_cloud' ? 'the cloud' : 'the phone';
  const isRight = label === answer.label;
  const mark = label ? (isRight ? ' (right)' : ` (it is ${label})`) : '';
  by('log').tBodies[0].prepend(row(
    [title], [own ? `${own.label}, ${percent(own.confidence)}` : '–'], [`${answer.label}${mark}`], [of],
    [`${Math.round(answer.latencyMs)} ms`], [text],
  ));
  by('log').hidden = false;
  [...by('log').tBodies[0].rows].slice(SHOWN).forEach((each) => each.remove());
  if (label) {
    known += 1;
    right += isRight;
  }
  by('score').textContent = known ? `${right} of ${known} answers to held-out pictures are right.` : 'Newest first.';
}

function row(...cells) {
  const line = document.createElement('tr');
  cells.forEach((parts) => line.insertCell().append(...parts));
  return line;
}

// One sentence about each thing; what is said of a picture stays while files are looked at.
function complain(about, text) {
  problems.set(about, text);
  const said = [...problems.values()].filter(Boolean).join(' ');
  if (by('problem').textContent !== said) by('problem').textContent = said;
  by('problem').hidden = !said;
}

// What people do -----------------------------------------------------------------------------------------------

for (const id of ['mode', 'budget', 'airplane']) {
  by(id).addEventListener('change', () => {
    by('network').textContent = by('airplane').checked ? 'airplane mode' : 'online';
    if (!pointer) return;
    applyPolicy();
    if (current) again();
  });
}
by('threshold').addEventListener('input', () => {
  chosen = Number(by('threshold').value);
  if (pointer) applyPolicy();
});
by('threshold').addEventListener('change', () => { if (current) again(); });
by('published').addEventListener('click', () => {
  chosen = null;
  applyPolicy();
  if (current) again();
});
by('own').addEventListener('change', async () => {
  const [file] = by('own').files;
  if (file) await take(await file.arrayBuffer(), file.name);
});
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  by('drop').classList.add('dropping');
});
document.addEventListener('dragleave', () => by('drop').classList.remove('dropping'));
document.addEventListener('drop', async (event) => {
  event.preventDefault();
  by('drop').classList.remove('dropping');
  const [file] = event.dataTransfer.files;
  if (file) await take(await file.arrayBuffer(), file.name);
});
for (const button of page.querySelectorAll('[data-picture]')) {
  button.addEventListener('click', async () => {
    const image = button.querySelector('img');
    try {
      const found = await fetch(button.dataset.picture);
      if (!found.ok) throw new Error(`HTTP ${found.status}`);
      await take(await found.arrayBuffer(), image.alt, button.dataset.label);
    } catch (error) {
      complain('picture', `${image.alt} cannot be fetched: ${error.message}`);
    }
  });
}

start().catch((error) => {
  by('file').textContent = 'The phone has no model.';
  const why = error.status === 404 ? 'there is no such object; the channel firebase-storage (publishing.channels) writes it' : '';
  complain('file', `The phone's model cannot be run here: ${error.message}${why && `: ${why}`}. Load the page again to try again.`);
});
