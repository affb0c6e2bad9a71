"use strict";
for (const box of document.querySelectorAll(".timeline")) {
  const svg = box.querySelector("svg");
  const bins = Number(box.dataset.bins);
  const binNs = Number(box.dataset.binNs);
  const height = svg.viewBox.baseVal.height;
  const steps = [...svg.querySelectorAll(".step")];
  let from = 0, width = bins, chosen = -1;
  const ms = (bin) => (bin * binNs / 1e6).toPrecision(5) + " ms";
  const show = () => {
    width = Math.min(bins, Math.max(0.05, width));
    from = Math.min(bins - width, Math.max(0, from));
    svg.setAttribute("viewBox", `${from} 0 ${width} ${height}`);
    box.querySelector(".from").textContent = ms(from);
    box.querySelector(".to").textContent = ms(from + width);
  };
  const zoom = (by) => { const middle = from + width / 2; width *= by; from = middle - Math.min(bins, width) / 2; show(); };
  const go = (by) => {
    if (steps.length === 0) { box.querySelector(".what").textContent = "no steps"; return; }
    steps[chosen]?.classList.remove("chosen");
    chosen = chosen < 0 ? (by > 0 ? 0 : steps.length - 1) : Math.min(steps.length - 1, Math.max(0, chosen + by));
    const step = steps[chosen];
    step.classList.add("chosen");
    const start = Number(step.dataset.start) / binNs, long = Number(step.dataset.dur) / binNs;
    width = Math.max(long * 1.6, 0.05);
    from = start - long * 0.3;
    box.querySelector(".what").textContent = `step ${chosen + 1} of ${steps.length}: ${step.querySelector("title").textContent}`;
    show();
  };
  const actions = {
    in: () => zoom(0.5), out: () => zoom(2), left: () => { from -= width / 5; show(); }, right: () => { from += width / 5; show(); },
    next: () => go(1), prev: () => go(-1),
    all: () => { steps[chosen]?.classList.remove("chosen"); chosen = -1; from = 0; width = bins; box.querySelector(".what").textContent = ""; show(); },
  };
  const keys = { ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", n: "next", p: "prev", 0: "all", Home: "all" };
  box.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[action]();
  });
  for (const button of box.querySelectorAll("button")) button.addEventListener("click", () => actions[button.dataset.do]());
  show();
}
