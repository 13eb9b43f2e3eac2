// Talks to the server that sent this page: JSON, server-sent events, and failures in words.

import { credentials } from "./access.js";

const url = (path) => new URL(path, document.baseURI);

/** kind: unreachable, overloaded, limited, used_up, too_long, too_large, unauthorized, forbidden, unavailable, invalid, broken, failed or link. */
export class ApiError extends Error {
  constructor(kind, message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const KIND_OF_STATUS = { 401: "unauthorized", 403: "forbidden", 413: "too_large", 429: "overloaded", 503: "unavailable" };

const KIND_OF_CODE = { context_length_exceeded: "too_long", insufficient_quota: "used_up", rate_limit_exceeded: "limited", team_required: "forbidden" };

function toError(status, body, retryAfter = null) {
  const error = body?.error ?? {};
  const kind = KIND_OF_CODE[error.code] ?? KIND_OF_STATUS[status] ?? (status >= 500 ? "failed" : "invalid");
  return new ApiError(kind, error.message ?? `The server answered with status ${status}.`, { status, retryAfter });
}

async function request(path, body, { signal, session, method = body === undefined ? "GET" : "POST" } = {}) {
  const headers = credentials();
  if (body !== undefined) headers["content-type"] = "application/json";
  if (session) headers["x-session-id"] = session;
  let answer;
  try {
    answer = await fetch(url(path), { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "No answer came back.");
  }
  if (!answer.ok) {
    const seconds = Number(answer.headers.get("retry-after"));
    throw toError(answer.status, await answer.json().catch(() => null), seconds > 0 ? seconds : null);
  }
  return answer;
}

export async function getJson(path, options) {
  return (await request(path, undefined, options)).json();
}

export async function postJson(path, body, options) {
  return (await request(path, body, options)).json();
}

export async function remove(path) {
  return (await request(path, undefined, { method: "DELETE" })).json();
}

/** The objects of a stream, until `[DONE]`. Throws ApiError for an error event, and if the stream just ends. */
export async function* postStream(path, body, options) {
  const answer = await request(path, body, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  let complete = false;
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError("broken", "The connection was lost in the middle of the answer.");
      }
      if (part.done && complete) return;
      if (part.done) throw new ApiError("broken", "The answer ended before it was complete.");
      pending += part.value;
      const events = pending.split("\n\n");
      pending = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: ?/, "");
        if (data === "[DONE]") complete = true; // the end of the body comes next: the connection stays in use
        if (complete) continue;
        const value = JSON.parse(data);
        if (value.error) throw toError(value.error.code === "engine_unavailable" ? 503 : 500, value);
        yield value;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What to tell a person: a title, what it means, and what can be done about it (or null). */
export function explain(error) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : " Try again in a moment.";
  switch (error.kind) {
    case "unreachable":
      return { title: "The server is down.", detail: "Nothing answers at this address. This page asks again by itself.", action: null };
    case "overloaded":
      return { title: "The server is overloaded.", detail: `Its queue is full, so the request was not started.${wait}`, action: "retry" };
    case "unavailable":
      return { title: "The model is not available.", detail: `${error.message}${wait}`, action: "retry" };
    case "too_long":
      return { title: "Too long for the model’s window.", detail: error.message, action: "truncate" };
    case "too_large":
      return { title: "Too large.", detail: error.message, action: null };
    case "limited":
      return { title: "Too fast.", detail: `${error.message}${wait}`, action: "retry" };
    case "used_up":
      return { title: "The budget is used up.", detail: error.message, action: null };
    case "unauthorized":
      return { title: "The server wants a key.", detail: error.message, action: "key" };
    case "forbidden":
      return { title: "Not allowed.", detail: error.message, action: "key" };
    case "link":
      return { title: "This link cannot be read.", detail: "It was cut or changed on its way. Ask for it again.", action: null };
    case "broken":
      return { title: "The answer broke off.", detail: error.message, action: "retry" };
    case "invalid":
      return { title: "The request was refused.", detail: error.message, action: null };
    default:
      return { title: "The server failed.", detail: error.message, action: "retry" };
  }
}
