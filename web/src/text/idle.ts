// What can wait until the reader sees something.

const SOON = 50; // milliseconds, for browsers that do not say when they are idle
const LATEST = 500;

/** Calls `work` when the browser has nothing else to do; returns what calls it off. */
export function whenIdle(work: () => void): () => void {
  if (typeof requestIdleCallback === 'undefined') {
    const timer = setTimeout(work, SOON);
    return () => clearTimeout(timer);
  }
  const asked = requestIdleCallback(work, { timeout: LATEST });
  return () => cancelIdleCallback(asked);
}
