// What is asked of a running model: texts that it writes, watches, attribution, searches by prompts. Names are those of the API.

import { Trouble } from './source';

export interface Edit {
  feature: number;
  kind?: 'add' | 'set' | 'clamp' | 'scale' | 'ablate' | 'project_out';
  amount?: number; // in maxima of the feature; of `scale` a factor, of `project_out` a share
  low?: number;
  high?: number; // of `clamp`, in maxima
}

export interface Asked {
  prompt: string;
  tokens: number;
  temperature: number;
  seed: number;
  edits?: Edit[];
  watch?: string[];
  features?: number[];
  record?: boolean;
}

export interface Alarm {
  watch: string;
  at: number; // which written token
  token: string;
  value: number;
  threshold: number;
  action: string;
}

export interface Piece {
  text: string; // what is certain of the text after this token
  token: string;
  id: number;
  written: boolean;
  values?: Record<string, number>;
  codes?: number[];
  alarms?: Alarm[];
}

export interface End {
  end: string; // stop, length, alarm, error
  rest: string;
  problem: string;
  record: string | null;
}

export interface Rate {
  value: number;
  low: number;
  high: number;
  n: number;
}

export interface WatchMeasured {
  positives: number;
  negatives: number;
  auroc: Rate;
  detection: Rate;
  false_alarms: Rate;
  token_false_alarms: number;
}

export interface Watch {
  name: string;
  sae: string;
  weights: [latent: number, weight: number][];
  threshold: number;
  false_alarms: number; // asked for
  at_most: number | null; // what texts that it was not sought on vouch for, with a confidence of 95 %
  on_alarm: 'log' | 'stop' | 'steer';
  steer: Edit[];
  measured: WatchMeasured | null;
  latency_ms: number | null;
}

export interface NewWatch {
  weights: [number, number][];
  positive: string[];
  negative: string[];
  false_alarms: number;
  on_alarm: string;
  steer: Edit[];
}

export interface TraceRow {
  name: string;
  created: string;
  prompt: string;
  seed: number;
  tokens: number;
  alarms: number;
  ended: string | null;
  watches: Record<string, { threshold: number }>;
}

export type Trace = Omit<TraceRow, 'tokens' | 'alarms'> & {
  tokens: { token: string; written: boolean; values: Record<string, number> }[];
  alarms: Alarm[];
};

export interface Sweep {
  target: string;
  unit: string;
  measure: string;
  best: number | null;
  says: string;
  points: ({ strength: number } & Record<'presence' | 'fluency' | 'score' | 'loss' | 'repetition', Rate>)[];
}

/** How far long work has come. */
export interface Step {
  done: number;
  of: number;
}

export interface Credit {
  gradient: number;
  integrated: number;
  ablated: number | null;
}

export interface Attribution {
  tokens: string[];
  special: number[];
  position: number;
  site: string;
  where: string;
  target: { kind: string; token: string; against: { token: string } | null; probability: number; rank: number };
  value: number;
  baseline: number;
  completeness: { sum: number; total: number; error: number; steps: number };
  rows: ({ latent: number; position: number; value: number } & Credit)[];
  features: ({ latent: number; tokens: number; position: number } & Credit)[];
  error: Credit;
  positions: [gradient: number, integrated: number][];
  predictions: { token: string; probability: number }[];
  lens: { site: string; where: string; probability: number; rank: number; top: { token: string; probability: number }[] }[];
}

export interface PromptSearch {
  pool: string;
  prompts: Record<'positive' | 'negative', { chosen_on: number; held_out: number }>;
  found: {
    latent: number;
    side: 'positive' | 'negative';
    ranks: Record<string, number>;
    held_out: Record<string, Rate>;
    fires: Record<'positive' | 'negative', number>;
    strongest: { prompt: number; tokens: string[]; at: number; value: number };
  }[];
  left_out: { latent: number; why: string; says: string }[];
  control: Rate;
}

export interface Running {
  /** Pieces as they come, then the end; stops at once when the signal says so. */
  write(sae: string, asked: Asked, signal: AbortSignal): AsyncGenerator<Piece | End>;
  /** `tell` hears of every few texts that are written. */
  sweep(sae: string, edits: Edit[], prompt: string, signal: AbortSignal, tell: (step: Step) => void): Promise<Sweep>;
  watches(sae: string): Promise<Watch[]>;
  makeWatch(sae: string, name: string, watch: NewWatch, signal: AbortSignal): Promise<Watch>;
  deleteWatch(sae: string, name: string): Promise<void>;
  traces(sae: string): Promise<TraceRow[]>;
  trace(sae: string, name: string): Promise<Trace>;
  attribute(sae: string, asked: { prompt: string; token: string | null; against: string | null }, signal: AbortSignal): Promise<Attribution>;
  searchPrompts(sae: string, asked: { positive: string[]; negative: string[] }, signal: AbortSignal): Promise<PromptSearch>;
}

type Ask = (path: string, init?: RequestInit) => Promise<Response>;

export function serverRunning(ask: Ask): Running {
  const json = async <T>(path: string, init?: RequestInit): Promise<T> => (await ask(path, init)).json() as Promise<T>;
  const send = (method: string, body: unknown, signal?: AbortSignal): RequestInit => ({ method, body: JSON.stringify(body), signal });

  return {
    async *write(sae, asked, signal) {
      const answer = await ask(`saes/${sae}/write`, send('POST', asked, signal));
      yield* events<Piece | End>(answer);
    },
    async sweep(sae, edits, prompt, signal, tell) {
      const asked = send('POST', { edits, prompts: [prompt] }, signal);
      return found(await ask(`saes/${sae}/sweep`, { ...asked, headers: { Accept: 'text/event-stream' } }), tell);
    },
    watches: (sae) => json(`saes/${sae}/watches`),
    makeWatch: (sae, name, watch, signal) => json(`saes/${sae}/watches/${encodeURIComponent(name)}`, send('PUT', watch, signal)),
    deleteWatch: async (sae, name) => void (await ask(`saes/${sae}/watches/${encodeURIComponent(name)}`, { method: 'DELETE' })),
    traces: (sae) => json(`saes/${sae}/traces`),
    trace: (sae, name) => json(`saes/${sae}/traces/${encodeURIComponent(name)}`),
    attribute: (sae, asked, signal) => json(`saes/${sae}/attribute`, send('POST', asked, signal)),
    searchPrompts: (sae, asked, signal) => json(`saes/${sae}/search-prompts`, send('POST', asked, signal)),
  };
}

/** What long work found; raises what went wrong. */
async function found<T>(answer: Response, tell: (step: Step) => void): Promise<T> {
  for await (const event of events<Step | { found: T } | { error: string; fix: string }>(answer)) {
    if ('done' in event) tell(event);
    else if ('found' in event) return event.found;
    else throw new Trouble(event.error, event.fix);
  }
  throw new Trouble('The server stopped before it was done.', 'Look at the terminal that runs kanary serve.');
}

/** The JSON of every server-sent event of an answer. */
async function* events<T>(answer: Response): AsyncGenerator<T> {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (kept + value).split('\n\n');
      kept = parts.pop() ?? '';
      for (const part of parts) if (part.startsWith('data: ')) yield JSON.parse(part.slice(6)) as T;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
