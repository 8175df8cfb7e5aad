// Single keys, in one place: a view says what its keys do while it is shown, and the help sheet lists them all.

import { settings } from './settings.svelte';

export type Keys = Record<string, () => void>;

const layers: Keys[] = [];

/** Adds keys until the returned function is called; the newest layer answers first. */
export function listen(keys: Keys): () => void {
  layers.push(keys);
  return () => void layers.splice(layers.lastIndexOf(keys), 1);
}

addEventListener('keydown', (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target as HTMLElement;
  if (target.closest('dialog')) return; // which closes on Escape by itself
  if (event.key !== 'Escape' && (!settings.keys || target.closest('input, textarea, select'))) return;
  for (const keys of [...layers].reverse()) {
    const act = keys[event.key];
    if (act) {
      event.preventDefault();
      act();
      return;
    }
  }
});

export const HELP: [keys: string, does: string][] = [
  ['?', 'this sheet'],
  ['t', 'theme: as the system, light, dark'],
  ['g', 'go to a feature by its number'],
  ['/', 'search'],
  ['n  p', 'next and previous feature'],
  ['1 … 9  0', 'show one of the ten intervals; again, or Esc: all'],
  ['c', 'more or less context around the tokens'],
  ['Tab', 'into the examples, and on'],
  ['↑ ↓', 'from example to example'],
  ['← →', 'from token to token, with its values'],
  ['Enter', 'pin the values of a token'],
  ['o', 'open or close the example’s window'],
  ['d', 'the whole text of an example'],
  ['r', 'to the next place that repeats this example'],
  ['Ctrl Enter', 'let the model write (Steer, Watch)'],
  ['Esc', 'close, unpin, show all; stop the model'],
];
