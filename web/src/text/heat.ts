// How strong a colour an activation gets. Logarithmic, because most activations are far below the largest and should show.

export const LEVELS = 10;

/** 0 for silence, else 1 to 10: ⌈10 · log10(1 + 9 · value / maximum)⌉. */
export function heat(value: number, maximum: number): number {
  if (!(value > 0) || !(maximum > 0)) return 0;
  return Math.min(LEVELS, Math.max(1, Math.ceil(LEVELS * Math.log10(1 + (9 * value) / maximum) - 1e-9)));
}

/** The largest value that still gets this level. */
export const ceiling = (level: number, maximum: number): number => (maximum * (10 ** (level / LEVELS) - 1)) / 9;

/** Class of a loss effect: blue and dotted below zero, red and solid above, heavier from a tenth of a nat. */
export function underline(effect: number | undefined): string {
  if (!effect) return '';
  const strong = Math.abs(effect) >= 0.1 ? ' strong' : '';
  return (effect < 0 ? 'lowers' : 'raises') + strong;
}
