// What an exported file holds (kanary/app/packing.py writes it): every window of text once, and no number that follows from
// others. A feature's examples are worked out when it is looked at.

import type { Embedded, Example, Feature, Histogram, Interval, Logits, Meta, Pair } from './types';

const FIRST = 0x20; // the character of the most frequent token
const [HIGH, LOW_END] = [0xd800, 0xe000]; // surrogates, which stand for no token

interface PackedExamples {
  window: number[]; // index into windows
  document: number[];
  position: number[];
  focus: number[];
  activations: number[][]; // distance from the place before, value, distance, value, …
  effects: number[][]; // empty where no token has one
  alike: number[]; // the first example that shows the same tokens; empty where none does
}

type PackedLogits = Omit<Logits, 'histogram'> & { histogram: { low?: number; high?: number; counts: number[] } };

type PackedFeature = Omit<Feature, 'examples' | 'intervals' | 'histogram' | 'logits'> & {
  examples: PackedExamples;
  intervals: number[][];
  histogram: number[];
  logits: PackedLogits | null;
};

interface Windows {
  text: string[]; // a character for every token
  window: number[];
  special: number[][];
  starts: number[][];
}

export interface Packed {
  saes: Meta[];
  tokens: string[];
  windows: Windows;
  features: PackedFeature[];
}

export function unpack(packed: Packed): Embedded {
  const read: string[][] = [];
  const tokensOf = (window: number) => (read[window] ??= decoded(packed.windows.text[window] ?? '', packed.tokens));
  const features = packed.features.map((one): Feature => {
    const { examples, intervals, histogram, logits, ...rest } = one;
    const spans = intervalsOf(intervals, one);
    let made: Example[] | undefined;
    return {
      ...rest,
      histogram: { edges: even(0, one.maximum, histogram.length), counts: histogram },
      intervals: spans,
      logits: logits && { ...logits, histogram: between(logits.histogram) },
      get examples() {
        return (made ??= examplesOf(examples, packed.windows, tokensOf, shownIn(one.top, spans)));
      },
    };
  });
  return { saes: packed.saes, features };
}

function decoded(text: string, tokens: string[]): string[] {
  return Array.from(text, (letter) => {
    const code = letter.codePointAt(0) as number;
    return tokens[code - FIRST - (code < HIGH ? 0 : LOW_END - HIGH)] ?? '';
  });
}

const even = (low: number, high: number, bins: number): number[] =>
  Array.from({ length: bins + 1 }, (_, i) => low + ((high - low) * i) / bins);

function between({ low, high, counts }: PackedLogits['histogram']): Histogram {
  return { edges: low === undefined || high === undefined ? [] : even(low, high, counts.length), counts };
}

/** Ten even intervals of (0, maximum], each with as many bins of the histogram. */
function intervalsOf(examples: number[][], { maximum, fired, histogram }: PackedFeature): Interval[] {
  const ends = even(0, maximum, examples.length);
  const bins = histogram.length / examples.length;
  return examples.map((shown, i) => {
    const count = histogram.slice(i * bins, (i + 1) * bins).reduce((sum, n) => sum + n, 0);
    return { low: ends[i] as number, high: ends[i + 1] as number, count, share: fired ? count / fired : 0, examples: shown };
  });
}

function shownIn(top: number[], intervals: Interval[]): (example: number) => ('top' | number)[] {
  const lists = new Map<number, ('top' | number)[]>(top.map((example) => [example, ['top']]));
  intervals.forEach(({ examples }, i) => examples.forEach((one) => lists.set(one, [...(lists.get(one) ?? []), i])));
  return (example) => lists.get(example) ?? [];
}

function examplesOf(
  packed: PackedExamples,
  windows: Windows,
  tokensOf: (window: number) => string[],
  lists: (example: number) => ('top' | number)[],
): Example[] {
  const groups = new Map<number, number[]>();
  packed.alike.forEach((first, i) => groups.set(first, [...(groups.get(first) ?? []), i]));
  return packed.window.map((window, i) => {
    const activations = pairs(packed.activations[i] ?? []);
    const focus = packed.focus[i] ?? 0;
    return {
      window: windows.window[window] ?? 0,
      document: packed.document[i] ?? 0,
      position: packed.position[i] ?? 0,
      focus,
      value: activations.find(([at]) => at === focus)?.[1] ?? 0,
      tokens: tokensOf(window),
      special: windows.special[window] ?? [],
      starts: windows.starts[window] ?? [],
      activations,
      effects: pairs(packed.effects[i] ?? []),
      repeats: (groups.get(packed.alike[i] as number) ?? []).filter((other) => other !== i),
      in: lists(i),
    };
  });
}

function pairs(flat: number[]): Pair[] {
  let at = 0;
  return Array.from({ length: flat.length / 2 }, (_, i) => [(at += flat[2 * i] as number), flat[2 * i + 1] as number]);
}
