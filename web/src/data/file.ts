// The source of an exported file: everything is in the page already, and nothing is ever asked for.

import { unpack, type Packed } from './packed';
import { Trouble, idOf, type Source } from './source';
import type { Embedded, Feature, Meta, SearchRow } from './types';

/** The data block of this page: JSON as gzip in base64. */
export async function embedded(): Promise<Embedded> {
  const written = document.getElementById('kanary-data')?.textContent?.trim() ?? '';
  return written ? unpack(JSON.parse(await unpacked(written)) as Packed) : { saes: [], features: [] };
}

function unpacked(base64: string): Promise<string> {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
}

const SHOWN_TOKENS = 3;

export const saeOf = (feature: Feature): string => idOf(feature.sae.run, feature.sae.name);

export function rowOf(feature: Feature): SearchRow {
  const best = feature.concepts[0];
  const strongest = feature.top.map((i) => feature.examples[i]).flatMap((example) => example?.tokens[example.focus] ?? []);
  return {
    latent: feature.latent,
    label: feature.human?.text ?? feature.label,
    density: feature.density,
    maximum: feature.maximum,
    score: feature.explanation?.scores[0]?.value ?? null,
    concept: best?.concept ?? null,
    f1: best?.f1 ?? null,
    fires_on: [...new Set(strongest)].slice(0, SHOWN_TOKENS),
  };
}

export function fileSource(data: Embedded): Source {
  const byKey = new Map(data.features.map((feature) => [`${saeOf(feature)}/${feature.latent}`, feature]));
  const nowhere = () => Promise.reject(new Trouble('This file has no server behind it.', 'Open the run with `kanary serve`.'));

  return {
    kind: 'file',
    running: null,
    state: async () => ({ version: data.saes[0]?.kanary ?? '', runs: 0, live: false }),
    runs: async () => [],
    meta: async (sae) => {
      const found = data.saes.find((meta: Meta) => idOf(meta.sae.run, meta.sae.name) === sae);
      if (!found) throw new Trouble(`This file holds nothing of ${sae}.`);
      return found;
    },
    columns: nowhere,
    moments: nowhere,
    peek: (sae, latent) => byKey.get(`${sae}/${latent}`),
    feature: async (sae, latent) => {
      const found = byKey.get(`${sae}/${latent}`);
      if (!found) throw new Trouble(`Feature ${latent} of ${sae} is not in this file.`, 'Export it too, with `kanary export`.');
      return found;
    },
    neighbours: (sae, latent) => {
      const all = data.features.filter((feature) => saeOf(feature) === sae).map((feature) => feature.latent);
      const here = all.indexOf(latent);
      return { previous: all[here - 1] ?? null, next: here < 0 ? null : (all[here + 1] ?? null) };
    },
    saveHuman: nowhere,
    document: nowhere,
    search: nowhere,
    lists: nowhere,
    saveList: nowhere,
    deleteList: nowhere,
    live: nowhere,
    compare: nowhere,
    exported: nowhere,
  };
}
