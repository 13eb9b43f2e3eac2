// Asks for a key, and tries it before it is kept.

import { hasKey, setKey, signIn } from "./access.js";
import { ask } from "./dialogs.js";
import { element } from "./dom.js";

/**
 * Whether there is another key now. signOn: whether people can sign in; target: the page that they come back to;
 * check(): asks the server something with the key, and throws if it is refused.
 */
export function askForKey({ signOn, target, check }) {
  const extra = [];
  if (signOn) {
    const button = element("button", "", "Sign in instead");
    button.type = "button";
    button.addEventListener("click", () => signIn(target));
    extra.push(button, element("span", "spacer"));
  }
  return ask({
    title: hasKey() ? "Use another API key" : "This server needs an API key",
    note: "It begins with sk-sc-. It is kept in this tab until you close it or forget it, and is in no link and no copied code.",
    fields: [{ name: "key", label: "API key", type: "password", required: true, spellcheck: false, wide: true, id: "key" }],
    action: "Use it",
    extra,
    onSubmit: async ({ key }) => {
      if (!/^[!-~]+$/.test(key)) throw new Error("That is no API key.");
      setKey(key);
      try {
        await check();
      } catch (error) {
        if (error.kind !== "unauthorized") return;
        setKey("");
        throw error;
      }
    },
  });
}
