// How a text is to be written, kept in the address so that a link shows the same.

import { isWay, type Steered } from './ways';

export interface How {
  prompt: string;
  tokens: number;
  temperature: number;
  seed: number;
}

const DEFAULT: How = { prompt: '', tokens: 60, temperature: 0.8, seed: 0 };

export function howOf(query: URLSearchParams): How {
  return {
    prompt: query.get('prompt') ?? DEFAULT.prompt,
    tokens: whole(query.get('tokens'), DEFAULT.tokens, 1, 2000),
    temperature: within(query.get('t'), DEFAULT.temperature, 0, 10),
    seed: whole(query.get('seed'), DEFAULT.seed, 0, 2 ** 31),
  };
}

/** Of `f=12:2`, or `f=12:0.5:cap` where it is not added. */
export function editsOf(query: URLSearchParams): Steered[] {
  return query.getAll('f').flatMap((text) => {
    const [number, strength = '2', way = 'add'] = text.split(':', 3);
    const [feature, amount] = [Number(number), Number(strength)];
    return Number.isInteger(feature) && feature >= 0 && Number.isFinite(amount) && isWay(way) ? [{ feature, way, amount }] : [];
  });
}

export function inAddress(how: How, edits: Steered[] = [], more: [string, string][] = []): URLSearchParams {
  const written: [string, string][] = [['prompt', how.prompt], ...edits.map(({ feature, amount, way }): [string, string] => ['f', way === 'add' ? `${feature}:${amount}` : `${feature}:${amount}:${way}`])];
  for (const [name, value, usual] of [['tokens', how.tokens, DEFAULT.tokens], ['t', how.temperature, DEFAULT.temperature], ['seed', how.seed, DEFAULT.seed]] as const) {
    if (value !== usual) written.push([name, String(value)]);
  }
  return new URLSearchParams([...written, ...more]);
}

function within(text: string | null, usual: number, low: number, high: number): number {
  const value = text === null || text === '' ? usual : Number(text);
  return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : usual;
}

const whole = (text: string | null, usual: number, low: number, high: number): number => Math.round(within(text, usual, low, high));
