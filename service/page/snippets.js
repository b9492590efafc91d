/** Code that asks the server the same. */

import { url } from "./api.js";

/**
 * @typedef {{name: string, type: string, query: import("./api.js").Query, hasKey: boolean}} Asked
 *   the file's name and media type; the key itself is not shown, code takes it from the environment
 */

/**
 * For a POSIX shell.
 *
 * @param {Asked} asked
 */
export function toCurl({ name, query, hasKey }) {
  const part = `file=@"${name.replaceAll(/["\\]/g, "\\$&")}"`;
  const lines = [`curl ${shell(address(query))}`, `-F ${shell(part)}`];
  if (hasKey) lines.splice(1, 0, '-H "X-API-Key: $API_KEY"');
  return lines.join(" \\\n  ");
}

/**
 * For Python's standard library alone.
 *
 * @param {Asked} asked
 */
export function toPython({ name, type, query, hasKey }) {
  const headers = [`"Content-Type": ${python(type.startsWith("image/") ? type : "image/*")}`];
  if (hasKey) headers.push('"X-API-Key": os.environ["API_KEY"]');
  return [
    "import json",
    ...(hasKey ? ["import os"] : []),
    "from pathlib import Path",
    "from urllib.request import Request, urlopen",
    "",
    "request = Request(",
    `    ${python(address(query))},`,
    `    data=Path(${python(name)}).read_bytes(),`,
    `    headers={${headers.join(", ")}},`,
    ")",
    "with urlopen(request) as response:",
    "    answer = json.load(response)",
    'print(len(answer["scores"]), "objects")',
  ].join("\n");
}

function address(query) {
  return new URL(url("predict", query), document.baseURI).href;
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A JSON string is a Python string too. */
function python(text) {
  return JSON.stringify(text);
}
