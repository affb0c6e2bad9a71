"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = data.figures;
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const escapeHtml = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const four = (x) => {
    if (x === null || x === undefined || !Number.isFinite(x)) return "–";
    const size = Math.abs(x);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return x.toExponential(3);
    return x.toLocaleString("en-US", { maximumSignificantDigits: size >= 1000 ? Math.ceil(Math.log10(size + 1)) : 4 });
  };
  const SHAPES = ["circle", "rect", "triangle", "diamond", "path://M0,0 L10,0 L5,9 Z", "path://M3,0 H7 V3 H10 V7 H7 V10 H3 V7 H0 V3 H3 Z"];
  const DARK = ["#58a6ff", "#ff8f5e", "#3fd0a0", "#e6a3cb", "#e3b341", "#8fd3ff", "#b79cf0", "#a8b0b8", "#d8a26a", "#6fdd8b"];
  const STAR = "path://M10,0 L12.9,6.9 L20,7.6 L14.6,12.4 L16.2,20 L10,16 L3.8,20 L5.4,12.4 L0,7.6 L7.1,6.9 Z";
  const FIELD = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];

  // What the reader chose.
  const state = { workload: null, words: [], per: data.per, printing: false, tabs: {} };

  // ---- Theme -------------------------------------------------------------------------------------------------------
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const chosen = $("theme").value;
    const dark = !state.printing && (chosen === "dark" || (chosen === "auto" && wantsDark.matches));
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    return dark;
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (hue) => {
    const palette = document.documentElement.dataset.theme === "dark" ? DARK : data.colours;
    return palette[hue % palette.length];
  };

  // ---- From a description to options of the library ----------------------------------------------------------------
  const matches = (series) => state.words.every((word) => series.name.toLowerCase().includes(word));
  const factor = (axis, series) => (axis.rate && state.per && series.gpus ? state.per / series.gpus : 1);
  const titleOf = (axis) =>
    axis.rate && state.per ? `${axis.title} per ${state.per === 1 ? "GPU" : `${state.per} GPUs`}` : axis.title;
  const selects = (figure) => (["effects", "grid", "predicted"].includes(figure.set) ? figure.series : figure.series.filter(matches));

  // The values of a series as they are drawn: [x, y, low, high, text].
  const valuesOf = (figure, series) => {
    const fx = factor(figure.x, series), fy = factor(figure.y, series);
    const onX = figure.kind === "intervals" ? fx : fy;
    return series.x.map((x, i) => [
      x * fx, series.y[i] * fy,
      series.low?.[i] == null ? null : series.low[i] * onX, series.high?.[i] == null ? null : series.high[i] * onX,
      series.text?.[i] ?? "",
    ]);
  };

  // What no other beats, from the best y to the best x.
  const frontOf = (figure, all) => {
    const sign = (axis) => (axis.good === "more" ? 1 : -1);
    const points = all.flatMap((entry) => entry.values.map((value) => ({ x: value[0], y: value[1] })));
    points.sort((a, b) => sign(figure.y) * (b.y - a.y) || sign(figure.x) * (b.x - a.x));
    const front = [];
    let best = -Infinity;
    for (const point of points) {
      if (sign(figure.x) * point.x > best) { best = sign(figure.x) * point.x; front.push([point.x, point.y]); }
    }
    return front;
  };

  // Within two decades, powers of two say more than powers of ten.
  const narrow = (axis, vertical, figure) => {
    let low = Infinity, high = 0;
    for (const series of selects(figure)) {
      for (const value of vertical ? series.y : series.x) if (value > 0) { low = Math.min(low, value); high = Math.max(high, value); }
    }
    return high <= low * 150;
  };

  const axisOption = (axis, vertical, figure) => {
    const common = {
      name: titleOf(axis), nameLocation: "middle", nameGap: vertical ? 62 : 32,
      nameTextStyle: { color: css("--soft"), fontSize: 12.5 }, axisLabel: { color: css("--soft"), hideOverlap: true },
      axisLine: { show: true, onZero: false, lineStyle: { color: css("--soft") } }, splitLine: { lineStyle: { color: css("--grid") } },
    };
    if (axis.categories) {
      const longest = Math.max(0, ...axis.categories.map((name) => name.length));
      return { ...common, type: "category", data: axis.categories, inverse: vertical, splitLine: { show: false }, axisTick: { show: false },
        nameGap: vertical ? longest * 7 + 18 : 32, axisLabel: { color: css("--soft"), interval: 0, hideOverlap: false } };
    }
    const label = { ...common.axisLabel, formatter: (value) => four(value) };
    if (axis.log) return { ...common, type: "log", logBase: narrow(axis, vertical, figure) ? 2 : 10, axisLabel: label, minorSplitLine: { show: true, lineStyle: { color: css("--grid"), opacity: 0.5 } } };
    return { ...common, type: "value", axisLabel: label, scale: figure.kind === "intervals" };
  };

  const whiskers = (entry, horizontal) => ({
    type: "custom", name: entry.series.name, silent: true, z: 1, itemStyle: { color: entry.colour },
    data: entry.values.filter((value) => value[2] !== null && value[3] !== null),
    encode: horizontal ? { x: [0, 2, 3], y: 1 } : { x: 0, y: [1, 2, 3] },
    renderItem: (params, api) => {
      const a = horizontal ? api.coord([api.value(2), api.value(1)]) : api.coord([api.value(0), api.value(2)]);
      const b = horizontal ? api.coord([api.value(3), api.value(1)]) : api.coord([api.value(0), api.value(3)]);
      const cap = 4;
      const line = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: entry.colour, lineWidth: 1.4, opacity: 0.8 } });
      return { type: "group", children: horizontal
        ? [line(...a, ...b), line(a[0], a[1] - cap, a[0], a[1] + cap), line(b[0], b[1] - cap, b[0], b[1] + cap)]
        : [line(...a, ...b), line(a[0] - cap, a[1], a[0] + cap, a[1]), line(b[0] - cap, b[1], b[0] + cap, b[1])] };
    },
  });

  const tipOf = (figure, name, value) => {
    const lines = [`<b>${escapeHtml(name)}</b>`];
    if (value[4]) lines.push(escapeHtml(value[4]));
    if (figure.kind === "heat") {
      lines.push(`${escapeHtml(figure.x.title)} = ${escapeHtml(figure.x.categories[value[0]])}`,
        `${escapeHtml(figure.y.title)} = ${escapeHtml(figure.y.categories[value[1]])}`, `<b>${four(value[2])}</b>`);
      return lines.join("<br>");
    }
    const range = value[2] !== null && value[3] !== null ? ` (${four(value[2])} to ${four(value[3])})` : "";
    if (figure.kind === "intervals") {
      lines.push(`${escapeHtml(figure.y.categories[value[1]])}: <b>${four(value[0])}</b>${range}`);
    } else {
      lines.push(`${escapeHtml(titleOf(figure.x))}: ${four(value[0])}`, `${escapeHtml(titleOf(figure.y))}: <b>${four(value[1])}</b>${range}`);
    }
    return lines.join("<br>");
  };

  // What all names begin with says nothing in a legend.
  const shared = (names) => {
    if (names.length < 2) return 0;
    let length = 0;
    while (length < names[0].length && names.every((name) => name[length] === names[0][length])) length++;
    const cut = length === 0 ? 0 : Math.max(...["_", "-", "/"].map((sign) => names[0].lastIndexOf(sign, length - 1))) + 1;
    return cut >= 8 ? cut : 0;
  };

  const optionOf = (figure, small) => {
    const chosen = selects(figure).filter((series) => series.x.length > 0);
    const entries = chosen.map((series) => ({ series, colour: colour(series.hue), values: valuesOf(figure, series) }));
    const n = entries.reduce((sum, entry) => sum + entry.values.length, 0);
    const kind = figure.kind;
    const series = [];
    let legend = entries.map((entry) => entry.series.name);
    const lines = ["lines", "curves", "steps", "front"].includes(kind);
    for (const entry of entries) {
      const base = { name: entry.series.name, color: entry.colour, data: entry.values, emphasis: { focus: n > 4000 ? "none" : "series" }, animation: false };
      if (lines) {
        const plain = kind === "curves" || kind === "steps";
        series.push({ ...base, type: "line", symbol: plain ? "none" : SHAPES[entry.series.hue % SHAPES.length], symbolSize: 9, showAllSymbol: true,
          step: kind === "steps" ? "end" : false, lineStyle: { width: plain ? 1.8 : 2, type: entry.series.simulated && !plain ? "dashed" : "solid", opacity: kind === "front" ? 0.55 : 1 },
          encode: { x: 0, y: 1 }, dimensions: ["x", "y", "low", "high", "text"] });
        if (entry.values.some((value) => value[2] !== null)) series.push(whiskers(entry, false));
      } else if (kind === "dots") {
        const many = !entry.series.text;
        const isLine = entry.series.name === "equal";
        series.push(isLine
          ? { ...base, type: "line", symbol: "none", lineStyle: { type: "dashed", width: 1.2 }, silent: true }
          : { ...base, type: "scatter", symbolSize: many ? 4 : 9, itemStyle: { opacity: many ? 0.55 : 0.9 }, large: n > 6000, largeThreshold: 3000 });
      } else if (kind === "intervals") {
        const across = (value) => value[2] === null || (value[2] <= 0 && value[3] >= 0);
        series.push({ ...base, type: "scatter", symbolSize: 9, itemStyle: { color: (point) => (across(point.value) ? css("--soft") : colour(0)) } });
        series.push({ ...whiskers({ ...entry, colour: css("--soft") }, true) });
        series.push({ type: "line", data: [], markLine: { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: css("--soft"), type: "dashed" }, data: [{ xAxis: 0 }] } });
      } else {
        series.push({ ...base, type: "heatmap", data: entry.values.map((value) => [value[0], value[1], value[2], null, value[4]]),
          label: { show: entry.values.length <= 120, formatter: (point) => four(point.value[2]) }, itemStyle: { borderColor: css("--ground"), borderWidth: 2 } });
      }
    }
    if (kind === "front" && !small) {
      series.push({ type: "line", name: "front", data: frontOf(figure, entries), symbol: "none", color: css("--ink"),
        lineStyle: { type: [3, 5], width: 2.2 }, z: 5, silent: true, animation: false });
      legend = [...legend, "front"];
      // The answer of the page, where it stands.
      const best = data.best.find((one) => one.workload === figure.workload);
      const holder = best && entries.find((entry) => entry.series.name === best.name);
      const spot = holder?.values.find((value) => value[4].startsWith(`${best.load}, `));
      if (spot) {
        series.push({ type: "scatter", name: "best", data: [[spot[0], spot[1]]], symbol: STAR, symbolSize: 24, z: 6, silent: true, animation: false,
          color: css("--best"), itemStyle: { borderColor: css("--ink"), borderWidth: 1 } });
        legend = [...legend, "best"];
      }
    }
    for (const limit of figure.limits ?? []) {
      series.push({ type: "line", data: [], color: css("--bad"), markLine: { symbol: "none", silent: true, lineStyle: { color: css("--bad"), type: "dashed", width: 1.5 },
        label: { formatter: limit.text, color: css("--bad"), position: "insideEndTop" }, data: [limit.on_x ? { xAxis: limit.value } : { yAxis: limit.value }] } });
    }
    const skip = shared(entries.map((entry) => entry.series.name));
    const own = new Set(entries.map((entry) => entry.series.name));
    const selected = {};
    if (figure.shown < legend.length) legend.forEach((name, i) => { selected[name] = i < figure.shown; });
    const withLegend = kind !== "heat" && kind !== "intervals" && legend.length > 1;
    const side = withLegend && !small && (innerWidth > 900 || state.printing);
    const longest = kind === "intervals" || kind === "heat" ? Math.max(0, ...(figure.y.categories ?? []).map((name) => name.length)) : 0;
    const option = {
      animation: false, backgroundColor: "transparent", textStyle: { color: css("--ink"), fontFamily: "system-ui, DejaVu Sans, sans-serif" },
      aria: { enabled: true, label: { description: `${figure.title}. ${legend.length} series, ${n} values. Arrow keys go from value to value; all values stand in the table below.` } },
      title: { text: figure.title, subtext: small ? "" : figure.workload, left: 8, top: 2, textStyle: { color: css("--ink"), fontSize: small ? 13 : 15 }, subtextStyle: { color: css("--soft") } },
      grid: { left: longest ? Math.min(380, longest * 7 + (kind === "heat" ? 48 : 24)) : 86, right: side ? 290 : kind === "heat" ? 100 : 28, top: small ? 40 : 62, bottom: withLegend && !side ? 86 : 58 },
      xAxis: axisOption(figure.x, false, figure), yAxis: axisOption(figure.y, true, figure), series,
      tooltip: kind === "curves" || kind === "steps"
        ? { trigger: "axis", confine: true, order: "valueDesc", backgroundColor: css("--panel"), borderColor: css("--line"), textStyle: { color: css("--ink") },
          formatter: (points) => [`${escapeHtml(titleOf(figure.x))}: ${four(points[0]?.value[0])}`, ...points.slice(0, 14).map((point) => `${point.marker}${escapeHtml(point.seriesName)}: <b>${four(point.value[1])}</b>`)].join("<br>") }
        : { trigger: "item", confine: true, backgroundColor: css("--panel"), borderColor: css("--line"), textStyle: { color: css("--ink") },
          formatter: (point) => (Array.isArray(point.value) ? tipOf(figure, point.seriesName, point.value) : "") },
      dataZoom: kind === "heat" || kind === "intervals" ? [] : [{ type: "inside", xAxisIndex: 0, zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, filterMode: "none" }, { type: "inside", yAxisIndex: 0, zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, filterMode: "none" }],
      toolbox: small || state.printing ? undefined : { right: 10, top: 2, iconStyle: { borderColor: css("--soft") },
        feature: { dataZoom: { title: { zoom: "zoom into a box", back: "zoom back" }, filterMode: "none" }, restore: { title: "start again" }, saveAsImage: { title: "save picture", name: figure.id, backgroundColor: css("--ground") } } },
    };
    if (withLegend) {
      option.legend = { type: "scroll", data: legend, selected, formatter: (name) => (skip && own.has(name) ? `…${name.slice(skip)}` : name), orient: side ? "vertical" : "horizontal", right: side ? 6 : undefined, width: side ? 268 : undefined,
        top: side ? 40 : undefined, bottom: side ? 20 : 4, textStyle: { color: css("--ink"), width: 225, overflow: "truncate" }, pageTextStyle: { color: css("--soft") },
        pageIconColor: css("--accent"), inactiveColor: "#8f99a3", tooltip: { show: true } };
    }
    if (kind === "heat") {
      const values = entries.flatMap((entry) => entry.values.map((value) => value[2]));
      option.visualMap = { min: Math.min(...values), max: Math.max(...values), calculable: true, right: 6, top: "middle", inRange: { color: FIELD }, textStyle: { color: css("--soft") }, formatter: four, dimension: 2 };
    }
    return option;
  };

  // ---- Charts ------------------------------------------------------------------------------------------------------
  const charts = new Map(); // box → {chart, figure, small}
  const draw = (box) => {
    const entry = charts.get(box);
    if (!entry || !entry.figure) return;
    const n = entry.figure.series.reduce((sum, series) => sum + series.x.length, 0);
    const renderer = n > 4000 ? "canvas" : "svg";
    if (entry.chart && entry.renderer !== renderer) { entry.chart.dispose(); entry.chart = null; }
    if (!entry.chart) { entry.chart = echarts.init(box, null, { renderer }); entry.renderer = renderer; }
    if (entry.figure.kind === "intervals") box.style.height = `${Math.max(220, entry.figure.y.categories.length * 22 + 130)}px`;
    else box.style.height = "";
    // Paper has a width of its own, which no script can ask for.
    entry.chart.resize(state.printing ? { width: entry.small ? 480 : 1000, height: box.clientHeight || 440 } : { width: "auto", height: "auto" });
    entry.chart.setOption(optionOf(entry.figure, entry.small), true);
    entry.isDrawn = true;
    box.dataset.drawn = entry.figure.id;
  };
  const seen = new IntersectionObserver((changes) => {
    for (const change of changes) if (change.isIntersecting && !charts.get(change.target)?.isDrawn) draw(change.target);
  }, { rootMargin: "400px" });
  const redraw = () => { for (const [box, entry] of charts) if (entry.isDrawn) draw(box); };
  const drawAll = () => { for (const box of charts.keys()) draw(box); };

  const table = (figure) => {
    const most = 2000;
    const rows = selects(figure).flatMap((series) => valuesOf(figure, series).map((value) => [series.name, ...value]));
    const name = (axis, value) => (axis.categories ? axis.categories[value] : four(value));
    const head = ["Series", titleOf(figure.x) || "x", titleOf(figure.y) || "y", "from", "to", "remarks"];
    const body = rows.slice(0, most).map((row) => `<tr><td>${escapeHtml(row[0])}</td><td class="n">${escapeHtml(name(figure.x, row[1]))}</td><td class="n">${escapeHtml(name(figure.y, row[2]))}</td><td class="n">${four(row[3])}</td><td class="n">${four(row[4])}</td><td>${escapeHtml(row[5])}</td></tr>`);
    const rest = rows.length > most ? `<p>… and ${rows.length - most} more.</p>` : "";
    return `<div class="box" tabindex="0"><table><thead><tr>${head.map((text) => `<th scope="col">${escapeHtml(text)}</th>`).join("")}</tr></thead><tbody>${body.join("")}</tbody></table></div>${rest}`;
  };

  // Arrow keys walk through the values; what stands there is said aloud.
  const walk = (box) => {
    let at = { series: 0, value: -1 };
    box.addEventListener("keydown", (event) => {
      const entry = charts.get(box);
      if (!entry?.chart) return;
      const drawn = entry.chart.getOption().series.map((series, index) => ({ series, index })).filter(({ series }) => ["line", "scatter", "heatmap"].includes(series.type) && !series.silent && (series.data ?? []).length > 0);
      if (drawn.length === 0) return;
      const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      const move = moves[event.key];
      if (event.key === "Escape") { entry.chart.dispatchAction({ type: "hideTip" }); return; }
      if (!move) return;
      event.preventDefault();
      at.series = (at.series + move[0] + drawn.length) % drawn.length;
      const { series, index } = drawn[at.series];
      at.value = move[0] !== 0 ? Math.max(0, Math.min(at.value, series.data.length - 1)) : (at.value + move[1] + series.data.length) % series.data.length;
      const value = series.data[at.value];
      entry.chart.dispatchAction({ type: "showTip", seriesIndex: index, dataIndex: at.value });
      $("spoken").textContent = tipOf(entry.figure, series.name, value).replace(/<br>/g, "; ").replace(/<[^>]*>/g, "").replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code));
    });
  };

  const frame = (parent, small) => {
    const box = make("div", { class: "chart", tabindex: "0", role: "group" });
    const caption = make("figcaption");
    const details = make("details", {}, make("summary", {}, "Values as a table"));
    const values = make("div");
    details.append(values);
    const figure = make("figure", {}, box, caption);
    if (!small) figure.append(details);
    parent.append(figure);
    const entry = { chart: null, figure: null, small, isDrawn: false };
    charts.set(box, entry);
    details.addEventListener("toggle", () => { values.innerHTML = details.open ? table(entry.figure) : ""; });
    entry.refreshTable = () => { if (details.open) values.innerHTML = table(entry.figure); };
    walk(box);
    seen.observe(box);
    return (chosen) => {
      entry.figure = chosen;
      box.setAttribute("aria-label", `${chosen.title}, ${chosen.workload}`);
      caption.textContent = small ? "" : chosen.caption;
      entry.refreshTable();
      if (entry.isDrawn) draw(box);
    };
  };

  const here = (figure) => figure.workload === state.workload;
  const updates = [];
  for (const holder of document.querySelectorAll("[data-set]")) {
    const set = holder.dataset.set;
    const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Figures" });
    const empty = make("p", { class: "empty" }, "Nothing to draw for this workload.");
    holder.append(tabs);
    const show = frame(holder, false);
    const figureBox = holder.querySelector("figure");
    holder.append(empty);
    const update = () => {
      const own = figures.filter((figure) => figure.set === set && here(figure));
      empty.hidden = own.length > 0;
      figureBox.hidden = own.length === 0;
      tabs.replaceChildren();
      if (own.length === 0) return;
      const chosen = own.find((figure) => figure.tab === state.tabs[set]) ?? own[0];
      for (const figure of own.length > 1 ? own : []) {
        const isChosen = figure === chosen;
        const tab = make("button", { type: "button", role: "tab", "aria-selected": String(isChosen), tabindex: isChosen ? "0" : "-1" }, figure.tab);
        tab.addEventListener("click", () => { state.tabs[set] = figure.tab; update(); });
        tab.addEventListener("keydown", (event) => {
          const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!by) return;
          event.preventDefault();
          state.tabs[set] = own[(own.indexOf(figure) + by + own.length) % own.length].tab;
          update();
          tabs.querySelector('[aria-selected="true"]').focus();
        });
        tabs.append(tab);
      }
      show(chosen);
    };
    updates.push(update);
  }
  for (const holder of document.querySelectorAll("[data-panels]")) {
    const wanted = holder.dataset.panels.trim().split(/\s+/);
    const shows = wanted.map((start) => {
      const panel = make("div", { class: "panel" });
      holder.append(panel);
      const show = frame(panel, true);
      return () => {
        const found = figures.find((figure) => here(figure) && (figure.id === start || figure.id.startsWith(`${start}_`)) && figure.set === "trade");
        panel.hidden = !found;
        if (found) show(found);
      };
    });
    updates.push(() => shows.forEach((show) => show()));
    holder.closest("details")?.addEventListener("toggle", () => redraw());
  }
  const update = () => updates.forEach((update) => update());

  // ---- Controls ----------------------------------------------------------------------------------------------------
  const workloads = [...new Set(figures.map((figure) => figure.workload))];
  state.workload = workloads[0] ?? null;
  $("workload").append(...workloads.map((name) => make("option", { value: name }, name)));
  document.querySelector(".for-workload").hidden = workloads.length < 2;
  $("workload").addEventListener("change", () => { state.workload = $("workload").value; update(); });
  const steps = [["", "of the whole deployment"], ["1", "per GPU"], ["8", "per 8 GPUs"]];
  if (data.per && ![1, 8].includes(data.per)) steps.push([String(data.per), `per ${data.per} GPUs`]);
  $("per").append(...steps.map(([value, words]) => make("option", { value }, words)));
  $("per").value = data.per ? String(data.per) : "";
  $("per").addEventListener("change", () => { state.per = $("per").value ? Number($("per").value) : null; update(); redraw(); });
  const rowsOf = [...document.querySelectorAll("#ranking tbody tr, #results tbody tr, #slo tbody tr, #unranked tbody tr, #configurations tbody tr")];
  let waiting = 0;
  $("filter").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rowsOf) row.hidden = !state.words.every((word) => row.textContent.toLowerCase().includes(word));
      update();
      redraw();
    }, 60);
  });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  const repaint = () => { theme(); redraw(); };
  $("theme").addEventListener("change", repaint);
  wantsDark.addEventListener("change", repaint);
  addEventListener("resize", () => { if (state.printing) return; for (const entry of charts.values()) entry.chart?.resize(); });

  // ---- Costs -------------------------------------------------------------------------------------------------------
  for (const card of document.querySelectorAll("[data-gpu-hours]")) {
    const input = card.querySelector(".price"), output = card.querySelector(".money");
    const show = () => {
      const price = Number(input.value);
      output.textContent = input.value && price >= 0 ? `= ${four(price * Number(card.dataset.gpuHours))} per million tokens` : "";
    };
    if (data.price != null) input.value = data.price;
    input.addEventListener("input", show);
    show();
  }

  // ---- Tables that sort --------------------------------------------------------------------------------------------
  const numeric = (text) => {
    const found = text.replace(/,/g, "").match(/^[<≤≥]?\s*(-?\d+(\.\d+)?(e[-+]?\d+)?)/i);
    return found ? Number(found[1]) : null;
  };
  for (const head of document.querySelectorAll("main thead")) {
    const table = head.closest("table"), body = table.tBodies[0];
    if (!body || body.rows.length < 3) continue;
    [...head.rows[0].cells].forEach((cell, column) => {
      // No <button>: browsers leave its text out where they repeat a header on paper.
      const button = make("span", { class: "sort", role: "button", tabindex: "0" }, cell.textContent);
      cell.replaceChildren(button);
      button.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); } });
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const other of head.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].textContent.trim();
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [numeric(key(a)), numeric(key(b))];
          const order = x !== null && y !== null ? x - y : x !== null ? -1 : y !== null ? 1 : key(a).localeCompare(key(b));
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  // ---- Paper -------------------------------------------------------------------------------------------------------
  const print = (isPrinting) => {
    state.printing = isPrinting;
    theme();
    if (isPrinting) drawAll(); else redraw();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  theme();
  update();
  globalThis.servelab = { drawAll, charts, state, frontOf, figures, redraw, update };
})();
