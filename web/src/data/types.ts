// What the server sends and an exported file holds; the names are those of Feature.to_json() and of the API.
// Numbers are null where there is none. Activations are in the SAE's own units, effects and losses in nats.

export type Pair = [index: number, value: number];

export interface SaeName {
  run: string;
  name: string;
  digest: string;
  model: string;
  site: string;
  where: string;
}

export interface Histogram {
  edges: number[]; // one more than counts
  counts: number[];
}

export interface Example {
  window: number;
  document: number;
  position: number; // of the focus token in its document
  focus: number; // index into tokens
  value: number;
  tokens: string[];
  special: number[];
  starts: number[];
  activations: Pair[]; // non-zero only
  effects: Pair[]; // loss without the feature minus loss with it
  repeats: number[]; // other examples with the same focus token and context
  in: ('top' | number)[];
}

export interface Interval {
  low: number;
  high: number;
  count: number;
  share: number;
  examples: number[];
}

export interface LogitToken {
  token: string;
  id: number;
  value: number;
}

export interface Logits {
  positive: LogitToken[];
  negative: LogitToken[];
  mean: number | null;
  std: number | null;
  skewness: number | null;
  kurtosis: number | null;
  near: Record<string, number>; // of the tokens around the examples, by their text
  histogram: Histogram;
}

export interface Neurons {
  kind: string;
  aligned: { neuron: number; cosine: number }[];
  correlated: { neuron: number; correlation: number }[];
}

export interface Neighbours {
  correlated: { latent: number; correlation: number; exact: boolean }[];
  similar: { latent: number; cosine: number }[];
}

export interface Twin {
  run: string;
  sae: string;
  digest?: string; // of the SAE, wherever its run has been moved to
  latent: number;
  cosine: number | null;
  correlation: number | null;
}

export interface LearnedFunction {
  part: string;
  name: string;
  says: string;
  x: number[];
  y: number[];
  straight: number[]; // what y would be if nothing bent
  range: [number, number];
  density: Histogram | null;
  formula: { text: string; r2: number; low: number; high: number } | null;
  turns: number | null; // degrees
  tokens_along: { at: number; tokens: string[] }[];
}

export interface Concept {
  concept: string;
  f1: number;
  auroc: number | null;
  n: number;
}

export interface Score {
  name: string;
  value: number;
  low: number | null;
  high: number | null;
  n: number;
  chance?: number | null;
}

export interface Explanation {
  text: string;
  title: string;
  by: string;
  scores: Score[];
}

export interface Human {
  text: string;
  edited: string;
}

export interface Feature {
  latent: number;
  d_sae: number;
  label: string | null;
  sae: SaeName;
  tokens: number;
  fired: number;
  density: number;
  maximum: number;
  mean_active: number | null;
  histogram: Histogram;
  examples: Example[];
  top: number[];
  intervals: Interval[];
  logits: Logits | null;
  neurons: Neurons | null;
  features: Neighbours | null;
  twins: Twin[];
  functions: LearnedFunction[];
  concepts: Concept[];
  explanation: Explanation | null;
  human: Human | null;
}

/** Active latents per token. Bar i of the histogram: from edges[i] up to, not including, edges[i + 1]. */
export interface L0 extends Histogram {
  tokens: number;
  mean: number;
  p5: number;
  median: number;
  p95: number;
}

export interface Meta {
  format: number;
  sae: SaeName;
  text: string;
  part: string;
  tokens: number;
  documents: number;
  windows: number;
  window: number;
  seed: number;
  created: string;
  dead: number;
  kanary: string;
  l0?: L0; // not in an index of an older Kanary
}

export interface Measured {
  value: number | null;
  low: number | null;
  high: number | null;
  n: number | null;
}

export interface Sae {
  id: string; // run/sae
  name: string;
  kind: string;
  encoder: string;
  decoder: string;
  width: number;
  site: string;
  where: string;
  model: string;
  l0: number | Measured | null;
  ev: Measured | null;
  ce_score: Measured | null;
  dead: number | Measured | null; // a share
  indexed: boolean;
  digest: string;
  seed: number | null;
}

export interface Run {
  id: string;
  folder: string;
  saes: Sae[];
}

export interface State {
  version: string;
  runs: number;
  live: boolean;
}

export interface Columns {
  density: (number | null)[];
  maximum: (number | null)[];
  label: (string | null)[];
  best_concept?: (string | null)[];
  score?: (number | null)[];
  x?: (number | null)[];
  y?: (number | null)[];
  map?: { method: string; explained: number };
}

/** Of every latent's logit weights; empty where the SAE's site writes into no residual stream. */
export interface Moments {
  std?: (number | null)[];
  skewness?: (number | null)[];
  kurtosis?: (number | null)[];
}

export interface Document {
  id: number;
  tokens: string[];
  activations: Pair[];
}

export interface SearchRow {
  latent: number;
  label: string | null;
  density: number | null;
  maximum: number | null;
  score: number | null;
  concept: string | null;
  f1: number | null; // of the concept
  cosine?: number | null;
  fires_on?: string[]; // different tokens of its strongest examples, the strongest first
}

export interface Found {
  total: number;
  rows: SearchRow[];
}

export type Lists = Record<string, number[]>;

export interface Live {
  tokens: string[];
  ids: number[];
  special: number[];
  codes: [token: number, latent: number, value: number][];
  loss: (number | null)[];
  ms: number;
}

export interface Comparison {
  saes: Sae[];
  twins: { a: number; b: number; cosine: number }[];
  notes: string[];
}

export interface Embedded {
  saes: Meta[];
  features: Feature[];
}
