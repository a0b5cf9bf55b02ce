// Comfort only: tips at the pointer, finger or focus, sortable tables, one score and one class of the map at a time.
// Without it the page shows everything. Texts of the data are only ever set as textContent.
"use strict";
(() => {
  const tip = document.getElementById("tip");

  const showTip = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = document.documentElement;
    const left = Math.min(x + 14, room.clientWidth - box.width - 8);
    const above = y + 18 + box.height > room.clientHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above ? Math.max(8, y - box.height - 12) : y + 18}px`;
  };
  const hideTip = () => { tip.hidden = true; };

  const tellAtPointer = (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (owner) showTip(owner.dataset.tip, event.clientX, event.clientY);
    else if (!(event.target instanceof Element && event.target.closest("#plot-map svg"))) hideTip();
  };
  // Of a head that keys went to; they scroll the page to it, and the tip goes along, until Escape sends it away.
  let sentAway = null;
  const tellAtFocus = () => {
    const button = document.querySelector("th[data-tip] :focus-visible");
    const head = button?.closest("th");
    const box = head?.getBoundingClientRect();
    if (box && button !== sentAway && box.bottom > 0 && box.bottom < document.documentElement.clientHeight) {
      showTip(head.dataset.tip, box.left, box.bottom - 12);
    } else hideTip();
  };
  document.addEventListener("pointermove", tellAtPointer);
  document.addEventListener("pointerdown", tellAtPointer);  // a finger that taps does not move
  document.addEventListener("focusin", (event) => {
    sentAway = null;
    if (event.target.matches(":focus-visible")) tellAtFocus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    sentAway = document.activeElement;
    hideTip();
  });
  document.addEventListener("scroll", tellAtFocus, { passive: true, capture: true });

  // --- one score at a time ---
  for (const tabs of document.querySelectorAll(".tabs")) {
    const figures = [...tabs.children];
    if (figures.length < 2) continue;
    const bar = document.createElement("div");
    bar.className = "tab-bar";
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", "Score");
    const choose = (chosen) => {
      figures.forEach((figure, i) => { figure.classList.toggle("other-tab", figure !== chosen);
        bar.children[i].setAttribute("aria-pressed", String(figure === chosen)); });
    };
    for (const figure of figures) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = figure.dataset.tab;
      button.addEventListener("click", () => choose(figure));
      bar.append(button);
    }
    tabs.before(bar);
    choose(figures[0]);
  }

  const asButton = (head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    return button;
  };

  // --- sortable tables ---
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      asButton(head).addEventListener("click", () => {
        const numeric = head.classList.contains("num");
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
        const number = (row) => { const n = parseFloat(key(row).replaceAll(",", "")); return Number.isNaN(n) ? -Infinity : n; };
        const compare = numeric
          ? (a, b) => number(a) - number(b)
          : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
        body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)));
      });
    });
  }

  // --- what a column is: a `title` is for a mouse alone ---
  for (const head of document.querySelectorAll("thead th[title]")) {
    const button = head.querySelector("button") ?? asButton(head);
    button.setAttribute("aria-description", head.title);
    head.dataset.tip = head.title;
    head.removeAttribute("title");
  }

  // --- map ---
  const source = document.getElementById("map-data");
  if (!source) return;
  const { points, names } = JSON.parse(source.textContent);
  const figure = document.getElementById("plot-map");
  const MARGIN = 14;  // as in plots.item_map
  const buttons = [...document.querySelectorAll("#map-legend button")];
  let only = null;

  const place = (svg, point) => {
    const { width, height } = svg.viewBox.baseVal;
    return [MARGIN + point[0] / 1000 * (width - 2 * MARGIN), height - MARGIN - point[1] / 1000 * (height - 2 * MARGIN)];
  };
  const describe = (point) => {
    const lines = [`${names[point[2]] ?? "no prediction yet"}${point[3] ? ` · selected in cycle ${point[3]}` : ""}`, point[4]];
    if (point[5]) lines.push(`Why: ${point[5]}`);
    return lines.join("\n");
  };
  for (const svg of figure.querySelectorAll("svg")) {
    const here = svg.querySelector(".here");
    const leave = () => { hideTip(); here.setAttribute("cx", -99); };
    const tellNearest = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      let best = null, bestPlace = null, least = 14 ** 2;
      for (const point of points) {
        if (only !== null && point[2] !== only) continue;
        const at = place(svg, point);
        // A ring is nearer than the dots around it, so it can be hit.
        const distance = ((at[0] - x) ** 2 + (at[1] - y) ** 2) * (point[3] ? 0.4 : 1);
        if (distance < least) { least = distance; best = point; bestPlace = at; }
      }
      if (!best) { leave(); return; }
      here.setAttribute("cx", bestPlace[0]);
      here.setAttribute("cy", bestPlace[1]);
      showTip(describe(best), event.clientX, event.clientY);
    };
    svg.addEventListener("pointermove", tellNearest);
    svg.addEventListener("pointerdown", tellNearest);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
  }
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const chosen = Number(button.dataset.class);
      only = only === chosen ? null : chosen;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.class) === only)));
      for (const shape of figure.querySelectorAll("[data-class]")) {
        shape.classList.toggle("faded", only !== null && Number(shape.dataset.class) !== only);
      }
    });
  }
})();
