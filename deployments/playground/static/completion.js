// One streamed completion request: its choices as they grow.

import { Streamed } from "./streamed.js";

const emptyChoice = (index) => ({ index, text: "", offsets: [], logprobs: [], alternatives: [], finishReason: null, endedBy: null, attribution: [] });

export class Completion extends Streamed {
  /** body: of POST /v1/completions; the stream's options are set here. */
  constructor(body, { session = null } = {}) {
    super("v1/completions", { ...body, stream_options: { include_usage: true } }, session);
    this.choices = Array.from({ length: body.n ?? 1 }, (_, index) => emptyChoice(index));
  }

  /** onText(choice, text) for every piece of text. Resolves at the end or when aborted; throws ApiError. */
  run(onText) {
    return this.follow((chunk) => {
      if (chunk.usage) this.usage = chunk.usage;
      for (const news of chunk.choices) this.add(news, onText);
    });
  }

  /** Takes the choices of another completion of the same place. */
  join(other) {
    for (const choice of other.choices) this.choices.push({ ...choice, index: this.choices.length });
  }

  add(news, onText) {
    const choice = this.choices[news.index];
    if (news.text || news.logprobs) this.noteText();
    if (news.logprobs) {
      choice.offsets.push(...news.logprobs.text_offset);
      choice.logprobs.push(...news.logprobs.token_logprobs);
      choice.alternatives.push(...news.logprobs.top_logprobs.map((top, i) => ({ chosen: news.logprobs.tokens[i], top })));
    }
    choice.text += news.text;
    choice.finishReason = news.finish_reason ?? choice.finishReason;
    choice.endedBy = news.ended_by ?? choice.endedBy;
    choice.attribution = news.attribution ?? choice.attribution;
    if (news.text) onText(choice, news.text);
  }

  /** Generated tokens: the server's count, or before it is there, the tokens seen with log-probabilities. */
  get generated() {
    return this.usage?.completion_tokens ?? (this.choices.reduce((sum, choice) => sum + choice.logprobs.length, 0) || null);
  }

  /** Tokens a second after the first of each choice; null if there is too little to tell. */
  get speed() {
    return this.rate((this.generated ?? 0) - this.choices.length);
  }
}
