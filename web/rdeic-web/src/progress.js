// How far a decode has come, and whether to go on.

/** Counts the parts of one decode. Between parts, messages get their turn, so that an abort is heard. */
export class Progress {
  #signal;
  #report;
  #clock;
  #total;
  #done = 0;

  /** `report`: called with { stage, done, total } before each part; `clock`: told of the stages' seconds. */
  constructor({ signal, report, clock }) {
    this.#signal = signal;
    this.#report = report;
    this.#clock = clock;
  }

  /** Sets the number of parts. */
  start(total) {
    this.#total = total;
  }

  /** Begins a part; `again`: a further piece of the part that began last. Throws the signal's reason. */
  async begin(stage, again = false) {
    this.#clock.enter(stage);
    await nextTurn();
    this.#signal?.throwIfAborted();
    this.#report({ stage, done: this.#done - (again ? 1 : 0), total: this.#total });
    if (!again) ++this.#done;
  }

  /** Reports that all parts are done. */
  end() {
    this.#clock.enter(null);
    this.#report({ stage: "done", done: this.#total, total: this.#total });
  }
}

/** Seconds by stage. */
export class Clock {
  seconds = {};
  #stage = null;
  #since = 0;

  /** Ends the current stage and begins another; null: none. */
  enter(stage) {
    const now = performance.now();
    if (this.#stage !== null) {
      this.seconds[this.#stage] = (this.seconds[this.#stage] ?? 0) + (now - this.#since) / 1000;
    }
    this.#stage = stage;
    this.#since = now;
  }
}

/** Returns once waiting messages are handled. */
function nextTurn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
