// The width of a drawing's place. Asking for it while a page is being built would lay the page out in between, which is
// half the cost of a change of features; the observer tells it when the layout is done, still before it is painted.

export function widthOf(set: (width: number) => void): (node: HTMLElement) => () => void {
  return (node) => {
    const observer = new ResizeObserver(([entry]) => entry && set(Math.round(entry.contentRect.width)));
    observer.observe(node);
    return () => observer.disconnect();
  };
}
