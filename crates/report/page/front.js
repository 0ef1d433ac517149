// Charts of several runs or deployments: axes, the line of those that no other one beats, and dots to point at.

/// More runs than colours have dashes.
const lineOf = (n) => ({ fill: "none", stroke: colors[n % 8], "stroke-width": 1.75, "stroke-linecap": "round", "stroke-dasharray": ["", "6 4", "2 4"][Math.floor(n / 8) % 3] });

/// An axis from 0, or a logarithmic one where values are far apart.
const axisOf = (values, from, to, count) => {
  const low = Math.min(...values), high = most(values);
  if (low > 0 && high / low > 20) {
    const [least, highest] = [low / 1.2, high * 1.2];
    return { at: logarithmic(least, highest, from, to), ticks: logTicks(least, highest, count) };
  }
  return { at: linear(0, high * 1.08 || 1, from, to), ticks: ticks(high * 1.08 || 1, count) };
};

/// The axis of a setting, with its values at the ticks where there is room.
const valueAxis = (values, box) => {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.04;
  const at = low > 0 && high / low > 8 ? logarithmic(low / 1.15, high * 1.15, box.left, box.right) : linear(low - room, high + room, box.left, box.right);
  const all = [...new Set(values)].sort((one, other) => one - other), far = [];
  for (const value of all) if (!far.length || at(value) - at(far.at(-1)) > 34) far.push(value);
  return { at, ticks: far };
};

/// Makers whose content is on the page, each with the charts that it has.
let made = [];

/// What makes the content of an element anew when a choice changes.
const maker = (at, make) => {
  const self = { at, own: [] };
  return () => {
    // What is within it goes, too, with what that has redrawn since.
    made.filter((one) => at.contains(one.at)).flatMap((one) => one.own).forEach((redraw) => redraws.includes(redraw) && redraws.splice(redraws.indexOf(redraw), 1));
    made = [...made.filter((one) => !at.contains(one.at)), self];
    const before = redraws.length;
    at.replaceChildren();
    make(at);
    self.own = redraws.slice(before);
    // Charts beside each other share the width, which the first of them did not know.
    self.own.forEach((redraw) => redraw());
  };
};

/// Adds a part of a section that is made anew when a choice changes; returns what does so.
const remade = (parent, make) => {
  const at = node("div"), build = maker(at, make);
  parent.append(at);
  build();
  return build;
};

/// A line through points, with gaps where there is none; one alone is a dot.
const broken = (points) => points.map((point, n) => (point ? `${points[n - 1] ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}${points[n - 1] || points[n + 1] ? "" : "h0"}` : "")).join("");

/// A place for one of several small charts, with its name above it.
const titled = (parent, name) => {
  const at = node("div", {}, node("h3", {}, name));
  parent.append(at);
  return at;
};

// ---- Dots.

const GRIP = 13;

/// Moves dots apart that would cover each other: those of one column sideways, as far as the next column.
const apart = (dots) => {
  const placed = [], columns = [...new Set(dots.map((dot) => dot.x))].sort((one, other) => one - other);
  const room = Math.min(...columns.slice(1).map((column, n) => column - columns[n]), 110) - GRIP;
  for (const dot of dots) {
    const near = placed.filter((other) => Math.abs(other.x - dot.x) < 1 && Math.abs(other.cy - dot.cy) < GRIP);
    const most = Math.max(0, Math.floor(room / GRIP));
    const shifts = Array.from({ length: most + 1 }, (_, n) => Math.ceil(n / 2) * (n % 2 ? GRIP : -GRIP));
    const free = shifts.find((shift) => near.every((other) => Math.abs(other.cx - dot.x - shift) >= GRIP));
    placed.push(Object.assign(dot, { cx: dot.x + (free ?? shifts[near.length % shifts.length]) }));
  }
  return placed;
};

/// The points that no other one beats in both: least in `x`, and least, or most, in `y`; from the least `x` on.
const front = (points, x, y, isMoreBetter) => {
  const sign = isMoreBetter ? -1 : 1, better = [];
  const sorted = [...points].sort((one, other) => x(one) - x(other) || sign * (y(one) - y(other)));
  for (const point of sorted) if (!better.length || sign * (y(point) - y(better.at(-1))) < 0) better.push(point);
  return better;
};

const steppedFront = (chart, { top, bottom, right }, points, isMoreBetter) => {
  if (!points.length) return;
  let line = `M${points[0][0]} ${isMoreBetter ? bottom : top}`;
  for (const [x, y] of points) line += `H${x}V${y}`;
  draw(chart, "path", { d: `${line}H${right}`, fill: "none", stroke: "var(--c2)", "stroke-width": 2, opacity: 0.8 });
};

const cross = (chart, cx, cy, stroke) => draw(chart, "path", { d: `M${cx - 3.5} ${cy - 3.5}l7 7m0 -7l-7 7`, stroke, "stroke-width": 1.5, fill: "none" });

/// Which of the dots of a chart the pointer or the arrow keys are at: `point` is told; a click or Enter calls `pick`.
function explore(holder, label, dots, point, current, pick) {
  for (const [key, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": `${label}. Arrow keys go from one to the next, Enter shows what is known of it.` })) holder.setAttribute(key, value);
  const nearest = (event) => {
    const box = holder.getBoundingClientRect(), near = ({ cx, cy }) => Math.hypot(cx - event.clientX + box.left, cy - event.clientY + box.top);
    const closest = dots().reduce((one, other) => (near(other) < near(one) ? other : one));
    return near(closest) < 24 ? closest.point : null;
  };
  holder.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    holder.style.cursor = found ? "pointer" : "";
    if (found !== current()) point(found);
  });
  holder.addEventListener("click", (event) => {
    const found = nearest(event);
    if (!found) return;
    point(found);
    pick(found);
  });
  holder.addEventListener("keydown", (event) => {
    const order = [...dots()].sort((one, other) => one.x - other.x || one.cy - other.cy).map((dot) => dot.point);
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -order.length, End: order.length }[event.key];
    if (event.key === "Enter") pick(current());
    else if (move) point(order[clamp(order.indexOf(current()) + move, 0, order.length - 1)]);
    else return;
    event.preventDefault();
  });
}
