// What a client is told, in order, for one who waits for it.
export class Inbox {
  #told = [];
  #waiting = [];

  put(what) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(what);
    else this.#told.push(what);
  }

  next() {
    if (this.#told.length) return Promise.resolve(this.#told.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
