// Addresses: every view and every feature has one, after the `#`, so that no server needs to know of them.

/** Views in which a model runs; without an SAE in the address they show the one that was looked at last. */
const RUNNING = ['steer', 'watch', 'attribute', 'prompts'] as const;
type Run = (typeof RUNNING)[number];

export type Route =
  | { view: 'runs' }
  | { view: 'feature'; sae: string; latent: number; query: URLSearchParams }
  | { view: 'search'; sae: string; query: URLSearchParams }
  | { view: 'live'; sae: string; query: URLSearchParams }
  | { view: 'compare'; query: URLSearchParams }
  | { view: Run; sae: string; query: URLSearchParams }
  | { view: 'unknown'; hash: string };

export function parse(hash: string): Route {
  const [path = '', search = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const query = new URLSearchParams(search);
  const [view, folder, name, latent] = path.split('/').filter(Boolean).map(decoded);
  const id = folder && name ? `${encodeURIComponent(folder)}/${encodeURIComponent(name)}` : '';
  if (!view) return { view: 'runs' };
  if (view === 'f' && id && latent !== undefined && /^\d+$/.test(latent)) {
    return { view: 'feature', sae: id, latent: Number(latent), query };
  }
  if (view === 's' && id) return { view: 'search', sae: id, query };
  if (view === 'live' && id) return { view: 'live', sae: id, query };
  if (view === 'compare') return { view: 'compare', query };
  const run = RUNNING.find((one) => one === view);
  if (run) return { view: run, sae: id, query };
  return { view: 'unknown', hash };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const to = {
  runs: '#/',
  feature: (sae: string, latent: number, query?: URLSearchParams) => `#/f/${sae}/${latent}${asked(query)}`,
  search: (sae: string, query?: URLSearchParams) => `#/s/${sae}${asked(query)}`,
  live: (sae: string) => `#/live/${sae}`,
  steer: (sae: string, query?: URLSearchParams) => `#/steer/${sae}${asked(query)}`,
  watch: (sae: string, query?: URLSearchParams) => `#/watch/${sae}${asked(query)}`,
  attribute: (sae: string, query?: URLSearchParams) => `#/attribute/${sae}${asked(query)}`,
  prompts: (sae: string) => `#/prompts/${sae}`,
  compare: (saes: string[] = []) => `#/compare${asked(new URLSearchParams(saes.map((sae) => ['sae', sae])))}`,
};

function asked(query?: URLSearchParams): string {
  const text = query?.toString() ?? '';
  return text ? `?${text}` : '';
}

class Address {
  current = $state.raw<Route>(parse(location.hash));
  /** The SAE that the reader looked at last: what Search and Live in the bar lead to. */
  sae = $state('');

  constructor() {
    this.#follow();
    addEventListener('hashchange', () => this.#follow());
  }

  /** Changes the address without a step in the history: for filters, which Back should not replay. */
  replace(hash: string): void {
    history.replaceState(null, '', hash);
    this.#follow();
  }

  #follow(): void {
    this.current = parse(location.hash);
    if ('sae' in this.current && this.current.sae) this.sae = this.current.sae;
  }
}

export const address = new Address();
