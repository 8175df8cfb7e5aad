// Paints the tokens of one example. Done by hand, because a page shows thousands: neighbours that do not fire and have no
// effect share one text node (four times fewer milliseconds than an element each). A line that is being read, by
// pointer or by keyboard, is painted again with an element for every token.

import type { Example } from '../data/types';
import { BREAK, runsRightToLeft, visible } from './glyphs';
import { heat, underline } from './heat';

export interface Line {
  tokens: string[];
  values: Map<number, number>;
  effects: Map<number, number>;
  special: Set<number>;
  starts: Set<number>;
  focus: number; // -1 where no token is the one shown
  leftward?: boolean; // some letters run from right to left
}

const lines = new WeakMap<Example, Line>();

export function lineOf(example: Example): Line {
  let line = lines.get(example);
  if (!line) {
    line = {
      tokens: example.tokens,
      values: new Map(example.activations),
      effects: new Map(example.effects),
      special: new Set(example.special),
      starts: new Set(example.starts),
      focus: example.focus,
      leftward: runsRightToLeft(example.tokens.join('')),
    };
    lines.set(example, line);
  }
  return line;
}

export interface Painting {
  from: number;
  to: number; // exclusive
  maximum: number;
  each: boolean; // an element for every token
  breaks: boolean; // newlines end the line, as in the document
}

/** Replaces what is in `place` by the tokens from `from` to `to`. */
export function paint(place: HTMLElement, line: Line, how: Painting): void {
  const made = document.createDocumentFragment();
  let quiet: number[] = [];
  const flush = (end = '') => {
    if (how.each) made.append(separate(line, quiet, how), end);
    else if (quiet.length || end) made.append(merged(line, quiet, how, end));
    quiet = [];
  };
  for (let i = Math.max(0, how.from); i < Math.min(how.to, line.tokens.length); i++) {
    if (line.starts.has(i)) {
      flush();
      made.append(element('span', 'start', '¶ '));
    }
    if (loud(line, i)) {
      const spaced = outside(line.tokens[i] ?? '');
      flush(spaced);
      made.append(token(line, i, how, spaced));
    } else quiet.push(i);
  }
  flush();
  place.replaceChildren(made);
}

const loud = (line: Line, i: number): boolean =>
  i === line.focus || line.values.has(i) || line.effects.has(i) || line.special.has(i);

function shown(text: string, how: Painting): string {
  const seen = visible(text);
  return how.breaks && text.includes('\n') ? seen.replaceAll(BREAK, `${BREAK}\n`) : seen;
}

/** The space that most tokens begin with stands before a token's colour, so that words stay apart. */
const outside = (token: string): string => (token.length > 1 && token.startsWith(' ') ? ' ' : '');

function merged(line: Line, run: number[], how: Painting, end: string): Node {
  let text = '';
  for (const i of run) text += shown(line.tokens[i] ?? '', how);
  text += end;
  if (line.leftward === false || !runsRightToLeft(text)) return document.createTextNode(text);
  const part = isolated();
  part.textContent = text;
  return part;
}

/** Letters that run to the left turn their own words only: tokens stand from left to right. */
function isolated(): HTMLElement {
  const part = document.createElement('bdi');
  part.dir = 'ltr';
  return part;
}

function separate(line: Line, run: number[], how: Painting): Node {
  const parts = run.map((i) => {
    const part = element('span', 'token', shown(line.tokens[i] ?? '', how));
    part.setAttribute('data-i', String(i));
    return part;
  });
  const leftward = line.leftward !== false && runsRightToLeft(run.map((i) => line.tokens[i]).join(''));
  const place = leftward ? isolated() : document.createDocumentFragment();
  place.append(...parts);
  return place;
}

/** A token with its colour, without what is `outside` of it. */
function token(line: Line, i: number, how: Painting, outside: string): HTMLElement {
  const text = (line.tokens[i] ?? '').slice(outside.length);
  const level = heat(line.values.get(i) ?? 0, how.maximum);
  const effect = underline(line.effects.get(i));
  const classes = `token${effect && ` ${effect}`}${level ? ` h${level}` : ''}${line.special.has(i) ? ' special' : ''}`;
  const name = i === line.focus ? 'b' : 'bdi';
  const part = element(name, classes, shown(text, how));
  part.setAttribute('data-i', String(i));
  return part;
}

function element(name: string, classes: string, text: string): HTMLElement {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.textContent = text;
  return made;
}
