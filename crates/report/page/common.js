"use strict";
// What all pages share: the data, pieces of HTML, and charts in SVG, which print well and are drawn anew for every width.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const toc = document.getElementById("toc");
const colors = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => `var(--c${n})`);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const number = (value, digits = 2) =>
  value == null ? "–" : value.toLocaleString("en-US", { maximumFractionDigits: digits });
// A figure that is null stays so: null times 100 would be 0.
const scaled = (value, factor) => (value == null ? null : value * factor);
const percent = (share) => (share == null ? "–" : `${number(share * 100)}%`);
const short = (value) => {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  return size >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
};
const words = (name) => name.replaceAll("_", " ");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
const most = (values) => values.reduce((high, value) => Math.max(high, value ?? 0), 0);

const node = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

/// What was run, above everything else: parts by their names.
const head = (parts) => {
  const at = document.getElementById("about");
  at.append(...parts.map(([name, text]) => node("div", {}, node("dt", {}, name), node("dd", {}, text))));
  at.hidden = !parts.length;
};

const section = (id, title, about) => {
  const element = node("section", { id, "aria-labelledby": `${id}-title` });
  element.append(node("h2", { id: `${id}-title` }, title));
  if (about) element.append(node("p", { class: "dim" }, about));
  main.append(element);
  toc.append(node("li", {}, node("a", { href: `#${id}` }, title)));
  return element;
};

const table = (head, rows, label = head[0]) => {
  const cell = (value, n) => node(n ? "td" : "th", n ? {} : { scope: "row" }, value instanceof Node ? value : String(value));
  const body = rows.map((row) => node("tr", {}, ...row.map(cell)));
  const header = node("tr", {}, ...head.map((name) => node("th", { scope: "col" }, name)));
  const inner = node("table", {}, node("thead", {}, header), node("tbody", {}, ...body));
  return node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, inner);
};

/// Text in a box, and the button that copies it.
const copied = (action, label, text) => {
  const copy = node("button", { type: "button" }, action), box = node("pre", { tabindex: "0", "aria-label": label }, text);
  copy.addEventListener("click", async () => {
    // Browsers may refuse it to a file; then the text is selected.
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box);
    }
  });
  return [copy, box];
};

/// Says below the title where iteration times come from, and how far off they are.
const iterationTimes = ({ latency_source: from, latency_estimate: estimate, latency_error: error }) => {
  if (!from && !estimate) return;
  const source = document.getElementById("source");
  source.textContent = estimate && !from?.startsWith("prefill: ") ? `Iteration times are an estimate, nothing was measured: ${estimate}` : `Iteration times: ${from}`;
  const bar = (name, share) => share == null ? [] : [`${name} ±${(100 * share).toFixed(0)} %`];
  const bars = [...bar("TPOT", error?.tpot_p90), ...bar("TTFT", error?.ttft_p90)];
  if (bars.length) source.textContent += ` (${bars.join(", ")}: nine of ten of ${error.basis})`;
  source.hidden = false;
};

// Figures behind a chart, for those who cannot or would not read it off.
const details = (title, content) => node("details", {}, node("summary", {}, title), content);

const legend = (names) => {
  const element = node("div", { class: "legend" });
  names.forEach((name, n) => {
    const mark = node("i");
    mark.style.background = colors[n % colors.length];
    element.append(node("span", {}, mark, name));
  });
  return element;
};

const choice = (label, options, onChange) => {
  const select = node("select", {}, ...options.map(([value, name]) => node("option", { value }, name)));
  select.addEventListener("change", () => onChange(select.value));
  return node("label", { class: "choice" }, `${label} `, select);
};

// ---- Charts in SVG.

const SVG = "http://www.w3.org/2000/svg";
const draw = (parent, tag, attributes, text) => {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text != null) element.textContent = text;
  parent.append(element);
  return element;
};
const tip = (element, text) => draw(element, "title", {}, text);

// A page on paper is about as wide as this, in the pixels of its fonts.
const PAPER = 700;
const redraws = [];
/// Draws all charts for a width, if it is another one, or if what they show is.
const drawAll = (width, isOther) => redraws.forEach((redraw) => redraw(width, isOther));

/// Adds a chart that `paint(svg, width)` draws for the width that there is.
const figure = (parent, { label, caption, height, paint }) => {
  const holder = node("div", { class: "chart" });
  const element = node("figure", {}, holder, node("figcaption", {}, caption));
  parent.append(element);
  let drawn = 0;
  const redraw = (forced, isOther) => {
    const width = Math.round(forced ? Math.min(forced, holder.clientWidth || forced) : Math.max(holder.clientWidth, 260));
    if (width === drawn && !isOther) return;
    drawn = width;
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label })) svg.setAttribute(key, value);
    paint(svg, width, height);
    holder.replaceChildren(svg);
  };
  redraws.push(redraw);
  redraw();
  return element;
};

let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => drawAll(), 60);
});

const linear = (low, high, from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
const logarithmic = (low, high, from, to) => {
  const scale = linear(Math.log(low), Math.log(high), from, to);
  return (v) => scale(Math.log(Math.max(v, low)));
};
const steps = (low, high, count) => {
  const raw = (high - low) / count || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * unit >= raw * (1 - 1e-9)) * unit;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, n) => (first + n) * step);
};
const ticks = (high, count = 5) => steps(0, high, count);
const logTicks = (low, high, count) => {
  const all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) all.push(m * 10 ** e);
  // A narrow range has hardly a round number on a logarithmic axis, and a wide one too many.
  if (all.length < 3) return steps(low, high, Math.min(count, 4));
  return all.length > count ? all.filter((t) => Number.isInteger(Math.round(Math.log10(t) * 1e9) / 1e9)) : all;
};

/// A label beneath an axis, moved in where it would be cut off.
const tick = (chart, x, y, text) => {
  const half = text.length * 3.7, width = chart.viewBox.baseVal.width;
  draw(chart, "text", { x: clamp(x, half, width - half), y, "text-anchor": "middle" }, text);
};

const LEFT = 48, RIGHT = 14, TOP = 10, BOTTOM = 34;
/// Where the axes of a chart of this size lie.
const frame = (width, height) => ({ left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM, columns: Math.max(3, Math.floor(width / 70)) });
const axes = (chart, { left, right, top, bottom }, [x, xTicks, xName], [y, yTicks, yName]) => {
  for (const t of xTicks) {
    draw(chart, "line", { class: "axis", x1: x(t), x2: x(t), y1: top, y2: bottom });
    tick(chart, x(t), bottom + 14, short(t));
  }
  for (const t of yTicks) {
    draw(chart, "line", { class: "axis", x1: left, x2: right, y1: y(t), y2: y(t) });
    draw(chart, "text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, short(t));
  }
  const middle = (top + bottom) / 2;
  draw(chart, "text", { x: (left + right) / 2, y: bottom + 29, "text-anchor": "middle" }, xName);
  if (yName) draw(chart, "text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, yName);
};
const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");

// ---- What a page does when it is there.

/// Makes the button for light and dark work; `repaint` draws anew what does not go by CSS.
const finish = (repaint) => {
  document.getElementById("title").textContent = data.title;
  const theme = document.getElementById("theme");
  const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
  const tell = () => theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    tell();
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    tell();
    repaint();
  });
  // Paper is light, and a canvas does not go by CSS.
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    repaint();
    drawAll(PAPER);
  });
  addEventListener("afterprint", () => {
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    repaint();
    drawAll();
  });
  tell();
  // Charts beside each other share the width, which the first of them did not know.
  drawAll();
  document.documentElement.dataset.ready = "true";
};
