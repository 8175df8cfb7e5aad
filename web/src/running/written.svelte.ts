// A text that the model is writing.

import type { Alarm, Asked, Piece, Running } from '../data/running';
import { inWords, type Trouble } from '../data/source';

export interface Said {
  text: string;
  alarms: Alarm[];
}

export class Written {
  said = $state.raw<Said[]>([]); // a part per written token; those of the prompt are left out
  pieces = $state.raw<Piece[]>([]); // with the prompt's
  ended = $state('');
  record = $state<string | null>(null);
  trouble = $state.raw<Trouble | null>(null);
  busy = $state(false);
  #asking: AbortController | null = null;

  async start(running: Running, sae: string, asked: Asked): Promise<void> {
    this.stop();
    const mine = (this.#asking = new AbortController());
    const [said, pieces]: [Said[], Piece[]] = [[], []];
    [this.said, this.pieces, this.ended, this.record, this.trouble, this.busy] = [[], [], '', null, null, true];
    try {
      for await (const event of running.write(sae, asked, mine.signal)) {
        if (mine !== this.#asking) return;
        if ('end' in event) {
          if (event.rest) said.push({ text: event.rest, alarms: [] });
          if (event.problem) this.trouble = inWords(new Error(event.problem));
          [this.ended, this.record] = [event.end, event.record];
        } else {
          pieces.push(event);
          if (event.written) said.push({ text: event.text, alarms: event.alarms ?? [] });
        }
        [this.said, this.pieces] = [[...said], [...pieces]];
      }
    } catch (error) {
      if (mine === this.#asking && !mine.signal.aborted) this.trouble = inWords(error);
    } finally {
      if (mine === this.#asking) this.busy = false;
    }
  }

  /** At once: the server gives the place free when it notices. */
  stop(): void {
    this.#asking?.abort();
    if (this.busy) this.ended = 'cancelled';
    this.busy = false;
  }
}

const WHY: Record<string, string> = {
  stop: 'The model ended it.',
  length: 'As long as asked for.',
  alarm: 'Stopped by an alarm.',
  error: '',
  cancelled: 'Stopped.',
};

export const whyEnded = (ended: string): string => WHY[ended] ?? ended;
