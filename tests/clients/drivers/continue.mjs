import { constructLlmApi } from "@continuedev/openai-adapters";

import { collect } from "./collect.mjs";

const api = ({ provider, url, key = "unused" }) => constructLlmApi({ provider, apiBase: url, apiKey: key });

async function all(open, { body, abort_after: abortAfter }) {
  const abort = new AbortController();
  return collect(open({ ...body, stream: true }, abort.signal), abortAfter, () => abort.abort());
}

export const streamFim = (options) => all((...args) => api(options).fimStream(...args), options);
export const streamCompletion = (options) => all((...args) => api(options).completionStream(...args), options);
export const streamChat = (options) => all((...args) => api(options).chatCompletionStream(...args), options);
export const complete = (options) => api(options).completionNonStream(options.body, new AbortController().signal);
export const chat = (options) => api(options).chatCompletionNonStream(options.body, new AbortController().signal);
export const models = (options) => api(options).list();
