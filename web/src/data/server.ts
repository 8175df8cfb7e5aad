// The source that asks `kanary serve`. Columns and features are kept, so that going back and forth asks once.

import { address, to } from './route.svelte';
import { serverRunning } from './running';
import { Trouble, type Source } from './source';
import type { Columns, Feature, Human, Meta, Moments } from './types';

const TOKEN = 'kanary-token';
const KEPT_FEATURES = 60;

/** Takes `#token=…` out of the address, so that it is neither bookmarked nor shown. */
export function keepToken(): void {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found?.[1]) return;
  sessionStorage.setItem(TOKEN, decodeURIComponent(found[1]));
  address.replace(to.runs);
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set('Authorization', `Bearer ${token}`);
  if (init.body) headers.set('Content-Type', 'application/json');
  let answer: Response;
  try {
    answer = await fetch(`api/${path}`, { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Trouble('The server does not answer.', 'Is `kanary serve` still running? Start it again, then retry.');
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer: Response): Promise<Trouble> {
  const said: { error?: string; fix?: string } = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) {
    const fix = said.fix ?? 'Open the address that `kanary serve` printed; it ends with #token=…';
    return new Trouble(said.error ?? 'The server asks for its token.', fix, answer.status);
  }
  return new Trouble(said.error ?? `The server answered ${answer.status}.`, said.fix ?? '', answer.status);
}

const json = async <T>(path: string, init?: RequestInit): Promise<T> => (await ask(path, init)).json() as Promise<T>;
const put = (path: string, body: unknown) => ask(path, { method: 'PUT', body: JSON.stringify(body) });

export function serverSource(): Source {
  const features = new Map<string, Feature>();
  const columns = new Map<string, Promise<Columns>>();
  const metas = new Map<string, Promise<Meta>>();
  const moments = new Map<string, Promise<Moments>>();

  function once<T>(kept: Map<string, Promise<T>>, sae: string, path: string): Promise<T> {
    let promise = kept.get(sae);
    if (!promise) {
      promise = json<T>(path);
      promise.catch(() => kept.delete(sae));
      kept.set(sae, promise);
    }
    return promise;
  }

  function keep(key: string, feature: Feature): Feature {
    features.set(key, feature);
    if (features.size > KEPT_FEATURES) features.delete(features.keys().next().value as string);
    return feature;
  }

  return {
    kind: 'server',
    running: serverRunning(ask),
    state: () => json('state'),
    runs: () => json('runs'),
    meta: (sae) => once(metas, sae, `saes/${sae}`),
    columns: (sae) => once(columns, sae, `saes/${sae}/columns`),
    moments: (sae) => once(moments, sae, `saes/${sae}/logit-moments`),
    peek: (sae, latent) => features.get(`${sae}/${latent}`),
    feature: async (sae, latent) => {
      const key = `${sae}/${latent}`;
      return features.get(key) ?? keep(key, await json(`saes/${sae}/features/${latent}`));
    },
    neighbours: (_, latent, width) => ({
      previous: latent > 0 ? latent - 1 : null,
      next: latent + 1 < width ? latent + 1 : null,
    }),
    saveHuman: async (sae, latent, text) => {
      const saved: Partial<Human> = await (await put(`saes/${sae}/features/${latent}/human`, { text })).json();
      const human = saved.text ? { text: saved.text, edited: saved.edited ?? '' } : null;
      const known = features.get(`${sae}/${latent}`);
      if (known) features.set(`${sae}/${latent}`, { ...known, human });
      columns.delete(sae); // their labels may have changed
      return human;
    },
    document: (sae, id, latent) => json(`saes/${sae}/documents/${id}?latent=${latent}`),
    search: (sae, query) => json(`saes/${sae}/search?${query}`),
    lists: (sae) => json(`saes/${sae}/lists`),
    saveList: async (sae, name, latents) => void (await put(`saes/${sae}/lists/${encodeURIComponent(name)}`, { latents })),
    deleteList: async (sae, name) => void (await ask(`saes/${sae}/lists/${encodeURIComponent(name)}`, { method: 'DELETE' })),
    live: (sae, text, signal) => json(`saes/${sae}/live`, { method: 'POST', body: JSON.stringify({ text }), signal }),
    compare: (saes) => json(`compare?${new URLSearchParams(saes.map((sae) => ['sae', sae]))}`),
    exported: async (sae, list) => (await ask(`saes/${sae}/export.html?features=${encodeURIComponent(list)}`)).blob(),
  };
}
