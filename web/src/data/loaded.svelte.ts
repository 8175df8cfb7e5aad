// A value that is on its way: the last one stays in sight until the next is there, and answers that come too late are dropped.

import { inWords, type Trouble } from './source';

export class Loaded<T> {
  value = $state.raw<T | undefined>(undefined);
  trouble = $state.raw<Trouble | null>(null);
  waiting = $state(false);
  #turn = 0;
  #again: () => void = () => {};

  load(ask: () => T | Promise<T>): void {
    const turn = ++this.#turn;
    this.#again = () => this.load(ask);
    const answer = ask();
    if (!(answer instanceof Promise)) {
      this.#take(answer);
      return;
    }
    this.waiting = true;
    answer.then(
      (value) => turn === this.#turn && this.#take(value),
      (error: unknown) => {
        if (turn !== this.#turn) return;
        this.waiting = false;
        this.trouble = inWords(error);
      },
    );
  }

  retry = (): void => this.#again();

  #take(value: T): void {
    this.value = value;
    this.trouble = null;
    this.waiting = false;
  }
}
