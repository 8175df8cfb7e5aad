// Numbers of a SAE: some come with an interval and the n behind it, some alone.

import type { Measured } from '../data/types';
import { count, number } from './numbers';

type Maybe = number | Measured | null | undefined;

export const valueOf = (one: Maybe): number | null => (typeof one === 'number' ? one : (one?.value ?? null));

export function intervalOf(one: Maybe, digits = 3): string {
  if (!one || typeof one === 'number') return '';
  const range = one.low !== null && one.high !== null ? `${number(one.low, digits)}–${number(one.high, digits)}` : '';
  return [range, one.n !== null ? `n ${count(one.n)}` : ''].filter(Boolean).join(', ');
}
