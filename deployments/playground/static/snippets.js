// The current request as code to copy, and editors' configurations. The key is never in it: a variable stands for it.

import { ANSWER_SHARE, CLIENTS, NO_KEY } from "./clients.js";

const KEY_VARIABLE = "STARCODER_API_KEY";

/** Fields that OpenAI's client does not know go into `extra_body`. */
const OPENAI_FIELDS = new Set(["model", "prompt", "suffix", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "logprobs"]);

const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(value, indent = 0) {
  const inner = " ".repeat(indent + 4);
  const close = `\n${" ".repeat(indent)}`;
  if (value === true || value === false) return value ? "True" : "False";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((item) => `${inner}${python(item, indent + 4)},\n`).join("")}${close.slice(1)}]` : "[]";
  if (value !== null && typeof value === "object")
    return `{\n${Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${python(item, indent + 4)},\n`).join("")}${close.slice(1)}}`;
  return value === null ? "None" : JSON.stringify(value);
}

function curl({ origin, path, body, withKey }) {
  const lines = [`curl ${origin}/${path}`, "-H 'content-type: application/json'"];
  if (withKey) lines.push(`-H "authorization: Bearer $${KEY_VARIABLE}"`);
  lines.push(`-d ${shellQuote(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

function pythonOpenai({ origin, body, withKey }) {
  const known = Object.entries(body).filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI_FIELDS.has(name)));
  const fields = known.map(([name, value]) => `    ${name}=${python(value, 4)},\n`).join("");
  const rest = Object.keys(extra).length ? `    extra_body=${python(extra, 4)},\n` : "";
  const [call, end] = body.n // streams of several choices come interleaved
    ? ["answer = client.completions.create(\n", ")\nfor choice in answer.choices:\n    print(choice.text)\n"]
    : ["for chunk in client.completions.create(\n", '    stream=True,\n):\n    print(chunk.choices[0].text, end="", flush=True)\n'];
  return (
    `${withKey ? "import os\n\n" : ""}from openai import OpenAI\n\n` +
    `client = OpenAI(base_url="${origin}/v1", api_key=${withKey ? `os.environ["${KEY_VARIABLE}"]` : '"unused"'})\n` +
    call + fields + rest + end
  );
}

function pythonPlain({ origin, path, body, withKey }) {
  const headers = withKey ? `\n    headers={"authorization": f"Bearer {os.environ['${KEY_VARIABLE}']}"},` : "";
  return (
    `${withKey ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.post(\n    "${origin}/${path}",\n    json=${python(body, 4)},${headers}\n    timeout=120,\n)\n` +
    `answer.raise_for_status()\nprint(answer.json()["diff"])\n`
  );
}

function javascript({ origin, path, body, withKey }) {
  const headers = { "content-type": "application/json" };
  const key = withKey ? `, authorization: \`Bearer \${process.env.${KEY_VARIABLE}}\`` : "";
  return (
    `const answer = await fetch(${JSON.stringify(`${origin}/${path}`)}, {\n  method: "POST",\n` +
    `  headers: { "content-type": ${JSON.stringify(headers["content-type"])}${key} },\n` +
    `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\n` +
    `if (!answer.ok) throw new Error(await answer.text());\nconst result = await answer.json();\n` +
    `console.log(${path === "v1/refactor" ? "result.diff" : "result.choices[0].text"});\n`
  );
}

/** The configuration of somebody else's program for this server: deployments/clients/client.py says what its places mean. */
const configuration = ({ configuration: text }) => ({ origin, body, withKey, window: tokens }) => {
  const answer = Math.floor(tokens / ANSWER_SHARE);
  const values = {
    origin,
    model: JSON.stringify(body.model ?? "").slice(1, -1),
    key: withKey ? "YOUR_KEY" : NO_KEY,
    answer: String(answer),
    prompt: String(tokens - answer),
  };
  return text.replace(/\{\{(\w+)\}\}/g, (_, place) => values[place]);
};

const editors = Object.entries(CLIENTS).map(([name, client]) => [
  name,
  { label: `Editor: ${client.name}`, write: configuration(client), note: `In ${client.file}. ${client.note}`, task: "complete" },
]);

/** Name to {label, write, note, task}: `write` takes {origin, path, body, withKey, window}; task: only for this one. */
export const snippets = {
  curl: { label: "curl", write: curl },
  python: { label: "Python, openai", write: pythonOpenai, task: "complete" },
  httpx: { label: "Python, httpx", write: pythonPlain, task: "refactor" },
  javascript: { label: "JavaScript, fetch", write: javascript },
  ...Object.fromEntries(editors),
};
