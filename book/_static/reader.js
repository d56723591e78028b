/* One switch for all code of a page, remembered; a link to a cell opens it; search also from a copied folder. */
"use strict";

// A page that is a file may not fetch its neighbours, so that results of a search come without excerpts there.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

document.addEventListener("DOMContentLoaded", () => {
  const folds = [...document.querySelectorAll("details.code")];
  if (!folds.length) return;
  const KEY = "husai-code";
  const memory = (value) => {
    try {
      if (value) localStorage.setItem(KEY, value);
      return localStorage.getItem(KEY);
    } catch {
      return null; // the browser keeps nothing: the switch works, but is forgotten
    }
  };
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-switch";
  const label = () => {
    button.textContent = folds.some((fold) => fold.open) ? "Hide all code" : "Show all code";
  };
  const set = (state) => folds.forEach((fold) => { fold.open = state === "shown"; });
  button.addEventListener("click", () => {
    const state = folds.some((fold) => fold.open) ? "hidden" : "shown";
    memory(state);
    set(state);
    label();
  });
  folds.forEach((fold) => fold.addEventListener("toggle", label));

  const open = () => {
    const cell = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = cell && cell.querySelector(":scope > details.code");
    if (fold) {
      fold.open = true;
      cell.scrollIntoView();
    }
  };
  if (memory()) set(memory());
  label();
  (document.querySelector("div.origin") || document.querySelector("h1")).append(button);
  window.addEventListener("hashchange", open);
  open();
});
