// The dialog with a link to what the page holds.

import { byId, copy } from "./dom.js";
import { toFragment } from "./share.js";

/** Copies a link to `state`, puts it into the address and shows it. */
export async function share(state) {
  const fragment = await toFragment(state);
  byId("share-note").textContent = fragment
    ? `${(await copy(new URL(fragment, location.href).href)) ? "The link is copied. " : ""}It holds the code and the parameters in its last part, which browsers send to no server. Your key is not in it.`
    : "This is too much for a link: take out code or context files.";
  byId("share-link").hidden = !fragment;
  if (fragment) {
    history.replaceState(null, "", fragment);
    byId("share-link").value = location.href;
  }
  byId("share-dialog").showModal();
  if (fragment) byId("share-link").select();
}
