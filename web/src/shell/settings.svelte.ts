// What the reader chose, kept in this browser only.

type Theme = 'system' | 'light' | 'dark';

function kept(name: string): string | null {
  try {
    return localStorage.getItem(`kanary-${name}`);
  } catch {
    return null; // a file opened from disk may have no storage
  }
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(`kanary-${name}`, value);
  } catch {
    // the choice then lasts as long as the page
  }
}

const THEMES: Theme[] = ['system', 'light', 'dark'];
export const CONTEXTS = [4, 12, Infinity];

class Settings {
  theme = $state<Theme>(THEMES.find((theme) => theme === kept('theme')) ?? 'system');
  /** Tokens shown on either side of the focus token; Infinity is the whole window. */
  context = $state(kept('context') === 'window' ? Infinity : kept('context') === '12' ? 12 : 4);
  effects = $state(kept('effects') !== 'off');
  keys = $state(kept('keys') !== 'off');
  /** Hints that were read. */
  read = $state.raw(kept('read')?.split(' ') ?? []);

  setTheme(theme: Theme): void {
    this.theme = theme;
    keep('theme', theme);
    this.applyTheme();
  }

  nextTheme(): void {
    this.setTheme(THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length] as Theme);
  }

  applyTheme(): void {
    if (this.theme === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.theme;
  }

  setContext(tokens: number): void {
    this.context = tokens;
    keep('context', tokens === Infinity ? 'window' : String(tokens));
  }

  nextContext(): void {
    this.setContext(CONTEXTS[(CONTEXTS.indexOf(this.context) + 1) % CONTEXTS.length] as number);
  }

  setEffects(on: boolean): void {
    this.effects = on;
    keep('effects', on ? 'on' : 'off');
  }

  setRead(hint: string): void {
    this.read = [...this.read, hint];
    keep('read', this.read.join(' '));
  }

  setKeys(on: boolean): void {
    this.keys = on;
    keep('keys', on ? 'on' : 'off');
  }
}

export const settings = new Settings();
