// The corner of a page that says as whom it asks, and where that is changed.

import { hasKey, keyEnd, nameOf, setKey, signIn, signOut } from "./access.js";
import { announce, element } from "./dom.js";

function button(text, act, label = text) {
  const node = element("button", "", text);
  node.type = "button";
  if (label !== text) node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
}

/**
 * here: what `whoIsHere` found. target: the page that people come back to. enterKey(): asks for one. onChange(): a key
 * was forgotten.
 */
export function showWho(node, { here, target, enterKey, onChange }) {
  const parts = [];
  if (hasKey()) {
    const forget = () => {
      setKey("");
      announce("The key is forgotten.");
      onChange();
    };
    parts.push(element("span", "", `Key …${keyEnd()}`), button("Forget key", forget));
  } else if (here.user) {
    const leave = async () => {
      if (!(await signOut())) announce("Signing out did not work. Try again.");
    };
    parts.push(element("strong", "", nameOf(here.user)), button("Sign out", leave));
  } else {
    if (here.sign_on) parts.push(button("Sign in", () => signIn(target)));
    parts.push(button("API key", enterKey, "Enter an API key"));
  }
  node.replaceChildren(...parts);
}
