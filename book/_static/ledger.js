/* The ledger of claims, filtered and sorted by its reader. Without this script the tables are as they are. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("table.ledger")];
  if (!tables.length) return;
  const heads = [...tables[0].querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  const text = (cell) => (cell ? cell.textContent.trim() : "");
  // A claim is its row and, where there is one, the row below it with the reason.
  const claims = tables.map((table) => {
    const found = [];
    for (const row of table.querySelectorAll("tbody tr")) {
      if (row.classList.contains("reason") && found.length) found[found.length - 1].rows.push(row);
      else found.push({ rows: [row], cells: [...row.cells].map(text), order: found.length });
    }
    return found;
  });
  const all = claims.flat();

  const form = document.createElement("form");
  form.className = "ledger-tools";
  form.setAttribute("role", "search");
  form.addEventListener("submit", (event) => event.preventDefault());
  const field = (title, control) => {
    const label = document.createElement("label");
    label.append(title, control);
    form.append(label);
    return control;
  };
  const choice = (title, options) => {
    const select = document.createElement("select");
    select.name = title.toLowerCase();
    for (const [value, words] of options) select.add(new Option(words, value));
    return field(title, select);
  };
  const words = field("Words", document.createElement("input"));
  words.type = "search";
  words.name = "words";
  const filters = ["Tier", "Reproduced", "Verdict"].map((title) => {
    const column = heads.indexOf(title);
    const values = [...new Set(all.map((claim) => claim.cells[column]))].sort();
    return { column, select: choice(title, [["", "all"], ...values.map((value) => [value, value])]) };
  });
  const sorter = choice("Sort by", [["", "notebook"], ...heads.map((title, column) => [String(column), title.toLowerCase()])]);
  const count = document.createElement("output");
  form.append(count);
  const first = tables[0].closest("div.full-width") || tables[0];
  const heading = first.closest("section");
  if (tables.length > 1 && heading) heading.before(form);
  else first.before(form);

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const claim of all) {
      const line = claim.rows.map(text).join(" ").toLowerCase();
      const fits = wanted.every((word) => line.includes(word)) &&
        filters.every(({ column, select }) => !select.value || claim.cells[column] === select.value);
      for (const row of claim.rows) row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${all.length} claims`;
  };

  const natural = new Intl.Collator("en", { numeric: true });
  const sort = (table, column, down) => {
    const found = claims[tables.indexOf(table)];
    const by = (a, b) => (column < 0 ? 0 : natural.compare(a.cells[column], b.cells[column])) * (down ? -1 : 1);
    const ordered = [...found].sort((a, b) => by(a, b) || a.order - b.order);
    table.tBodies[0].append(...ordered.flatMap((claim) => claim.rows));
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
      if (index === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  };
  for (const table of tables) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heads[column];
      button.addEventListener("click", () => sort(table, column, cell.getAttribute("aria-sort") === "ascending"));
      cell.replaceChildren(button);
    });
  }
  sorter.addEventListener("change", () => {
    for (const table of tables) sort(table, sorter.value === "" ? -1 : Number(sorter.value), false);
  });
  for (const control of [words, ...filters.map((filter) => filter.select)]) control.addEventListener("input", show);
  show();
});
