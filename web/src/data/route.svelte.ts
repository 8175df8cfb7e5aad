// Addresses: every view and every feature has one, after the `#`, so that no server needs to know of them.

export type Route =
  | { view: 'runs' }
  | { view: 'feature'; sae: string; latent: number; query: URLSearchParams }
  | { view: 'search'; sae: string; query: URLSearchParams }
  | { view: 'live'; sae: string; query: URLSearchParams }
  | { view: 'compare'; query: URLSearchParams }
  | { view: 'steer' }
  | { view: 'watch' }
  | { view: 'unknown'; hash: string };

export function parse(hash: string): Route {
  const [path = '', search = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const query = new URLSearchParams(search);
  const [view, run, sae, latent] = path.split('/').filter(Boolean).map(decoded);
  const id = run && sae ? `${encodeURIComponent(run)}/${encodeURIComponent(sae)}` : '';
  if (!view) return { view: 'runs' };
  if (view === 'f' && id && latent !== undefined && /^\d+$/.test(latent)) {
    return { view: 'feature', sae: id, latent: Number(latent), query };
  }
  if (view === 's' && id) return { view: 'search', sae: id, query };
  if (view === 'live' && id) return { view: 'live', sae: id, query };
  if (view === 'compare') return { view: 'compare', query };
  if (view === 'steer' || view === 'watch') return { view };
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
    if ('sae' in this.current) this.sae = this.current.sae;
  }
}

export const address = new Address();
