// Opens pages in headless Chromium and checks them: `node page.mjs OUT KIND=PAGE…`, where KIND is `run`, `compare`, `latency`,
// `varied`, `beside`, `validate`, `recommend` or `none` (a recommendation of nothing).
// Screenshots go to OUT.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { checkRecommendation } from "./recommend.mjs";
import { checkCurves, checkTradeoff, checkVaried } from "./runs.mjs";
import { checkGroups, checkSlowest, checkTargets } from "./run.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const [out, ...pages] = process.argv.slice(2);
const SECTIONS = {
  run: ["summary", "groups", "targets", "distributions", "breakdown", "time", "heat", "prompts", "slowest", "reproduce"],
  // With something to say about it.
  diagnosed: ["diagnosis", "summary", "targets", "distributions", "breakdown", "time", "heat", "prompts", "slowest", "reproduce"],
  varied: ["differs", "results", "tradeoff", "setting", "time"],
  compare: ["differs", "overview", "tradeoff", "time", "distributions", "paired", "figures"],
  // A measured run beside a simulated one.
  beside: ["differs", "overview", "tradeoff", "time", "distributions", "paired", "figures"],
  validate: ["run0"],
  latency: ["decodes", "prompts", "origins"],
  recommend: ["differs", "answer", "tradeoff", "setting", "load", "deployments", "time"],
  none: ["differs", "answer", "tradeoff", "setting", "load", "deployments", "time"],
};
const LOOKS = [[1400, "light"], [1400, "dark"], [420, "light"], [420, "dark"]];
// What charts show: their range of time, and the time under their cursors.
const ranges = (page) => page.evaluate(() => plots.map(({ plot }) => [plot.scales.x.min, plot.scales.x.max]));
const times = (page) => page.$$eval("#time .uplot", (all) => all.map((plot) => plot.querySelector(".u-legend .u-value").textContent));
const areSame = (values) => values.every((value) => JSON.stringify(value) === JSON.stringify(values[0]));

mkdirSync(out, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking"],
});
let passed = 0;
for (const argument of pages) {
  const [kind, file] = argument.split(/=(.*)/s);
  assert.ok(statSync(file).size < 1e6, `${file} is as large as ${statSync(file).size} bytes`);
  for (const look of LOOKS) {
    await check(kind, file, look);
    passed++;
  }
}
await browser.close();
console.log(`${passed} passed, 0 failed`);

async function check(kind, file, [width, colorScheme]) {
  const url = pathToFileURL(resolve(file)).href;
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  const problems = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => request.url() !== url && problems.push(`request: ${request.url()}`));
  await page.goto(url);
  await page.waitForSelector("html[data-ready=true]");
  assert.deepEqual(await page.$$eval("main section", (all) => all.map((one) => one.id)), SECTIONS[kind]);

  await checkDrawings(page);
  await checkWidth(page, width);
  await checkTheme(page, colorScheme);
  if (["run", "diagnosed"].includes(kind)) {
    await checkInk(page);
    await checkCursorAndZoom(page);
    await checkKeyboard(page);
    await checkChoices(page);
    await checkLives(page);
    await checkGroups(page);
    await checkTargets(page);
    await checkSlowest(page);
  }
  if (["varied", "compare", "recommend"].includes(kind)) await checkCurves(page);
  if (["varied", "compare"].includes(kind)) await checkTradeoff(page);
  if (kind === "varied") await checkVaried(page);
  if (kind === "recommend") await checkRecommendation(page);
  await checkAccess(page);
  await page.mouse.move(0, 0);
  const shot = `${out}/${basename(file, ".html")}-${width}-${colorScheme}`;
  await page.screenshot({ path: `${shot}.png`, fullPage: true });
  await checkPaper(page, shot);
  assert.deepEqual(problems, []);
  await page.close();
  console.log(`${basename(file)}, ${width} px, ${colorScheme}: ok`);
}

/// Every drawing has a name and marks, and its texts can be read: large enough, and within it.
async function checkDrawings(page) {
  const drawings = await page.$$eval("main svg", (all) => all.map((svg) => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")].map((text) => {
      const at = text.getBoundingClientRect();
      const isWithin = at.left >= box.left - 2 && at.right <= box.right + 2 && at.top >= box.top - 2 && at.bottom <= box.bottom + 2;
      return [text.textContent, parseFloat(getComputedStyle(text).fontSize) * scale, isWithin];
    });
    return [svg.getAttribute("aria-label"), svg.querySelectorAll("path,rect,circle").length, texts];
  }));
  assert.ok(drawings.length > 0);
  for (const [label, marks, texts] of drawings) {
    assert.ok(label && marks > 0, `${label} has ${marks} marks`);
    for (const [text, size, isWithin] of texts) assert.ok(size >= 10.5 && isWithin, `${label}: “${text}” is ${size} px high${isWithin ? "" : " and cut off"}`);
  }
}

async function checkWidth(page, width) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px wider than a window of ${width} px`);
}

async function checkTheme(page, colorScheme) {
  const button = page.getByRole("button", { name: /^Switch to/ });
  const scheme = () => page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
  assert.equal(await scheme(), colorScheme);
  await button.press("Enter");
  assert.notEqual(await scheme(), colorScheme);
  await button.press("Enter");
  assert.equal(await scheme(), colorScheme);
  await button.blur();
}

/// Lines over time have ink, and heat maps more than one colour.
async function checkInk(page) {
  const inked = await page.$$eval(".lines canvas", (all) => all.map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
    return count;
  }));
  assert.ok(inked.length >= 9 && inked.every((count) => count > 500), `ink of lines: ${inked}`);
  const hues = await page.$$eval("canvas.heat", (all) => all.map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(Array.from({ length: data.length / 4 }, (_, n) => data.slice(4 * n, 4 * n + 3).join())).size;
  }));
  assert.ok(hues.length > 0 && hues.every((count) => count > 3), `colours of heat maps: ${hues}`);
}

/// A cursor over one chart shows values in all of them, dragging zooms all, and the button goes back.
async function checkCursorAndZoom(page) {
  const whole = await ranges(page);
  assert.ok(areSame(whole), `all charts show the same time: ${whole}`);
  const first = page.locator("#time .u-over").first();
  await first.scrollIntoViewIfNeeded();
  const box = await first.boundingBox(), y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width * 0.5, y);
  await page.waitForTimeout(50);
  const shown = await times(page);
  // Charts of workers may have fewer points.
  assert.ok(shown.every((time) => time !== "--"), `cursors: ${shown}`);
  await page.mouse.move(box.x + box.width * 0.3, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, y, { steps: 5 });
  await page.mouse.up();
  await page.waitForTimeout(100);
  const zoomed = await ranges(page), [from, to] = whole[0];
  assert.ok(areSame(zoomed), `all charts zoom: ${zoomed}`);
  const share = (time) => (time - from) / (to - from);
  assert.ok(Math.abs(share(zoomed[0][0]) - 0.3) < 0.03 && Math.abs(share(zoomed[0][1]) - 0.6) < 0.03, `zoomed to ${zoomed[0]} of ${whole[0]}`);
  await page.getByRole("button", { name: "Whole run" }).click();
  await page.waitForTimeout(50);
  assert.deepEqual(await ranges(page), whole);
}

async function checkKeyboard(page) {
  const whole = await ranges(page);
  const lines = page.locator("#time .lines").first();
  await lines.focus();
  for (const key of ["ArrowRight", "Shift+ArrowRight", "ArrowRight"]) await lines.press(key);
  const spoken = await page.locator("#time figure output").first().textContent();
  assert.match(spoken, /^[\d.,]+ s: mean [\d.,–]+, longest [\d.,–]+$/);
  await lines.press("+");
  const zoomed = await ranges(page);
  assert.ok(areSame(zoomed) && zoomed[0][1] - zoomed[0][0] < 0.6 * (whole[0][1] - whole[0][0]), `zoomed by keyboard: ${zoomed[0]}`);
  await lines.press("0");
  assert.deepEqual(await ranges(page), whole);
  const map = page.locator("canvas.heat").first();
  await map.focus();
  await map.press("ArrowRight");
  assert.match(await page.locator(".heatmap output").first().textContent(), /^workers? [\d–]+, [\d,]+ to [\d,]+ s: [\d.,–]+%$/);
  await page.keyboard.press("Home");
  const skip = page.locator("a.skip");
  await skip.focus();
  assert.ok((await skip.boundingBox()).x >= 0, "the link to the results shows when it has the focus");
  await skip.blur();
}

/// Another figure, and another worker, change what charts show.
async function checkChoices(page) {
  const picture = (selector) => page.$eval(selector, (canvas) => canvas.toDataURL());
  const heat = page.locator("#heat select");
  const before = await picture("canvas.heat");
  await heat.selectOption("running");
  assert.notEqual(await picture("canvas.heat"), before);
  await heat.selectOption("busy");
  assert.equal(await picture("canvas.heat"), before);
  const selects = page.locator("#time select");
  const count = await selects.count();
  assert.ok(count > 0);
  const last = selects.nth(count - 1), lines = await page.$$eval("#time .lines", (all) => all.length);
  const names = () => page.$$eval("#time .lines", (all) => all.at(-1).innerText);
  const old = await names();
  const isOfWorker = (await last.locator("option").first().textContent()) === "no single worker";
  await last.selectOption(isOfWorker ? "0" : "waiting");
  if (isOfWorker) assert.notEqual(await names(), old);
  assert.equal(await page.$$eval("#time .lines canvas", (all) => all.length), lines, "one picture a chart");
  await last.selectOption({ index: 0 });
}

/// The spans of a life line up to the first token are the parts that its TTFT was split into.
async function checkLives(page) {
  const lives = await page.evaluate(() => data.slowest.map((request) => {
    const sums = data.parts.map(() => 0);
    for (const [part, from, to] of life(request)) if (part < sums.length) sums[part] += to - from;
    return [request.request, request.parts, sums];
  }));
  assert.ok(lives.length > 0);
  for (const [request, parts, sums] of lives) {
    const isSame = parts.every((ms, part) => Math.abs(ms - sums[part]) < 1e-3);
    assert.ok(isSame, `request ${request}: ${parts} in all, but ${sums} in its life line`);
  }
}

/// What axe knows of accessibility, contrast of colours included.
async function checkAccess(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] }));
  const told = violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")}`);
  assert.deepEqual(told, []);
}

/// On paper there is nothing to press, charts fit, and everything is dark on light.
async function checkPaper(page, shot) {
  await page.emulateMedia({ media: "print" });
  await page.setViewportSize({ width: 720, height: 1000 });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  await page.waitForTimeout(100);
  assert.equal(await page.locator("button:not(.link):visible").count(), 0);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(255, 255, 255)");
  await checkDrawings(page);
  await checkWidth(page, 720);
  await page.screenshot({ path: `${shot}-paper.png`, fullPage: true });
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  await page.emulateMedia({ media: "screen" });
}
