// How a feature's code is changed, in the words of the page, and what each asks of the server (docs/steering.md).

import type { Edit } from '../data/running';

export interface Steered {
  feature: number;
  way: Way;
  amount: number; // in maxima of the feature; of `scale` a factor
}

interface Kind {
  says: string;
  low: number;
  high: number; // of the slider
  usual: number;
  asks: (amount: number) => Omit<Edit, 'feature'>;
}

export const WAYS = {
  add: { says: 'add', low: -8, high: 8, usual: 2, asks: (amount) => ({ amount }) },
  set: { says: 'set to', low: 0, high: 8, usual: 1, asks: (amount) => ({ kind: 'set', amount }) },
  floor: { says: 'at least', low: 0, high: 4, usual: 0.5, asks: (low) => ({ kind: 'clamp', low }) },
  cap: { says: 'at most', low: 0, high: 4, usual: 0.5, asks: (high) => ({ kind: 'clamp', high }) },
  scale: { says: 'times', low: 0, high: 8, usual: 2, asks: (amount) => ({ kind: 'scale', amount }) },
} as const satisfies Record<string, Kind>;
export const WHOLE = {
  ablate: { says: 'take out', asks: { kind: 'ablate' } },
  project_out: { says: 'project out', asks: { kind: 'project_out', amount: 1 } },
} as const satisfies Record<string, { says: string; asks: Omit<Edit, 'feature'> }>;
export type Way = keyof typeof WAYS | keyof typeof WHOLE;

/** What can be said of a way that takes an amount; undefined of one that takes none. */
export const kindOf = (way: Way): Kind | undefined => (way in WAYS ? WAYS[way as keyof typeof WAYS] : undefined);
export const isWay = (text: string): text is Way => text in WAYS || text in WHOLE;

/** Whether strengths can be tried: by how much codes are moved, or where they are put. */
export const sweeps = ({ way }: Steered): boolean => way === 'add' || way === 'set';

export function editOf({ feature, way, amount }: Steered): Edit {
  return { feature, ...(kindOf(way)?.asks(amount) ?? WHOLE[way as keyof typeof WHOLE].asks) };
}

/** The same feature changed in another way, as strongly as that allows. */
export function changed(steered: Steered, way: Way): Steered {
  const kind = kindOf(way);
  const fits = kind && steered.amount >= kind.low && steered.amount <= kind.high;
  return { ...steered, way, amount: kind && !fits ? kind.usual : steered.amount };
}
