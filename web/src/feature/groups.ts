// The lists of examples on a feature's page: the strongest, then the ten intervals from the highest down.

import type { Example, Feature } from '../data/types';
import { count, number, percent, plural } from '../text/numbers';

export interface Row {
  key: string; // unique on the page: list, then index of the example
  at: number; // index into feature.examples
  example: Example;
  maximum: number; // of its feature, which colours are shares of
}

export interface Group {
  id: string;
  title: string;
  says: string;
  rows: Row[];
}

export function groupsOf(feature: Feature, chosen: number | null): Group[] {
  const rows = (id: string, examples: number[]): Row[] =>
    examples.flatMap((at) => {
      const example = feature.examples[at];
      return example ? [{ key: `${id}-${at}`, at, example, maximum: feature.maximum }] : [];
    });
  const intervals = feature.intervals.map((interval, i): Group => ({
    id: `interval-${i}`,
    title: `${number(interval.low)} – ${number(interval.high)}`,
    says: `${plural(interval.count, 'firing')} (${percent(interval.share)}), ${drawn(interval.examples.length, interval.count)}`,
    rows: rows(`interval-${i}`, interval.examples),
  }));
  if (chosen !== null) return intervals[chosen] ? [intervals[chosen]] : [];
  const top: Group = {
    id: 'top',
    title: 'Strongest',
    says: `${count(feature.top.length)} of ${plural(feature.fired, 'firing')}`,
    rows: rows('top', feature.top),
  };
  return [top, ...intervals.reverse()].filter((group) => group.rows.length > 0);
}

function drawn(shown: number, all: number): string {
  return shown === all ? 'all shown' : `${count(shown)} drawn at random`;
}

export const listName = (list: 'top' | number): string => (list === 'top' ? 'the strongest' : `interval ${list + 1}`);
