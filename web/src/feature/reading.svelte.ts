// The one crosshair of a feature's page: what the reader points at, wherever it is, and what every drawing marks.

export interface Place {
  token: string;
  activation: number;
  effect: number | null;
  logit: number | null;
  special: boolean;
  row: string; // which row of the list: its place holds the token
  index: number;
}

class Reading {
  place = $state.raw<Place | null>(null);
  pinned = $state(false);
  /** Activations that the pointer marks in the histogram: tokens with such a value are outlined. */
  band = $state.raw<[low: number, high: number] | null>(null);

  point(place: Place | null): void {
    if (!this.pinned) this.place = place;
  }

  pin(place: Place): void {
    const same = this.pinned && this.place?.row === place.row && this.place.index === place.index;
    this.pinned = !same;
    this.place = place;
  }

  clear(): void {
    this.pinned = false;
    this.place = null;
    this.band = null;
  }
}

export const reading = new Reading();
