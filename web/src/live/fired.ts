// What fired in a typed text, by feature and by token.

import type { Columns, Live } from '../data/types';

export interface Fired {
  latent: number;
  strongest: number;
  at: number; // the token of the strongest
  tokens: number; // on how many it fires
  values: Map<number, number>;
}

/** Features that fire anywhere, strongest first: each measured against its own maximum where the index knows it. */
export function firedIn(live: Live, columns: Columns | undefined): Fired[] {
  const byLatent = new Map<number, Fired>();
  for (const [token, latent, value] of live.codes) {
    let one = byLatent.get(latent);
    if (!one) byLatent.set(latent, (one = { latent, strongest: 0, at: token, tokens: 0, values: new Map() }));
    one.values.set(token, value);
    one.tokens++;
    if (value > one.strongest) [one.strongest, one.at] = [value, token];
  }
  return [...byLatent.values()].sort((a, b) => relative(b, columns) - relative(a, columns));
}

export const relative = (one: Fired, columns: Columns | undefined): number =>
  one.strongest / (columns?.maximum[one.latent] || one.strongest || 1);

/** Per token the largest activation as a share of its feature's maximum, bent so that its colour grows evenly with it. */
export function strongestPerToken(fired: Fired[], columns: Columns | undefined): Map<number, number> {
  const strongest = new Map<number, number>();
  for (const one of fired) {
    const most = columns?.maximum[one.latent] || one.strongest;
    for (const [token, value] of one.values) strongest.set(token, Math.max(strongest.get(token) ?? 0, (10 ** Math.min(1, value / most) - 1) / 9));
  }
  return strongest;
}
