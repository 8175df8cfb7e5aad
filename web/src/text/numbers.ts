// Numbers as people read them: few digits, true minus signs, groups of three between commas.

const NOTHING = '–';

/** A value with at most `digits` significant digits. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value === 0) return '0';
  const size = Math.abs(value);
  const text =
    size >= 1e6 || size < 1e-4
      ? value.toExponential(digits - 1).replace(/\.?0+e/, 'e').replace('e+', 'e')
      : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, '−');
}

/** A value with exactly three significant digits: for columns, which then line up. */
export function even(value: number): string {
  const size = Math.abs(value);
  return size >= 1000 || size < 0.001 ? number(value) : value.toPrecision(3).replace('-', '−');
}

/** Three decimals, without the zero before the point that a correlation or a score does not need. */
export function share(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  return value.toFixed(3).replace(/^(-?)0\./, '$1.').replace('-', '−');
}

export function signed(value: number, digits = 3): string {
  return (value > 0 ? '+' : '') + number(value, digits);
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? NOTHING : String(value).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Short counts for small places: 1.2k, 34M. */
export function brief(value: number): string {
  if (value < 1000) return String(value);
  const [size, unit] = value < 1e6 ? [1e3, 'k'] : value < 1e9 ? [1e6, 'M'] : [1e9, 'G'];
  return `${Number((value / size).toPrecision(2))}${unit}`;
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value !== 0 && Math.abs(value) < 1e-5) return `${number(value * 100, 1)}\u00a0%`;
  return `${Number((value * 100).toPrecision(value < 0.1 ? 2 : 3))}\u00a0%`;
}

export const duration = (ms: number): string => (ms < 1000 ? `${number(ms, 2)} ms` : `${number(ms / 1000, 2)} s`);

export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`;
