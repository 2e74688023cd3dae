// What the page makes of JSON texts: node json.mjs < texts, one a line; prints for each {"elements", "pretty"}.

import { createInterface } from "node:readline"
import { elements, pretty } from "../../gateway/page/files/json.js"

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify({ elements: elements(line), pretty: pretty(line) }))
}
