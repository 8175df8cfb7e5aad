// The values of one token, as the crosshair marks them and as they are said.

import type { Feature } from '../data/types';
import { chip } from '../text/glyphs';
import { lineOf } from '../text/line';
import { number, percent, signed } from '../text/numbers';
import type { Row } from './groups';
import type { Place } from './reading.svelte';

/** Logit weights that the page knows, by the token's text: those around the examples, and the strongest. */
export function knownLogits({ logits }: Feature): Map<string, number> {
  if (!logits) return new Map();
  const listed = [...logits.positive, ...logits.negative].map(({ token, value }) => [token, value] as const);
  return new Map([...Object.entries(logits.near), ...listed]);
}

export function placeOf(row: Row, index: number, logits: Map<string, number>): Place {
  const line = lineOf(row.example);
  const token = line.tokens[index] ?? '';
  return {
    token,
    activation: line.values.get(index) ?? 0,
    effect: line.effects.get(index) ?? null,
    logit: logits.get(token) ?? null,
    special: line.special.has(index),
    row: row.key,
    index,
  };
}

export function effectInWords(effect: number | null): string {
  if (effect === null) return 'loss without the feature: within 0.01 nats';
  const way = effect < 0 ? 'lower' : 'higher';
  return `loss without the feature: ${signed(effect, 2)} nats, ${way}`;
}

export function inWords(place: Place, maximum: number): string {
  const fires = place.activation
    ? `activation ${number(place.activation)}, ${percent(place.activation / maximum)} of the maximum`
    : place.special ? 'special token, never counted' : 'does not fire';
  const logit = place.logit === null ? '' : `; logit weight ${signed(place.logit)}`;
  return `${chip(place.token)}: ${fires}; ${effectInWords(place.effect)}${logit}`;
}
