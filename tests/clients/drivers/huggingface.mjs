import { InferenceClient } from "@huggingface/inference";

import { collect } from "./collect.mjs";

// It asks again at once, for as long as a server answers 503, unless it is told not to.
const client = ({ url }) => new InferenceClient("unused", { retry_on_error: false }).endpoint(url);

export const generate = (options) => client(options).textGeneration(options.body);
export const chat = (options) => client(options).chatCompletion(options.body);

export async function streamGeneration(options) {
  const abort = new AbortController();
  const stream = client(options).textGenerationStream(options.body, { signal: abort.signal });
  return collect(stream, options.abort_after, () => abort.abort());
}

export async function streamChat(options) {
  const abort = new AbortController();
  const stream = client(options).chatCompletionStream(options.body, { signal: abort.signal });
  return collect(stream, options.abort_after, () => abort.abort());
}
