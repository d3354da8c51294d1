"use strict";
// Shows the rows that all filters let through, and says how many those are.
const byId = (id) => document.getElementById(id);
const cards = [...document.querySelectorAll(".card")].map((element) => ({ element, shown: true, rows: [] }));
for (const card of cards) {
  card.rows = [...card.element.querySelectorAll(".row")].map((element) => ({ element, shown: true, text: null }));
}
const rows = cards.flatMap((card) => card.rows);
const wanted = { type: "", changed: "", words: [], score: null };

// Scores of one kind: the least and the greatest, which the ends of the slider stand for.
const scores = Object.create(null);
for (const name of ["logprob", "gain", "visual"]) {
  const values = rows.map((row) => row.element.dataset[name]).filter((value) => value !== undefined).map(Number);
  if (values.length > 1) {
    scores[name] = values.reduce((ends, value) => [Math.min(ends[0], value), Math.max(ends[1], value)], [Infinity, -Infinity]);
  }
}

function passes(row) {
  const data = row.element.dataset;
  if (wanted.type !== "" && data.type !== wanted.type) return false;
  if (wanted.changed !== "" && data.changed !== wanted.changed) return false;
  if (wanted.score !== null) {
    const { name, low, high } = wanted.score;
    if (data[name] === undefined || Number(data[name]) < low || Number(data[name]) > high) return false;
  }
  if (wanted.words.length > 0) {
    row.text ??= row.element.textContent.toLowerCase();
    return wanted.words.every((word) => row.text.includes(word));
  }
  return true;
}

// Only what changes is touched: a browser lays out again whatever is.
function set(item, shown) {
  if (item.shown !== shown) {
    item.shown = shown;
    item.element.hidden = !shown;
  }
}

function show() {
  let visible = 0;
  for (const card of cards) {
    let some = false;
    for (const row of card.rows) {
      const shown = passes(row);
      set(row, shown);
      some ||= shown;
      visible += shown ? 1 : 0;
    }
    set(card, some);
  }
  const all = rows.length.toLocaleString("en");
  byId("nothing").hidden = visible > 0;
  byId("count").textContent = visible === rows.length ? `${all} rows` : `${visible.toLocaleString("en")} of ${all} rows`;
}

for (const button of document.querySelectorAll("[data-filter]")) {
  const { filter, value } = button.dataset;
  button.addEventListener("click", () => {
    wanted[filter] = wanted[filter] === value ? "" : value;
    for (const other of document.querySelectorAll(`[data-filter="${filter}"]`)) {
      other.setAttribute("aria-pressed", String(other.dataset.value === wanted[filter]));
    }
    show();
  });
}

function readScore() {
  const name = byId("score-name").value;
  const [least, greatest] = scores[name];
  let ends = [Number(byId("score-low").value), Number(byId("score-high").value)];
  ends.sort((a, b) => a - b);
  const [low, high] = ends.map((end) => least + ((greatest - least) * end) / 200);
  const whole = ends[0] === 0 && ends[1] === 200;
  // A little slack: what stands in the page is rounded.
  wanted.score = whole ? null : { name, low: low - 1e-6, high: high + 1e-6 };
  const say = (value) => (value.toFixed(2) === "-0.00" ? "0.00" : value.toFixed(2)).replace("-", "\u2212");
  byId("score-text").textContent = whole ? "any" : `${say(low)} to ${say(high)}`;
  show();
}

let pending = 0;
byId("words").addEventListener("input", () => {
  clearTimeout(pending);
  pending = setTimeout(() => {
    wanted.words = byId("words").value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    show();
  }, 120);
});

for (const option of [...byId("score-name").options]) {
  if (!(option.value in scores)) option.remove();
}
if (byId("score-name").options.length > 0) {
  byId("score").hidden = false;
  for (const id of ["score-name", "score-low", "score-high"]) byId(id).addEventListener("input", readScore);
  readScore();
}
byId("toolbar").hidden = false;
show();
