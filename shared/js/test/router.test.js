// The table of routing cases, which every client runs, and what is JavaScript's alone.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {Breaker, CloudUnavailable, InferenceMode, InferenceSource, Router, gateway, phoneHeaders, policyOf} from '../src/router.js';

const [header, ...lines] = readFileSync(new URL('../../fixtures/routing_cases.tsv', import.meta.url), 'utf8').trimEnd().split('\n');
const columns = header.split('\t');
const cases = new Map();
for (const line of lines) {
  const row = Object.fromEntries(line.split('\t').map((cell, place) => [columns[place], cell]));
  cases.set(row.case, [...cases.get(row.case) ?? [], row]);
}

const prediction = (cell) => {
  const [label, confidence] = cell.split(' ');
  return {label, confidence: Number(confidence)};
};

function phone(cell) {
  if (cell === 'fails') throw new Error('device');
  assert.notEqual(cell, 'not asked', 'the phone was asked');
  return prediction(cell);
}

function cloud(cell, said, sent) {
  assert.notEqual(cell, 'not asked', 'the cloud was asked');
  const {'X-Phone-Label': label, 'X-Phone-Confidence': confidence, 'X-Phone-Kept': kept} = phoneHeaders(said);
  assert.equal(said ? `${label} ${confidence} ${kept}` : 'nothing', sent);
  if (cell === 'hangs') return new Promise(() => {});
  if (cell === 'network') throw new TypeError('fetch failed');
  const [status, retryAfter] = cell.split(' ').map(Number);
  if (Number.isNaN(status)) return prediction(cell);
  // As `gateway` tells it.
  const reason = status === 429 ? 'busy' : status >= 500 ? 'server' : 'refused';
  throw new CloudUnavailable(reason, {status, retryAfter});
}

const told = (answer) => [
  answer.label, answer.inferenceSource,
  ...answer.asked ? [`asked=${answer.asked}`] : [], ...answer.fallback ? [`fallback=${answer.fallback}`] : [],
].join(' ');

for (const [name, steps] of cases) {
  test(name, async () => {
    let now;
    let step;
    const {mode, threshold, ask_about: labels} = steps[0];
    const router = new Router({
      phone: () => phone(step.phone),
      cloud: (_picture, _signal, _policy, said) => cloud(step.cloud, said, step.sent),
      mode,
      policy: {threshold: Number(threshold), askAbout: labels ? labels.split(',') : []},
      budgetMs: 5,
      breaker: new Breaker({now: () => now}),
      mayAsk: () => step.may_ask,
    });
    for (step of steps) {
      now = Number(step.at);
      const found = await router.classify('a picture').then(told, (error) => `error ${error.reason ?? error.message}`);
      assert.equal(found, step.expected, `at ${step.at}`);
    }
  });
}

test('the table has cases', () => assert.ok(cases.size > 30));

test('after a pause one request tries, and the others do not wait for it', async () => {
  let now = 0;
  let asked = 0;
  let answer;
  const breaker = new Breaker({failures: 1, now: () => now});
  const router = new Router({
    phone: () => ({label: 'daisy', confidence: 0.1}),
    cloud: () => { asked += 1; return new Promise((resolve) => { answer = resolve; }); },
    policy: {threshold: 0.5},
    breaker,
  });
  breaker.failed();
  now = 30;
  const first = router.classify();
  await new Promise(setImmediate);
  assert.equal((await router.classify()).fallback, 'breaker');
  answer({label: 'roses', confidence: 0.9});
  assert.equal((await first).label, 'roses');
  assert.equal(asked, 1);
});

test('an answer says how long it took, and what the phone had said', async () => {
  let now = 100;
  const router = new Router({
    phone: () => ({label: 'daisy', confidence: 0.1, probabilities: {daisy: 0.1}, modelVersion: 'p'}),
    cloud: () => { now += 40; return {label: 'roses', confidence: 0.9, modelVersion: 'c'}; },
    policy: {threshold: 0.5},
    clock: () => now,
  });
  assert.deepEqual(await router.classify(), {
    label: 'roses', confidence: 0.9, modelVersion: 'c', inferenceSource: 'in_cloud', asked: 'unsure', latencyMs: 40,
    onDevice: {label: 'daisy', confidence: 0.1, probabilities: {daisy: 0.1}, modelVersion: 'p', inferenceSource: 'on_device'},
  });
});

test('the request is stopped when its time is over', async () => {
  let signal;
  const router = new Router({
    phone: () => ({label: 'daisy', confidence: 0.1}),
    cloud: (_picture, given) => { signal = given; return new Promise(() => {}); },
    policy: {threshold: 0.5},
    budgetMs: 1,
  });
  await router.classify();
  assert.ok(signal.aborted);
});

test('a confidence that is not a number asks', async () => {
  const router = new Router({
    phone: () => ({label: 'daisy', confidence: NaN}), cloud: () => ({label: 'roses', confidence: 1}), policy: {threshold: 0.5},
  });
  assert.equal((await router.classify()).asked, 'unsure');
});

test('a mode that there is not is an error and not a guess', () => {
  assert.rejects(async () => new Router({phone, cloud, mode: 'prefer_cloud'}).classify('x'), /prefer_on_device/);
});

test('where neither answers, what the phone said stands in the cause', async () => {
  const router = new Router({phone: () => { throw new Error('no such op'); }, cloud: () => {}, mayAsk: () => 'offline'});
  await assert.rejects(router.classify(), (error) => error.reason === 'offline' && /no such op/.test(error.cause.message));
});

const ROUTING = {
  phone: {sha256: 'ab', version: '1'}, cloud: {run_id: 'flowers-1', input: {px: 48}}, mode: 'prefer_in_cloud', threshold: 0.6,
  ask_about: ['roses'],
};

test('the published object is for one file', () => {
  assert.deepEqual(policyOf(ROUTING, 'ab'), {mode: 'prefer_in_cloud', threshold: 0.6, askAbout: ['roses'], px: 48, run: 'flowers-1'});
  const none = {mode: 'prefer_on_device', threshold: 0, askAbout: [], px: 0, run: ''};
  assert.deepEqual(policyOf(ROUTING, 'cd'), none);
  assert.deepEqual(policyOf(null, 'ab'), none);
  assert.equal(policyOf({...ROUTING, cloud: null}, 'ab').px, 0);
});

test('the policy names the mode, and the app may overrule it', async () => {
  const models = {phone: () => ({label: 'daisy', confidence: 1}), cloud: () => ({label: 'roses', confidence: 1})};
  assert.equal((await new Router({...models, policy: policyOf(ROUTING, 'ab')}).classify()).inferenceSource, InferenceSource.IN_CLOUD);
  const mode = InferenceMode.ONLY_ON_DEVICE;
  assert.equal((await new Router({...models, policy: policyOf(ROUTING, 'ab'), mode}).classify()).inferenceSource, InferenceSource.ON_DEVICE);
});

// The gateway --------------------------------------------------------------------------------------------------

const answering = (status, body = {}, headers = {}) => async () => new Response(JSON.stringify(body), {status, headers});
const PICTURE = {png: (px) => new Blob([`png of ${px}`])};
const POLICY = {threshold: 0.5, px: 48};

test('the gateway is sent a PNG with the headers of the app', async () => {
  let asked;
  const send = async (address, options) => { asked = {address, ...options}; return answering(200, {label: 'roses'})(); };
  const ask = gateway({url: 'https://gateway/', dataset: 'a b', headers: async () => ({'X-Firebase-AppCheck': 'token'}), fetch: send});
  assert.deepEqual(await ask(PICTURE, new AbortController().signal, POLICY), {label: 'roses'});
  assert.equal(asked.address, 'https://gateway/predict/a%20b');
  assert.deepEqual(asked.headers, {'content-type': 'image/png', 'X-Firebase-AppCheck': 'token'});
  assert.equal(await asked.body.text(), 'png of 48');
});

test('where nothing is published the gateway is sent a picture all the same', async () => {
  let body;
  const send = async (_address, options) => { ({body} = options); return answering(200, {label: 'roses'})(); };
  await gateway({url: 'https://gateway', dataset: 'd', fetch: send})(PICTURE, undefined, policyOf(null, ''));
  assert.equal(await body.text(), 'png of 224');
});

test('the gateway is told what the phone said', async () => {
  let headers;
  const send = async (_address, options) => { headers = options.headers; return answering(200, {label: 'roses'})(); };
  const ask = gateway({url: 'https://gateway', dataset: 'd', fetch: send});
  const phone = () => ({label: 'gänse blume', confidence: 0.25, probabilities: {}, modelVersion: 'abc-1'});
  await new Router({phone, cloud: ask, policy: POLICY}).classify(PICTURE);
  assert.deepEqual(headers, {
    'content-type': 'image/png', 'X-Phone-Label': 'g%C3%A4nse%20blume', 'X-Phone-Confidence': '0.25', 'X-Phone-Kept': '0',
    'X-Phone-Version': 'abc-1',
  });
});

test('what is kept while an answer comes is told with the next one', async () => {
  const told = [];
  let answer;
  let confidence = 0.1;
  const router = new Router({
    phone: () => ({label: 'daisy', confidence}),
    cloud: (_picture, _signal, _policy, said) => { told.push(said.kept); return new Promise((resolve) => { answer = resolve; }); },
    policy: {threshold: 0.5},
  });
  const first = router.classify();
  await new Promise(setImmediate);
  confidence = 0.9;
  await router.classify();
  answer({label: 'roses', confidence: 1});
  await first;
  confidence = 0.1;
  const second = router.classify();
  await new Promise(setImmediate);
  answer({label: 'roses', confidence: 1});
  await second;
  assert.deepEqual(told, [0, 1]);
});

for (const [status, header, expected] of [
  [429, '7', {reason: 'busy', status: 429, retryAfter: 7}],
  [503, null, {reason: 'server', status: 503, retryAfter: 0}],
  [500, 'soon', {reason: 'server', status: 500, retryAfter: 0}],
  [503, '-5', {reason: 'server', status: 503, retryAfter: 0}],
  [401, null, {reason: 'refused', status: 401, retryAfter: 0}],
]) {
  test(`the gateway's ${status} with retry-after ${header}`, async () => {
    const ask = gateway({url: 'https://g', dataset: 'd', fetch: answering(status, {}, header ? {'retry-after': header} : {})});
    await assert.rejects(ask(PICTURE, undefined, POLICY), ({reason, retryAfter, status: found}) => {
      assert.deepEqual({reason, status: found, retryAfter}, expected);
      return true;
    });
  });
}

test('a retry-after may be a date', async () => {
  const header = new Date(Date.now() + 60_000).toUTCString();
  const ask = gateway({url: 'https://g', dataset: 'd', fetch: answering(503, {}, {'retry-after': header})});
  await assert.rejects(ask(PICTURE, undefined, POLICY), ({retryAfter}) => retryAfter > 55 && retryAfter <= 60);
});
