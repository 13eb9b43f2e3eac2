// Drives one npm package for the tests: `node run.mjs openai` answers each line of JSON with a line of JSON.
//
// A request is {"id", "call": <function of the module>, "options": <its argument>}. An answer is {"id", "result"}, or
// {"id", "error"} with what the package's own error object says. Streams are lists of what they yielded; with
// `abort_after` in the options, the stream is aborted after so many parts, in the package's own way.
import { createInterface } from "node:readline";

// Continue's package logs to the standard output.
console.log = console.error;
const calls = await import(`./${process.argv[2]}.mjs`);

function described(error) {
  return {
    name: error.constructor.name,
    message: String(error.message),
    status: error.status ?? error.httpResponse?.status ?? null,
    code: error.code ?? null,
    param: error.param ?? null,
    type: error.type ?? null,
    body: error.httpResponse?.body ?? error.error ?? null,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, options } = JSON.parse(line);
  let answer;
  try {
    answer = { id, result: (await calls[call](options)) ?? null };
  } catch (error) {
    answer = { id, error: described(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
