// What the page holds, kept by the tab: over a reload, and over the way to an identity provider and back.

import { checked } from "./share.js";

const KEY = "starcoder-draft";

export function keepDraft(state) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ link: location.hash, state }));
  } catch { /* storage is full or forbidden: then it is lost */ }
}

/** The state that was kept; null where there is none, or where the address holds another one since. */
export function recallDraft() {
  try {
    const { link, state } = JSON.parse(sessionStorage.getItem(KEY));
    return location.hash && location.hash !== link ? null : checked(state);
  } catch {
    return null;
  }
}
