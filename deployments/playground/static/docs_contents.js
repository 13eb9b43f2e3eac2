// What is in the reference: its sections, each with links to its routes.

import { element } from "./dom.js";

const OPEN = 3; // sections: what most people come for
const MANY = 10;

/** Fills `node`; returns the routes: {section, id, link}. */
export function showContents(node, { tags, paths }) {
  const all = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { tags, operationId, summary }]) => {
      const [section] = tags;
      return { path, method, summary, section, id: operationId, link: `#/${section}/${operationId}` };
    }),
  );
  const sections = tags.map(({ name }, place) => {
    const routes = all.filter(({ section }) => section === name);
    const section = element("details");
    section.open = place < OPEN;
    section.append(element("summary", "", `${name} `), element("ul"));
    section.firstElementChild.append(element("span", "count", String(routes.length)));
    const skipped = routes.length > MANY ? common(routes.map(({ path }) => path)) : "";
    section.lastElementChild.append(...routes.map((route) => item(route, route.path.slice(skipped.length))));
    return section;
  });
  node.replaceChildren(...sections);
  return all;
}

/** What all paths begin with, up to a slash. */
function common([first, ...others]) {
  let length = 0;
  while (others.every((path) => path[length] === first[length])) length += 1;
  return first.slice(0, first.lastIndexOf("/", length - 1));
}

function item({ method, summary, link }, path) {
  const node = element("li");
  const anchor = node.appendChild(element("a"));
  anchor.href = link;
  anchor.title = summary;
  const name = element("span");
  for (const part of path.split(/(?=\/)/)) name.append(part, element("wbr"));
  anchor.append(element("span", `method ${method}`, method), name);
  return node;
}
