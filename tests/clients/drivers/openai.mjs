import OpenAI from "openai";

import { collect } from "./collect.mjs";

function client({ url, retries = 0 }) {
  return new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: retries });
}

async function all(create, { body, abort_after: abortAfter }) {
  const stream = await create({ ...body, stream: true });
  return collect(stream, abortAfter, () => stream.controller.abort());
}

export const complete = (options) => client(options).completions.create(options.body);
export const streamCompletion = (options) => all((body) => client(options).completions.create(body), options);
export const chat = (options) => client(options).chat.completions.create(options.body);
export const streamChat = (options) => all((body) => client(options).chat.completions.create(body), options);
export const models = async (options) => (await client(options).models.list()).data;
export const model = (options) => client(options).models.retrieve(options.id);

// The helper that adds a stream up to one chat completion.
export async function accumulatedChat(options) {
  const runner = client(options).chat.completions.stream(options.body);
  return runner.finalChatCompletion();
}
