"use strict";
// Shows the rows of one type, or the edited ones only, and says how many those are.
const rows = [...document.querySelectorAll(".row")];
const cards = [...document.querySelectorAll(".card")];
const types = [...document.querySelectorAll("[data-filter]")];
const changedOnly = document.getElementById("changed-only");
let type = "";

function show() {
  const edited = changedOnly !== null && changedOnly.getAttribute("aria-pressed") === "true";
  let visible = 0;
  for (const row of rows) {
    row.hidden = (type !== "" && row.dataset.type !== type) || (edited && row.dataset.changed !== "1");
    visible += row.hidden ? 0 : 1;
  }
  for (const card of cards) {
    card.hidden = card.querySelector(".row:not([hidden])") === null;
  }
  document.getElementById("nothing").hidden = visible > 0;
  document.getElementById("count").textContent =
    visible === rows.length ? `${visible} rows` : `${visible} of ${rows.length} rows`;
}

for (const button of types) {
  button.addEventListener("click", () => {
    type = button.dataset.filter;
    for (const other of types) other.setAttribute("aria-pressed", String(other === button));
    show();
  });
}
changedOnly?.addEventListener("click", () => {
  changedOnly.setAttribute("aria-pressed", String(changedOnly.getAttribute("aria-pressed") !== "true"));
  show();
});
document.getElementById("toolbar").hidden = false;
show();
