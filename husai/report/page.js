/* The table of features: sorted, filtered and paged by its reader. Without this script its first rows stand as they are.
   Cells come as text, formatted where every number of the report is; here they are only read back to be ordered. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const source = document.getElementById("feature-data");
  if (!source) return;
  document.getElementById("unscripted").remove();
  const { columns, size, page } = JSON.parse(source.textContent);
  const table = document.querySelector("table.features");
  const heads = [...table.tHead.rows[0].cells];
  const number = (text) => Number(text.replace("−", "-").replaceAll(",", ""));
  for (const column of columns) {
    column.texts = column.texts.split("|");
    if (column.number) column.keys = Float64Array.from(column.texts, number);
  }
  const every = Uint32Array.from({ length: size }, (_, row) => row);
  let [sorted, down, start, shown] = [-1, false, 0, every];

  const form = document.createElement("form");
  form.className = "tools";
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Rows of the table");
  form.addEventListener("submit", (event) => event.preventDefault());
  const add = (title, control, name) => {
    const label = document.createElement("label");
    control.name = name;
    label.append(title, control);
    form.append(label);
    control.addEventListener("input", () => { start = 0; show(); });
    return control;
  };
  const choice = (title, name, options) => {
    const select = document.createElement("select");
    for (const [value, words] of options) select.add(new Option(words, value));
    return add(title, select, name);
  };
  const kinds = columns.filter((column) => !column.number).map((column) => {
    const values = [...new Set(column.texts)].sort(new Intl.Collator("en", { numeric: true }).compare);
    return [column, choice(column.title, column.key, [["", "all"], ...values.map((value) => [value, value])])];
  });
  const numbers = columns.filter((column) => column.number);
  const by = choice("Only where", "column", [["", "(any value)"], ...numbers.map((column) => [column.key, column.title])]);
  const ends = [["is at least", "low", -Infinity], ["and at most", "high", Infinity]].map(([title, name, none]) => {
    const control = add(title, document.createElement("input"), name);
    control.inputMode = "decimal";
    return () => (control.value.trim() === "" ? none : number(control.value.trim()));
  });

  const pager = document.createElement("div");
  pager.className = "tools";
  const count = document.createElement("output");
  count.setAttribute("aria-live", "polite");
  const step = (words, to) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = words;
    button.addEventListener("click", () => { start = to(); show(); });
    pager.append(button);
    return button;
  };
  const last = () => Math.max(0, Math.floor((shown.length - 1) / page) * page);
  const back = [step("First", () => 0), step("Previous", () => Math.max(0, start - page))];
  pager.append(count);
  const on = [step("Next", () => Math.min(last(), start + page)), step("Last", last)];
  const region = table.closest(".scrolls");
  region.before(form, pager);

  // What has no value comes last, in either direction; equal rows keep the order in which they were written.
  const order = () => {
    if (sorted < 0) return every;
    const { keys, texts } = columns[sorted];
    const sign = down ? -1 : 1;
    const compare = keys
      ? (a, b) => (Number.isNaN(keys[a]) - Number.isNaN(keys[b])) || sign * (keys[a] - keys[b]) || a - b
      : (a, b) => sign * texts[a].localeCompare(texts[b], "en", { numeric: true }) || a - b;
    return every.slice().sort(compare);
  };
  let ordered = every;
  const show = () => {
    const column = columns.find((one) => one.key === by.value);
    const [low, high] = ends.map((end) => end());
    const wanted = kinds.filter(([, select]) => select.value);
    shown = ordered.filter((row) => wanted.every(([one, select]) => one.texts[row] === select.value) &&
      (!column || (column.keys[row] >= low && column.keys[row] <= high)));
    const body = document.createElement("tbody");
    for (const row of shown.subarray(start, start + page)) {
      const line = body.insertRow();
      for (const one of columns) {
        const cell = line.insertCell();
        cell.textContent = one.texts[row];
        if (one.number) cell.className = "number";
      }
    }
    table.tBodies[0].replaceWith(body);
    region.scrollTop = 0;
    const places = new Intl.NumberFormat("en");
    const [from, to] = [Math.min(start + 1, shown.length), Math.min(start + page, shown.length)];
    count.textContent = `rows ${places.format(from)} to ${places.format(to)} of ${places.format(shown.length)}`;
    for (const button of back) button.disabled = start === 0;
    for (const button of on) button.disabled = start + page >= shown.length;
  };
  heads.forEach((cell, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      down = sorted === index ? !down : Boolean(columns[index].number);
      [sorted, start] = [index, 0];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      ordered = order();
      show();
    });
  });
  show();
});
