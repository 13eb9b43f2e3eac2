// What else could stand at the cursor: choices of one completion, each text once, the likeliest first.

/** Mean log-probability of a token of `choice`; null where it was not asked for. */
export function certainty({ logprobs }) {
  return logprobs.length ? logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length : null;
}

/** [{choice, count}]: of choices with one text the first, and how many there are. */
export function merged(choices) {
  const byText = new Map();
  for (const choice of choices) {
    const known = byText.get(choice.text);
    if (known) known.count += 1;
    else byText.set(choice.text, { choice, count: 1 });
  }
  return [...byText.values()].sort((a, b) => (certainty(b.choice) ?? 0) - (certainty(a.choice) ?? 0));
}

/** The texts that somebody who has typed `begun` of one can still choose from. */
export const texts = (choices, begun = "") =>
  merged(choices).map(({ choice }) => choice.text).filter((text) => text.trim() && text.length > begun.length && text.startsWith(begun));
