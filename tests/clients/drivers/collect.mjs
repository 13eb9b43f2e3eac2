// What a stream yields, as a list. After `abortAfter` parts `abort` is called, and reading goes on until it shows.
export async function collect(stream, abortAfter, abort) {
  const parts = [];
  for await (const part of stream) {
    parts.push(part);
    if (parts.length === abortAfter) abort();
  }
  return parts;
}
