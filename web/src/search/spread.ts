// How a number is spread over the features of an SAE.

import type { Histogram } from '../data/types';

const BARS = 40;

export interface Spread {
  histogram: Histogram;
  n: number;
  mean: number;
  median: number;
}

/** Of the numbers that are there; null of none. */
export function spreadOf(values: Iterable<number | null>): Spread | null {
  const known = [...values].filter((value): value is number => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  const [low, high] = [known[0], known[known.length - 1]];
  if (low === undefined || high === undefined) return null;
  const width = (high - low || 1) / BARS;
  const counts = new Array<number>(BARS).fill(0);
  let sum = 0;
  for (const value of known) {
    const bar = Math.min(BARS - 1, Math.floor((value - low) / width));
    counts[bar] = (counts[bar] ?? 0) + 1;
    sum += value;
  }
  const edges = Array.from({ length: BARS + 1 }, (_, i) => low + i * width);
  const middle = ((known[(known.length - 1) >> 1] ?? 0) + (known[known.length >> 1] ?? 0)) / 2;
  return { histogram: { edges, counts }, n: known.length, mean: sum / known.length, median: middle };
}
