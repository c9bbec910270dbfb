// Which of the two models answers. No DOM and no dependency: for browsers, React Native and Node alike. Names as in
// Firebase AI Logic (`InferenceMode`, `inferenceSource`), so that whoever knows one knows both. Types: router.d.ts.

export const InferenceMode = Object.freeze({
  PREFER_ON_DEVICE: 'prefer_on_device',
  PREFER_IN_CLOUD: 'prefer_in_cloud',
  ONLY_ON_DEVICE: 'only_on_device',
  ONLY_IN_CLOUD: 'only_in_cloud',
});

export const InferenceSource = Object.freeze({ON_DEVICE: 'on_device', IN_CLOUD: 'in_cloud'});

// No answer of the cloud's is worth waiting for longer than this, in milliseconds.
const BUDGET_MS = 1500;

// What is sent where nothing is published that says what the cloud model takes: it resizes what it gets.
const USUAL_PX = 224;

export class CloudUnavailable extends Error {
  constructor(reason, {status = 0, retryAfter = 0, cause = undefined} = {}) {
    super(`the cloud model did not answer: ${reason}${status ? ` (HTTP ${status})` : ''}`, {cause});
    this.name = 'CloudUnavailable';
    Object.assign(this, {reason, status, retryAfter});
  }

  // 400, 401 and 413 are the app's fault, and say nothing of the cloud.
  get isOfTheCloud() {
    return this.status < 400 || this.status === 429 || this.status >= 500;
  }
}

// Closed, until `failures` in a row; then open for `seconds`, twice as long each time, until one request gets through.
export class Breaker {
  #count = 0;
  #until = 0;
  #isTried = false;
  #pause;

  constructor({failures = 3, seconds = 30, longest = 600, now = () => Date.now() / 1000} = {}) {
    Object.assign(this, {failures, seconds, longest, now});
    this.#pause = seconds;
  }

  get isOpen() {
    return this.now() < this.#until || this.#isTried;
  }

  // Whether a request may be sent; of those that come after a pause, one.
  begin() {
    if (this.isOpen) return false;
    this.#isTried = this.#until > 0;
    return true;
  }

  succeeded() {
    this.#count = 0;
    this.#until = 0;
    this.#pause = this.seconds;
    this.#isTried = false;
  }

  // `retryAfter` in seconds: a server that says when to come again is believed at once.
  failed(retryAfter = 0) {
    this.#count += 1;
    this.#isTried = false;
    const isOver = this.#count >= this.failures;
    const pause = Math.max(Math.min(retryAfter, this.longest), isOver ? this.#pause : 0);
    if (!pause) return;
    this.#until = this.now() + pause;
    if (isOver) this.#pause = Math.min(this.#pause * 2, this.longest);
  }

  // Answered, but with the app's own mistake: nothing was learned.
  settled() {
    this.#isTried = false;
  }
}

// What the published object (models/<name>/routing/<version>.json) says for the file with this SHA-256. For another
// file, or without an object, the phone's answer stands.
export function policyOf(routing, sha256) {
  if (!routing || routing.phone.sha256 !== sha256) {
    return {mode: InferenceMode.PREFER_ON_DEVICE, threshold: 0, askAbout: [], px: 0, run: ''};
  }
  return {
    mode: routing.mode,
    threshold: routing.threshold,
    askAbout: routing.ask_about,
    px: routing.cloud?.input.px ?? 0,
    run: routing.cloud?.run_id ?? '',
  };
}

export class Router {
  // Answers of the phone that stood without asking, since the cloud answered last.
  #kept = 0;

  constructor({
    phone,
    cloud,
    policy = policyOf(null, ''),
    mode = undefined,
    budgetMs = BUDGET_MS,
    breaker = new Breaker(),
    mayAsk = () => '',
    clock = () => performance.now(),
  }) {
    Object.assign(this, {phone, cloud, policy, mode, budgetMs, breaker, mayAsk, clock});
  }

  async classify(picture) {
    const began = this.clock();
    const answer = await this.#route(picture);
    return {...answer, latencyMs: this.clock() - began};
  }

  #route(picture) {
    const mode = this.mode ?? this.policy.mode ?? InferenceMode.PREFER_ON_DEVICE;
    switch (mode) {
      case InferenceMode.ONLY_ON_DEVICE:
        return this.#onDevice(picture);
      case InferenceMode.ONLY_IN_CLOUD:
        return this.#inCloud(picture);
      case InferenceMode.PREFER_IN_CLOUD:
        return this.#cloudFirst(picture);
      case InferenceMode.PREFER_ON_DEVICE:
        return this.#phoneFirst(picture);
      default:
        throw new TypeError(`mode ${mode} is none of ${Object.values(InferenceMode).join(', ')}`);
    }
  }

  async #phoneFirst(picture) {
    let own;
    try {
      own = await this.#onDevice(picture);
    } catch (error) {
      // No model yet, or one that cannot run here. Why is said if the cloud does not answer, either.
      return {...await this.#inCloud(picture, error), fallback: 'no_device_model'};
    }
    const asked = this.#asks(own);
    if (!asked) {
      this.#kept += 1;
      return own;
    }
    const kept = this.#kept;
    try {
      const answer = await this.#inCloud(picture, undefined, {...own, kept});
      // What was kept while the answer came is told with the next one.
      this.#kept -= kept;
      return {...answer, asked, onDevice: own};
    } catch (error) {
      return {...own, asked, fallback: reasonOf(error)};
    }
  }

  async #cloudFirst(picture) {
    try {
      return await this.#inCloud(picture);
    } catch (error) {
      return {...await this.#onDevice(picture), fallback: reasonOf(error)};
    }
  }

  #asks({confidence, label}) {
    // Written so that a confidence that is not a number asks, too.
    if (!(confidence >= this.policy.threshold)) return 'unsure';
    return this.policy.askAbout?.includes(label) ? 'label' : '';
  }

  async #onDevice(picture) {
    return {...await this.phone(picture), inferenceSource: InferenceSource.ON_DEVICE};
  }

  async #inCloud(picture, cause = undefined, said = null) {
    const not = this.mayAsk();
    if (not) throw new CloudUnavailable(not, {cause});
    if (!this.breaker.begin()) throw new CloudUnavailable('breaker', {cause});
    try {
      const answer = await withinBudget((signal) => this.cloud(picture, signal, this.policy, said), this.budgetMs);
      this.breaker.succeeded();
      return {...answer, inferenceSource: InferenceSource.IN_CLOUD};
    } catch (error) {
      const known = error instanceof CloudUnavailable ? error : new CloudUnavailable('network', {cause: error});
      if (known.isOfTheCloud) this.breaker.failed(known.retryAfter);
      else this.breaker.settled();
      throw known;
    }
  }
}

// POST /predict/<dataset> of services/gateway. `headers` gives those of App Check, and of a user who is signed in.
// A picture has png(px), which gives what to send: see `Picture` of ./browser.js.
export function gateway({url, dataset, headers = () => ({}), fetch: send = globalThis.fetch}) {
  return async (picture, signal, policy, said = null) => {
    const body = await picture.png(policy.px || USUAL_PX);
    const own = {'content-type': 'image/png', ...phoneHeaders(said), ...await headers()};
    const address = `${url.replace(/\/$/, '')}/predict/${encodeURIComponent(dataset)}`;
    const response = await send(address, {method: 'POST', signal, body, headers: own});
    if (response.ok) return response.json();
    const {status} = response;
    const reason = status === 429 ? 'busy' : status >= 500 ? 'server' : 'refused';
    throw new CloudUnavailable(reason, {status, retryAfter: seconds(response.headers.get('retry-after'))});
  };
}

// What the phone's model said, for the gateway's log: how often both agree, and which share is asked about, are known
// without keeping a picture.
export function phoneHeaders(said) {
  if (!said) return {};
  return {
    'X-Phone-Label': encodeURIComponent(said.label),
    'X-Phone-Confidence': String(said.confidence),
    'X-Phone-Kept': String(said.kept),
    ...said.modelVersion ? {'X-Phone-Version': said.modelVersion} : {},
  };
}

function reasonOf(error) {
  if (error instanceof CloudUnavailable) return error.reason;
  throw error;
}

// The answer, or CloudUnavailable('timeout') once the time is over, whether or not `ask` heeds the signal.
function withinBudget(ask, milliseconds) {
  const stop = new AbortController();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new CloudUnavailable('timeout'));
      stop.abort();
    }, milliseconds);
    Promise.resolve(stop.signal).then(ask).then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

// Seconds of a Retry-After, which may also be a date (RFC 9110, section 10.2.3); 0 where it says nothing.
function seconds(header) {
  if (!header) return 0;
  const number = Number(header);
  const found = Number.isFinite(number) ? number : (Date.parse(header) - Date.now()) / 1000;
  return found > 0 ? found : 0;
}
