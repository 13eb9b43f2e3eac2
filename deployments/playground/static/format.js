// Numbers, money and times as people read them.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE);
const short = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 });
const dollars = new Intl.NumberFormat(LOCALE, { style: "currency", currency: "USD" });
const tiny = new Intl.NumberFormat(LOCALE, { style: "currency", currency: "USD", maximumSignificantDigits: 2 });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const shortDate = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" });

export const count = (value) => whole.format(value);
export const compact = (value) => (value < 10000 ? whole.format(value) : short.format(value));

/** US dollars: cents, and two digits of what is less than one. */
export function money(value) {
  const amount = Number(value);
  return amount !== 0 && Math.abs(amount) < 0.01 ? tiny.format(amount) : dollars.format(amount);
}

/** Seconds since 1970. */
export const day = (at) => date.format(at * 1000);
export const shortDay = (at) => shortDate.format(at * 1000);
export const time = (at) => `${moment.format(at * 1000)} UTC`;
export const limit = (value) => (value === null ? "–" : compact(value));
