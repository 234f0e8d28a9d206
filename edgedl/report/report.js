// Sortable tables, tooltips, the copy button, and everything unfolded for print. The page is complete without it.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if ("unsorted" in head.dataset || table.tBodies[0].rows.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table.tBodies[0], column, down ? -1 : 1);
    });
  });
}

function sort(body, column, sign) {
  const key = (row) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    const number = parseFloat(text.replace("−", "-").replace(/,/g, ""));
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // unknown last
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b));
  };
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort((a, b) => order(a[0], b[0]));
  body.append(...rows.map((pair) => pair[1]));
}

const tip = document.getElementById("tip");
for (const mark of document.querySelectorAll("[data-tip]")) {
  const title = mark.querySelector("title");
  if (title) title.remove(); // the browser's own tooltip would come second
  mark.addEventListener("pointerenter", (event) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    place(event);
  });
  mark.addEventListener("pointermove", place);
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function place(event) {
  const x = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
  const y = event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18;
  tip.style.left = `${Math.max(8, x)}px`;
  tip.style.top = `${y}px`;
}

for (const button of document.querySelectorAll("button.copy")) {
  const text = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {
      getSelection().selectAllChildren(text); // a page opened from a file may not write to the clipboard
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details.artifact")) fold.open = true;
});
