// A streamed request: its beginning, its end, and what can be measured from here.

import { postStream } from "./api.js";

/** Fewer say nothing of the speed: they may have come in one piece. */
const LEAST_TOKENS = 8;

export class Streamed {
  constructor(path, body, session = null) {
    this.path = path;
    this.body = { ...body, stream: true };
    this.session = session;
    this.usage = null;
    this.startedAt = this.firstAt = this.lastAt = null;
    this.running = false;
    this.controller = new AbortController();
  }

  abort() {
    this.controller.abort();
  }

  get aborted() {
    return this.controller.signal.aborted;
  }

  /** onChunk(chunk) for every chunk. Resolves at the end or when aborted; throws ApiError. */
  async follow(onChunk) {
    this.running = true;
    this.startedAt = performance.now();
    try {
      for await (const chunk of postStream(this.path, this.body, { signal: this.controller.signal, session: this.session })) onChunk(chunk);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.running = false;
    }
  }

  /** To be called when text has come. */
  noteText() {
    this.lastAt = performance.now();
    this.firstAt ??= this.lastAt;
  }

  /** Milliseconds to the first token; null before it. */
  get ttft() {
    return this.firstAt === null ? null : this.firstAt - this.startedAt;
  }

  /** Tokens a second, of those behind the first ones; null if there is too little to tell. */
  rate(tokens) {
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return seconds > 0.005 && tokens >= LEAST_TOKENS ? tokens / seconds : null;
  }
}
