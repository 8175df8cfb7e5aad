// Where features come from: a running server, or the data block inside an exported file. Views know only this.

import type { Running } from './running';
import type {
  Columns, Comparison, Document, Feature, Found, Human, Lists, Live, Meta, Moments, Run, Sae, State,
} from './types';

export interface Source {
  readonly kind: 'server' | 'file';
  /** What needs a model that runs; a file has none. */
  readonly running: Running | null;
  state(): Promise<State>;
  runs(): Promise<Run[]>;
  meta(sae: string): Promise<Meta>;
  columns(sae: string): Promise<Columns>;
  moments(sae: string): Promise<Moments>;
  feature(sae: string, latent: number): Promise<Feature>;
  /** The feature if it is at hand already, so that a change needs no waiting. */
  peek(sae: string, latent: number): Feature | undefined;
  /** The features before and after this one: by number, or in the order of a file. */
  neighbours(sae: string, latent: number, width: number): { previous: number | null; next: number | null };
  saveHuman(sae: string, latent: number, text: string): Promise<Human | null>;
  document(sae: string, id: number, latent: number): Promise<Document>;
  search(sae: string, query: URLSearchParams): Promise<Found>;
  lists(sae: string): Promise<Lists>;
  saveList(sae: string, name: string, latents: number[]): Promise<void>;
  deleteList(sae: string, name: string): Promise<void>;
  live(sae: string, text: string, signal: AbortSignal): Promise<Live>;
  compare(saes: string[]): Promise<Comparison>;
  exported(sae: string, features: string): Promise<Blob>;
}

/** What went wrong, in words, and what to do about it. */
export class Trouble extends Error {
  constructor(
    message: string,
    readonly fix: string = '',
    readonly status: number = 0,
  ) {
    super(message);
    this.name = 'Trouble';
  }
}

export function inWords(error: unknown): Trouble {
  if (error instanceof Trouble) return error;
  return new Trouble(error instanceof Error ? error.message : String(error));
}

/** `run/sae` of a SAE that a feature names by the folder of its run. */
export function idOf(run: string, name: string): string {
  return `${run.split('/').filter(Boolean).pop() ?? run}/${name}`;
}

/** A model or a text as people call it: of a path its end. */
export const called = (name: string): string => (/^([a-z]:)?[\\/]/i.test(name) ? (name.split(/[\\/]/).filter(Boolean).pop() ?? name) : name);

/** What a feature is called where there is no room for more: its label, else the concept that it marks best. */
export const nameOf = (columns: Columns | null | undefined, latent: number): string =>
  columns?.label[latent] ?? columns?.best_concept?.[latent] ?? '';

export const saesOf = (runs: Run[]): Sae[] => runs.flatMap((run) => run.saes);
