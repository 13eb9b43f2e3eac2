// Writes ../static/codemirror.js and its licences from what package-lock.json pins.
//
//   npm ci && npm run build
//
// The first line of the bundle is a digest of what it was built from; a test compares it with the files here.

import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as esbuild from "esbuild";

const SOURCES = ["package-lock.json", "codemirror.js", "build.mjs"];
const STATIC = "../static";

async function digest() {
  const hash = createHash("sha256");
  for (const name of SOURCES) hash.update(await readFile(name));
  return hash.digest("hex");
}

/** Directories of the packages that bytes of the bundle come from. */
function packages(metafile) {
  const found = new Set();
  for (const output of Object.values(metafile.outputs))
    for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
      const match = path.match(/^node_modules\/(@[^/]+\/[^/]+|[^/]+)/);
      if (match && bytesInOutput) found.add(match[1]);
    }
  return [...found].sort();
}

async function licence(name) {
  const directory = join("node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(directory, "package.json"), "utf8"));
  const file = (await readdir(directory)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file`);
  const text = (await readFile(join(directory, file), "utf8")).trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
}

const result = await esbuild.build({
  entryPoints: ["codemirror.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  banner: { js: `/* Built from ${await digest()}; licences in codemirror.licences.txt */` },
  outfile: `${STATIC}/codemirror.js`,
  metafile: true,
});
const rule = "-".repeat(80) + "\n";
const head = "codemirror.js holds code of these packages, unmodified but for bundling and minifying.\n";
const texts = await Promise.all(packages(result.metafile).map(licence));
await writeFile(`${STATIC}/codemirror.licences.txt`, [head, ...texts].join(rule));
