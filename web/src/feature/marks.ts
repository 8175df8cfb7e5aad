// Outlines of the tokens whose activation the pointer marks in the histogram.

import { lineOf } from '../text/line';
import type { Row } from './groups';

export function markBand(list: HTMLElement, rows: Map<string, Row>, band: [low: number, high: number] | null): void {
  for (const node of list.querySelectorAll('.token.same')) node.classList.remove('same');
  if (!band) return;
  for (const place of list.querySelectorAll<HTMLElement>('[data-row]')) {
    const row = rows.get(place.dataset.row ?? '');
    if (!row) continue;
    const { values } = lineOf(row.example);
    for (const node of place.querySelectorAll<HTMLElement>('[data-i]')) {
      const value = values.get(Number(node.dataset.i));
      if (value !== undefined && value > band[0] && value <= band[1]) node.classList.add('same');
    }
  }
}
