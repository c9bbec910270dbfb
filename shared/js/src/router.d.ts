/** Names as in Firebase AI Logic. */
export type Mode = 'prefer_on_device' | 'prefer_in_cloud' | 'only_on_device' | 'only_in_cloud';
export type Source = 'on_device' | 'in_cloud';

export const InferenceMode: Readonly<{
  PREFER_ON_DEVICE: 'prefer_on_device';
  PREFER_IN_CLOUD: 'prefer_in_cloud';
  ONLY_ON_DEVICE: 'only_on_device';
  ONLY_IN_CLOUD: 'only_in_cloud';
}>;
export const InferenceSource: Readonly<{ON_DEVICE: 'on_device'; IN_CLOUD: 'in_cloud'}>;

/** What a model says to a picture; `probabilities` by label. */
export interface Prediction {
  label: string;
  confidence: number;
  probabilities?: Record<string, number>;
  modelVersion?: string;
}

/** What the phone's model said of a picture that the cloud is asked about. */
export interface PhoneSaid extends Prediction {
  /** How many answers of the phone stood without asking, since the cloud answered last. */
  kept: number;
}

export interface Answer extends Prediction {
  inferenceSource: Source;
  /** Milliseconds, of all that was done for this picture. */
  latencyMs: number;
  /** Why the cloud was asked: the phone's confidence was below the threshold, or its label is one to ask about. */
  asked?: 'unsure' | 'label';
  /**
   * Why not the preferred model answers: 'timeout', 'network', 'busy' (429), 'server' (5xx), 'refused' (4xx),
   * 'breaker', 'no_device_model', or whatever `mayAsk` said ('offline', 'battery', …).
   */
  fallback?: string;
  /** What the phone had said, where the cloud was asked. */
  onDevice?: Prediction & {inferenceSource: 'on_device'};
}

/** The published object: models/<name>/routing/<version>.json. */
export interface Routing {
  v: number;
  name: string;
  dataset: string;
  at: string;
  phone: {run_id: string; version: string; sha256: string};
  cloud: {run_id: string; input: {px: number}} | null;
  mode: Mode;
  threshold: number;
  ask_about: string[];
  max_loss: number;
  confidence: number;
  max_share: number | null;
  outcome: string;
  note: string;
  examples: number;
  loss_at_most: number | null;
  share: number | null;
  accuracy: number | null;
  phone_accuracy: number | null;
  cloud_accuracy: number | null;
  /** Rows of threshold, share asked about, accuracy of both. */
  curve: [number, number, number][];
}

export interface Policy {
  mode?: Mode;
  /** The phone's answer stands from this confidence on. */
  threshold: number;
  /** Labels that the cloud is always asked about. */
  askAbout?: string[];
  /** Side of the square PNG to send; 0 where nothing says it: 224. */
  px?: number;
  /** The cloud run that the threshold was fitted for. */
  run?: string;
}

/** The policy for the file with this SHA-256 (hex); the phone's answer stands for any other one. */
export function policyOf(routing: Routing | null | undefined, sha256: string): Policy;

/** A cloud that does not answer; `status` is HTTP's, 0 without one; `retryAfter` in seconds. */
export class CloudUnavailable extends Error {
  constructor(reason: string, options?: {status?: number; retryAfter?: number; cause?: unknown});
  readonly reason: string;
  readonly status: number;
  readonly retryAfter: number;
  readonly isOfTheCloud: boolean;
}

/** Keeps requests back after `failures` in a row, for `seconds` and twice as long each time up to `longest`. */
export class Breaker {
  constructor(options?: {failures?: number; seconds?: number; longest?: number; now?: () => number});
  readonly isOpen: boolean;
  begin(): boolean;
  succeeded(): void;
  failed(retryAfter?: number): void;
  settled(): void;
}

export interface RouterOptions<Picture> {
  phone: (picture: Picture) => Promise<Prediction> | Prediction;
  /** Throws CloudUnavailable, or anything else, which counts as 'network'. */
  cloud: (
    picture: Picture, signal: AbortSignal, policy: Policy, said: PhoneSaid | null,
  ) => Promise<Prediction> | Prediction;
  policy?: Policy;
  /** Instead of the policy's. */
  mode?: Mode;
  /** For how many milliseconds the cloud is waited for; 1500 if not given. */
  budgetMs?: number;
  breaker?: Breaker;
  /** '' if the cloud may be asked, else why not: 'offline', 'battery', 'metered'. The app knows. */
  mayAsk?: () => string;
  /** Milliseconds of a clock that never goes back. */
  clock?: () => number;
}

/** All options are properties, and may be changed between two pictures. */
export class Router<Picture = unknown> {
  constructor(options: RouterOptions<Picture>);
  policy: Policy;
  mode?: Mode;
  budgetMs: number;
  mayAsk: () => string;
  /** Rejects with what the phone's model threw, or with CloudUnavailable, where no other model may answer. */
  classify(picture: Picture): Promise<Answer>;
}

/** Asks services/gateway. `headers` gives X-Firebase-AppCheck, and Authorization of a user who is signed in. */
export function gateway(options: {
  url: string;
  dataset: string;
  headers?: () => Record<string, string> | Promise<Record<string, string>>;
  fetch?: typeof globalThis.fetch;
}): (
  picture: {png(px: number): Promise<Blob> | Blob}, signal: AbortSignal, policy: Policy, said?: PhoneSaid | null,
) => Promise<Prediction>;

/** The headers X-Phone-* of the gateway, for an app that asks it by itself. */
export function phoneHeaders(said: PhoneSaid | null): Record<string, string>;
