"""`/docs`: the API's own OpenAPI document as a page, without a single outside address.

FastAPI's page loads its scripts from a CDN, which a closed network does not reach and a strict policy forbids.
"""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from deployments.api.common.context import ApiContext
from deployments.http.needs import public

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); font-size: 1.15rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-top: 1px solid var(--line); }
th { font-weight: 600; } td:first-child { white-space: nowrap; }
.dim { color: var(--dim); } .method { font-weight: 700; text-transform: uppercase; }
"""

_SCRIPT = """
"use strict";
const page = document.querySelector("main");
const add = (parent, tag, text, kind) => {
  const node = parent.appendChild(document.createElement(tag));
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const nameOf = ref => ref.split("/").pop();
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.anyOf || schema.oneOf) return (schema.anyOf || schema.oneOf).map(typeOf).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return "[" + typeOf(schema.items) + "]";
  let text = schema.type || "any";
  if (schema.minimum !== undefined) text += " ≥ " + schema.minimum;
  if (schema.exclusiveMinimum !== undefined) text += " > " + schema.exclusiveMinimum;
  if (schema.maximum !== undefined) text += " ≤ " + schema.maximum;
  return text;
}
function fieldTable(parent, rows) {
  const table = add(parent, "table");
  for (const [name, type, note, extra] of rows) {
    const row = add(table, "tr");
    add(add(row, "td"), "code", name);
    add(add(row, "td"), "code", type, "dim");
    add(row, "td", note || "");
    add(row, "td", extra || "", "dim");
  }
}
function schemaRows(schema) {
  const required = new Set(schema.required || []);
  return Object.entries(schema.properties || {}).map(([name, field]) => [
    name, typeOf(field), field.description,
    required.has(name) ? "required" : field.default == null ? "" : "default " + JSON.stringify(field.default),
  ]);
}
function operation(path, method, op) {
  const title = add(page, "h2");
  title.id = op.operationId;
  add(title, "span", method + " ", "method");
  add(title, "code", path);
  add(page, "p", op.summary);
  if (op.description) add(page, "p", op.description, "dim");
  const parameters = (op.parameters || []).map(p => [p.name, typeOf(p.schema), p.description, p.in]);
  if (parameters.length) fieldTable(page, parameters);
  const body = op.requestBody && op.requestBody.content["application/json"];
  if (body) {
    const line = add(page, "p", "Body: ");
    for (const schema of body.schema.oneOf || [body.schema])
      add(line, "a", typeOf(schema) + " ").href = "#schema-" + typeOf(schema);
  }
  fieldTable(page, Object.entries(op.responses).map(([status, response]) => {
    const contents = Object.values(response.content || {});
    return [status, contents.map(content => typeOf(content.schema)).join(" | "), response.description];
  }));
}
fetch("openapi.json").then(answer => answer.json()).then(document_ => {
  add(page, "h1", document_.info.title + " " + document_.info.version);
  add(page, "p", document_.info.description);
  for (const [path, methods] of Object.entries(document_.paths))
    for (const [method, op] of Object.entries(methods)) operation(path, method, op);
  for (const [name, schema] of Object.entries(document_.components.schemas)) {
    add(page, "h2", name).id = "schema-" + name;
    if (schema.description) add(page, "p", schema.description);
    fieldTable(page, schemaRows(schema));
  }
}).catch(error => add(page, "p", "The OpenAPI document could not be loaded: " + error));
"""

_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>StarCoder Serve API</title>
<style>{_STYLE}</style>
</head>
<body>
<main><noscript>The document behind this page is at <a href="openapi.json">openapi.json</a>.</noscript></main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _source_hash(source: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"


_POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src {_source_hash(_SCRIPT)}; "
    f"style-src {_source_hash(_STYLE)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    @public
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY})

    return router
