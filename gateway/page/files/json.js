// JSON as it is written: parsed and written anew, large numbers and repeated names would be others.

const DEEP = 20; // levels that are indented

// Where the string ends that begins there.
function past(text, at) {
  for (let end = at; ;) {
    end = text.indexOf('"', end + 1);
    let slashes = 0;
    while (text[end - 1 - slashes] === "\\") slashes += 1;
    if (end < 0 || slashes % 2 === 0) return end < 0 ? text.length : end + 1;
  }
}

// The texts of an array's elements; what is no array is one.
export function elements(text) {
  const mark = /["[\]{},]/g;
  const found = [];
  let depth = 0;
  let from = text.indexOf("[") + 1;
  if (!from || text.slice(0, from).trim() !== "[") return [text];
  const ends = (at) => {
    const element = text.slice(from, at).trim();
    if (element) found.push(element);
    from = at + 1;
  };
  for (let met; (met = mark.exec(text));) {
    const [sign] = met;
    if (sign === '"') mark.lastIndex = past(text, met.index);
    else if (sign === "[" || sign === "{") depth += 1;
    else if (sign === "," && depth === 1) ends(met.index);
    else if (sign !== "," && (depth -= 1) === 0) ends(met.index);
  }
  return found;
}

// With line breaks, for people.
export function pretty(text) {
  const mark = /["[\]{},:]/g;
  const parts = [];
  let depth = 0;
  let from = 0;
  let opened = false;
  const line = () => `\n${"  ".repeat(Math.min(depth, DEEP))}`;
  for (let met; (met = mark.exec(text));) {
    const [sign] = met;
    if (sign === '"') {
      mark.lastIndex = past(text, met.index);
      continue;
    }
    const before = text.slice(from, met.index).trim();
    from = met.index + 1;
    if (opened && (before || (sign !== "}" && sign !== "]"))) parts.push(line());
    if (sign === "}" || sign === "]") {
      depth -= 1;
      parts.push(before, opened && !before ? "" : line(), sign);
    } else {
      parts.push(before, sign, { ",": line(), ":": " " }[sign] ?? "");
    }
    opened = sign === "{" || sign === "[";
    if (opened) depth += 1;
  }
  return parts.join("") + text.slice(from).trim();
}
