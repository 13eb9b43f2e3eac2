// A state of the page in the fragment of its address: it reaches no server. The API key is never part of it.

const PREFIX = "#s=";
const MAX_LINK = 100_000; // characters
const MAX_STATE = 1_000_000; // characters, unpacked: a small link must not fill the memory

async function piped(bytes, stream, limit = Infinity) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const parts = [];
  for (let size = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    size += value.length;
    if (size > limit) {
      reader.cancel().catch(() => {});
      throw new Error("The link holds too much.");
    }
    parts.push(value);
  }
}

const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const fromBase64 = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));

/** The fragment for `state`; null if it would be too long for a link. */
export async function toFragment(state) {
  const packed = await piped(new TextEncoder().encode(JSON.stringify(state)), new CompressionStream("deflate-raw"));
  const fragment = PREFIX + toBase64(packed);
  return fragment.length <= MAX_LINK ? fragment : null;
}

/** The state in `fragment`; null if it holds none. Throws if it is damaged. */
export async function fromFragment(fragment) {
  if (!fragment.startsWith(PREFIX)) return null;
  if (fragment.length > MAX_LINK) throw new Error("The link is too long.");
  const bytes = await piped(fromBase64(fragment.slice(PREFIX.length)), new DecompressionStream("deflate-raw"), MAX_STATE);
  return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
}

/** What somebody else wrote, or an older page: only fields that are known, only of the right kind. */
export function checked(state) {
  const text = (value, otherwise = "") => (typeof value === "string" ? value : otherwise);
  const list = Array.isArray(state.files) ? state.files.slice(0, 256) : [];
  const parameters = state.parameters !== null && typeof state.parameters === "object" ? state.parameters : {};
  const code = text(state.code);
  return {
    code,
    cursor: Number.isInteger(state.cursor) && state.cursor >= 0 ? Math.min(state.cursor, code.length) : code.length,
    language: text(state.language),
    task: state.task === "refactor" ? "refactor" : "complete",
    instruction: text(state.instruction),
    files: list.map((file) => ({ path: text(file?.path), content: text(file?.content) })),
    parameters: { ...parameters },
  };
}
