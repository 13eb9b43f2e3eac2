// One streamed completion request: its choices as they grow, and what can be measured from here.

import { postStream } from "./api.js";

const emptyChoice = (index) => ({ index, text: "", offsets: [], logprobs: [], alternatives: [], finishReason: null, endedBy: null });

export class Completion {
  /** body: of POST /v1/completions; the stream's options are set here. */
  constructor(body, { session = null } = {}) {
    this.body = { ...body, stream: true, stream_options: { include_usage: true } };
    this.session = session;
    this.choices = Array.from({ length: body.n ?? 1 }, (_, index) => emptyChoice(index));
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

  /** onText(choice, text) for every piece of text. Resolves at the end or when aborted; throws ApiError. */
  async run(onText) {
    this.running = true;
    this.startedAt = performance.now();
    const options = { signal: this.controller.signal, session: this.session };
    try {
      for await (const chunk of postStream("v1/completions", this.body, options)) {
        if (chunk.usage) this.usage = chunk.usage;
        for (const news of chunk.choices) this.add(news, onText);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.running = false;
    }
  }

  add(news, onText) {
    const choice = this.choices[news.index];
    if (news.text || news.logprobs) {
      this.lastAt = performance.now();
      this.firstAt ??= this.lastAt;
    }
    if (news.logprobs) {
      choice.offsets.push(...news.logprobs.text_offset);
      choice.logprobs.push(...news.logprobs.token_logprobs);
      choice.alternatives.push(...news.logprobs.top_logprobs.map((top, i) => ({ chosen: news.logprobs.tokens[i], top })));
    }
    choice.text += news.text;
    choice.finishReason = news.finish_reason ?? choice.finishReason;
    choice.endedBy = news.ended_by ?? choice.endedBy;
    if (news.text) onText(choice, news.text);
  }

  /** Milliseconds to the first token; null before it. */
  get ttft() {
    return this.firstAt === null ? null : this.firstAt - this.startedAt;
  }

  /** Generated tokens: the server's count, or before it is there, the tokens seen with log-probabilities. */
  get generated() {
    return this.usage?.completion_tokens ?? (this.choices.reduce((sum, choice) => sum + choice.logprobs.length, 0) || null);
  }

  /** Tokens a second after the first of each choice; null if there is too little to tell. */
  get speed() {
    const seconds = (this.lastAt - this.firstAt) / 1000;
    const tokens = (this.generated ?? 0) - this.choices.length;
    return seconds > 0.005 && tokens > 0 ? tokens / seconds : null;
  }
}
