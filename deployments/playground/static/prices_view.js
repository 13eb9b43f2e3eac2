// What tokens cost. Prices are followed by newer ones, never changed.

import { ask } from "./dialogs.js";
import { announce } from "./dom.js";
import { time } from "./format.js";
import { prices, setPrice } from "./organization.js";
import { heading, table } from "./tables.js";

const amount = { inputMode: "decimal", pattern: "\\d+(\\.\\d+)?" };

/** standing: of who looks: administrators set prices. */
export async function showPrices(node, { standing }) {
  const found = await prices();
  const again = async (said) => {
    await showPrices(node, { standing });
    node.querySelector("h2").focus();
    announce(said);
  };
  node.replaceChildren(
    heading("Prices", ...(standing.admin ? [["New price", () => add(again)]] : [])),
    table({
      caption: "USD for 1,000 tokens",
      columns: ["Model", ...["Prompt", "From the cache", "Generated"].map((text) => ({ text, numeric: true })), "Valid from"],
      rows: found.map((price) => [
        price.model === "*" ? "all others" : price.model,
        price.input_usd_per_1k,
        price.cached_usd_per_1k,
        price.output_usd_per_1k,
        price.valid_from === 0 ? "the beginning" : time(price.valid_from),
      ]),
      empty: "There are no prices.",
    }),
  );
}

async function add(again) {
  const made = await ask({
    title: "New price",
    note: "Valid from now on. What has been used keeps the price of its time.",
    fields: [
      { name: "model", label: "Model", required: true, maxLength: 256, wide: true },
      { name: "input_usd_per_1k", label: "USD for 1,000 prompt tokens", required: true, ...amount },
      { name: "cached_usd_per_1k", label: "USD for 1,000 from the cache", placeholder: "as others", ...amount },
      { name: "output_usd_per_1k", label: "USD for 1,000 generated", required: true, ...amount },
    ],
    action: "Set it",
    onSubmit: (values) => setPrice(Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""))),
  });
  if (made) await again(`${made.model} has a new price.`);
}
