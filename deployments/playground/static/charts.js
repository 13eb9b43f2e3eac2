// Pictures of usage: bars by day, a bar in a table, and a budget. Each says in words what it shows.

import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const LEFT = 52;
const BOTTOM = 18;
const RIGHT = 14;
const TOP = 8;
const LABEL_WIDTH = 58;

function shape(parent, tag, attributes, text) {
  const node = parent.appendChild(document.createElementNS(SVG, tag));
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A round number that is not much above `value`. */
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999999);
}

/**
 * Stacked bars, one a day, as wide as there is room. days: [{label, values: [one for each series]}];
 * series: [{name, kind}], `kind` being the class that colours it; format(value): as people read it.
 */
export function dayBars({ title, days, series, format }) {
  const figure = element("figure", "card");
  const caption = figure.appendChild(element("figcaption"));
  caption.appendChild(element("h3", "", title));
  if (series.length > 1) caption.appendChild(legend(series));
  const sums = days.map(({ values }) => values.reduce((sum, value) => sum + value, 0));
  const total = sums.reduce((sum, value) => sum + value, 0);
  const most = Math.max(...sums);
  const words =
    total === 0
      ? `${title}: nothing in ${days.length} days.`
      : `${title}, ${days.length} days: ${format(total)} in all, most on ${days[sums.indexOf(most)].label} with ${format(most)}.`;
  const holder = figure.appendChild(element("div", "chart"));
  const draw = (width) => width > 2 * LEFT && holder.replaceChildren(barsOf({ width, days, sums, series, format, words, top: niceTop(most) }));
  new ResizeObserver(([entry]) => draw(entry.contentRect.width)).observe(holder);
  return figure;
}

function legend(series) {
  const list = element("ul", "legend");
  for (const { name, kind } of series) {
    const item = list.appendChild(element("li"));
    item.append(element("i", kind), name);
  }
  return list;
}

function barsOf({ width, days, sums, series, format, words, top }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", HEIGHT);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words);
  const floor = HEIGHT - BOTTOM;
  const y = (value) => floor - ((floor - TOP) * value) / top;
  for (const value of [0, top / 2, top]) {
    shape(svg, "line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) });
    shape(svg, "text", { class: "axis", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value));
  }
  const step = (width - LEFT - RIGHT) / days.length;
  const every = Math.ceil(LABEL_WIDTH / step);
  days.forEach(({ label, values }, at) => {
    const x = LEFT + at * step;
    const bar = shape(svg, "g", {});
    shape(bar, "title", {}, `${label}: ${format(sums[at])}${series.length > 1 ? ` (${series.map(({ name }, i) => `${name} ${format(values[i])}`).join(", ")})` : ""}`);
    shape(bar, "rect", { class: "touch", x, y: TOP, width: step, height: floor - TOP });
    let below = 0;
    values.forEach((value, i) => {
      if (value <= 0) return;
      const height = y(below) - y(below + value);
      shape(bar, "rect", { class: series[i].kind, x: x + step * 0.15, y: y(below + value), width: Math.max(1, step * 0.7), height: Math.max(0.75, height) });
      below += value;
    });
    if ((days.length - 1 - at) % every === 0) shape(svg, "text", { class: "axis", x: x + step / 2, y: HEIGHT - 4, "text-anchor": "middle" }, label);
  });
  return svg;
}

/** A share of the whole as a bar, for a table that has it as a number too. */
export function shareBar(share) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "share");
  svg.setAttribute("viewBox", "0 0 100 8");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  shape(svg, "rect", { class: "rest", width: 100, height: 8, rx: 2 });
  if (share > 0) shape(svg, "rect", { class: "input", width: Math.max(1, 100 * share), height: 8, rx: 2 });
  return svg;
}

/** What is spent of a budget, with marks at 80 and 100 %. words: what it shows. */
export function budgetBar(spent, amount, words) {
  const share = amount > 0 ? spent / amount : spent > 0 ? Infinity : 0;
  const scale = Math.max(1.25, Math.min(share, 1.6));
  const at = (part) => (100 * Math.min(part, scale)) / scale;
  const level = share >= 1 ? "over" : share >= 0.8 ? "near" : "within";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "budget");
  svg.setAttribute("width", "100%");
  svg.setAttribute("height", 34);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words);
  shape(svg, "rect", { class: "rest", x: 0, y: 2, width: "100%", height: 12, rx: 3 });
  if (share > 0) shape(svg, "rect", { class: level, x: 0, y: 2, width: `${Math.max(0.4, at(share))}%`, height: 12, rx: 3 });
  for (const [mark, anchor] of [[0.8, "end"], [1, "start"]]) {
    shape(svg, "line", { class: "mark", x1: `${at(mark)}%`, x2: `${at(mark)}%`, y1: 0, y2: 18 });
    shape(svg, "text", { class: "axis", x: `${at(mark)}%`, y: 30, "text-anchor": anchor }, `${100 * mark} %`);
  }
  return svg;
}
