// Tokens are text from anywhere. What cannot be seen is drawn as a glyph, and what could reorder a line is named, not obeyed.

const NAMED: Record<string, string> = { '\n': '↵', '\t': '⇥' };

// C0 and C1 controls; soft hyphen; zero-width and invisible; marks, embeddings and isolates of writing direction; line and
// paragraph separators; tags and variation selectors of the supplementary planes; lone surrogates.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

export const BREAK = '↵';

function glyph(unseen: string): string {
  const named = NAMED[unseen];
  if (named) return named;
  return `⟨U+${(unseen.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, '0')}⟩`;
}

const known = new Map<string, string>();
const KNOWN = 50_000; // tokens: about the vocabulary of a language model

/** The token as it is shown: everything in it can be seen. */
export function visible(token: string): string {
  let shown = known.get(token);
  if (shown === undefined) {
    shown = token.replace(UNSEEN, glyph);
    if (known.size >= KNOWN) known.clear();
    known.set(token, shown);
  }
  return shown;
}

/** The token alone, where its spaces would be lost: a leading space becomes ␣. */
export const chip = (token: string): string => visible(token).replace(/^ +| +$/g, (spaces) => '␣'.repeat(spaces.length)) || '∅';

// Hebrew, Arabic, Syriac, Thaana, N'Ko … and their presentation forms.
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]|[\u{10800}-\u{10fff}]|[\u{1e800}-\u{1efff}]/u;

export const runsRightToLeft = (text: string): boolean => RIGHT_TO_LEFT.test(text);
