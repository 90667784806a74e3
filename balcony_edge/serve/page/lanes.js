"use strict";
// The two lanes: tokens coloured by where they came from, and what they cost.

const COLOURS = ["#e07a3f", "#c9a227", "#6a9a3a", "#8a63c9", "#c2557f", "#3f8fc4", "#7c8a99"];
const FULL = "#2a7f9e";
// Drafts that no exit made, in words.
const SOURCES = { lookup: "from the text", guess: "from the draft stage" };

class Lane {
  constructor(root, depths) {
    this.text = root.querySelector(".text");
    this.bar = root.querySelector(".bar");
    this.figures = root.querySelector(".figures");
    this.depths = depths;
    this.clear();
  }

  clear() {
    this.text.replaceChildren();
    this.bar.replaceChildren();
    this.figures.textContent = "";
    this.tokens = [];
    this.said = "";
    this.timings = null;
    this.begun = performance.now();
    this.first = null;
  }

  colour(depth) {
    const place = this.depths.indexOf(depth);
    return place === this.depths.length - 1 ? FULL : COLOURS[place % COLOURS.length];
  }

  add(token) {
    this.first ??= performance.now();
    this.tokens.push(token);
    this.said += token.text;
    if (token.text) {
      const span = document.createElement("span");
      span.textContent = token.text;
      span.style.setProperty("--c", this.colour(token.drafted_at ?? token.depth));
      if (token.drafted_at !== undefined) span.classList.add("draft");
      if (token.source !== undefined) span.classList.add(token.source);
      span.dataset.index = this.tokens.length - 1;
      this.text.append(span);
    }
    this.draw();
  }

  end(timings) {
    this.timings = timings;
    this.draw();
  }

  // Shares by where tokens came from, tokens a second, and the agreement as far as it is known.
  draw() {
    const counts = new Map();
    for (const token of this.tokens) {
      const key = token.source !== undefined ? `${token.depth} ${token.source}`
        : token.drafted_at === undefined ? `${token.depth}` : `${token.drafted_at} draft`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const total = this.tokens.length || 1;
    this.bar.replaceChildren(...[...counts].sort().map(([key, count]) => {
      const part = document.createElement("i");
      part.style.flex = count;
      part.style.setProperty("--c", this.colour(Number.parseInt(key, 10)));
      part.title = `${key}: ${Math.round(100 * count / total)} %`;
      return part;
    }));
    const found = this.timings;
    const rate = found?.predicted_per_second ?? this.rate();
    const shares = [...counts].sort().map(([key, count]) => `${name(key, this.depths)} ${Math.round(100 * count / total)} %`);
    const parts = [`${this.tokens.length} tokens`, rate && `${rate.toFixed(1)} tok/s`, ...shares];
    if (found) {
      parts.push(found.lossless ? "lossless" : found.agreement === null ? "agreement unknown"
        : `agreement ${found.agreement.toFixed(2)}`);
      if (found.energy_mj_per_token !== null) parts.push(`${found.energy_mj_per_token.toFixed(1)} mJ a token`);
    }
    this.figures.textContent = parts.filter(Boolean).join(" · ");
  }

  rate() {
    const spent = performance.now() - (this.first ?? 0);
    return this.first !== null && this.tokens.length > 1 ? (this.tokens.length - 1) * 1e3 / spent : null;
  }

  // What hovering over a token says.
  tip(index, watts) {
    const token = this.tokens[index];
    const said = [token.source !== undefined ? `${SOURCES[token.source]}, verified`
      : token.drafted_at !== undefined ? `draft of exit ${token.drafted_at}, verified`
      : token.depth === this.depths.at(-1) ? "full depth" : `exit ${token.depth}`];
    if (token.logprob !== undefined) said.push(`probability ${Math.exp(token.logprob).toFixed(3)}`);
    said.push(`${token.latency_ms.toFixed(1)} ms`);
    if (watts !== null) said.push(`${(watts * token.latency_ms).toFixed(1)} mJ`);
    return said.join(" · ");
  }
}

function name(key, depths) {
  const depth = Number.parseInt(key, 10);
  if (key.endsWith("draft")) return `drafts of exit ${depth}`;
  const source = SOURCES[key.split(" ")[1]];
  if (source !== undefined) return source;
  return depth === depths.at(-1) ? "full depth" : `exit ${depth}`;
}

function legend(root, depths) {
  const lane = new Lane(document.querySelector(".lane"), depths);
  const entries = [...depths.map((depth) => [lane.colour(depth), name(`${depth}`, depths)])];
  root.replaceChildren(...entries.map(([colour, said]) => {
    const item = document.createElement("li");
    const mark = document.createElement("i");
    mark.style.setProperty("--c", colour);
    item.append(mark, said);
    return item;
  }));
  const drafts = document.createElement("li");
  drafts.textContent = "underlined: an exit's draft that the full model accepted; dotted: one found in the text so far";
  root.append(drafts);
}
