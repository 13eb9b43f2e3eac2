// Fields of a form for limits a minute and at once, of a key or of a team.

const FIELDS = [
  ["requests_per_minute", "Requests a minute"],
  ["tokens_per_minute", "Tokens a minute"],
  ["parallel", "Requests at once"],
];

export const limitFields = (now) =>
  FIELDS.map(([name, label]) => ({ name, label, type: "number", min: 1, step: 1, value: now[name] ?? "", placeholder: "no limit" }));

/** What is sent for it: an empty field takes the limit away. */
export const limitsOf = (values) => Object.fromEntries(FIELDS.map(([name]) => [name, values[name] === "" ? null : Number(values[name])]));
