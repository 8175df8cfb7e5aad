// Tokens as stops of the keyboard: one of a group can be reached by Tab, the others by arrows from there.

/** Makes `token` the one stop among `group` and says `label` of it. */
export function makeStop(group: Element, token: HTMLElement, label: string): void {
  for (const other of group.querySelectorAll('[data-i][tabindex]')) {
    if (other !== token) for (const name of ['tabindex', 'role', 'aria-label']) other.removeAttribute(name);
  }
  token.tabIndex = 0;
  token.setAttribute('role', 'button');
  token.setAttribute('aria-label', label);
}

/** The token `by` places after `from` in the group, if there is one. */
export function neighbour(group: Element, from: HTMLElement, by: number): HTMLElement | undefined {
  const shown = [...group.querySelectorAll<HTMLElement>('[data-i]')];
  return shown[shown.indexOf(from) + by];
}
