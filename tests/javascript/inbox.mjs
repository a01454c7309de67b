// The changes that a client receives, in order; `next` waits for one.

const TIMEOUT_MILLISECONDS = 30_000;

export class Inbox {
  #changes = [];
  #waiting = [];

  put(change) {
    const resolve = this.#waiting.shift();
    if (resolve) resolve(change);
    else this.#changes.push(change);
  }

  next() {
    if (this.#changes.length) return Promise.resolve(this.#changes.shift());
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Error(`no change arrived within ${TIMEOUT_MILLISECONDS} ms`));
      const timer = setTimeout(fail, TIMEOUT_MILLISECONDS);
      this.#waiting.push((change) => {
        clearTimeout(timer);
        resolve(change);
      });
    });
  }
}
