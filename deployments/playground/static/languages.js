// Languages of the picker, and how the editor colours them. Names are editors' own language identifiers.

import * as cm from "./codemirror.js";

const mode = (label, extension, parser, indent = "    ") => ({ label, extension, indent, parser });

export const languages = {
  python: mode("Python", "py", cm.python),
  javascript: mode("JavaScript", "js", cm.javascript, "  "),
  typescript: mode("TypeScript", "ts", cm.typescript, "  "),
  java: mode("Java", "java", cm.java),
  c: mode("C", "c", cm.c),
  cpp: mode("C++", "cpp", cm.cpp),
  csharp: mode("C#", "cs", cm.csharp),
  go: mode("Go", "go", cm.go, "\t"),
  rust: mode("Rust", "rs", cm.rust),
  kotlin: mode("Kotlin", "kt", cm.kotlin),
  scala: mode("Scala", "scala", cm.scala, "  "),
  ruby: mode("Ruby", "rb", cm.ruby, "  "),
  swift: mode("Swift", "swift", cm.swift),
  lua: mode("Lua", "lua", cm.lua, "  "),
  shellscript: mode("Shell", "sh", cm.shell, "  "),
  sql: mode("SQL", "sql", cm.standardSQL, "  "),
  plaintext: mode("Plain text", "txt", null),
};

export function languageSupport(name) {
  const { parser, indent } = languages[name] ?? languages.plaintext;
  return [cm.indentUnit.of(indent), parser ? cm.StreamLanguage.define(parser) : []];
}
