// How fast an answer comes: time to its first token, and tokens per second after that.

/** Counts the pieces of one answer. Times are in milliseconds, by `performance.now`. */
export class Meter {
  #started = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  /** A piece arrived. Servers send one token a piece unless characters wait for their other bytes. */
  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  /** The server's own count, which replaces that of pieces. */
  usage(usage) {
    this.#usage = usage;
  }

  /** {firstToken (ms), rate (tokens per second), tokens, prompt, cached}; null for what is not known. */
  figures() {
    const tokens = this.#usage?.completion_tokens ?? this.#pieces;
    const span = this.#last - this.#first;
    return {
      firstToken: this.#first === null ? null : this.#first - this.#started,
      rate: tokens > 1 && span > 0 ? ((tokens - 1) * 1000) / span : null,
      tokens,
      prompt: this.#usage?.prompt_tokens ?? null,
      cached: this.#usage?.prompt_tokens_details?.cached_tokens ?? null,
    };
  }
}
