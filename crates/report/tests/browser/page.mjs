// Opens a report page in headless Chromium: `node page.mjs PAGE [FOLDER_FOR_SCREENSHOTS]`.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [file, screenshots] = process.argv.slice(2);
const url = pathToFileURL(resolve(file)).href;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking"],
});
if (screenshots) mkdirSync(screenshots, { recursive: true });

for (const [width, colorScheme] of [[1400, "light"], [1400, "dark"], [420, "light"]]) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => request.url() !== url && problems.push(`request: ${request.url()}`));
  await page.goto(url);
  await page.waitForSelector("html[data-ready=true]");

  const sections = await page.$$eval("main section", (all) => all.map((one) => one.id));
  assert.deepEqual(sections, ["summary", "distributions", "breakdown", "time", "heat", "prompts", "slowest", "reproduce"]);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px wider than a window of ${width} px`);

  const canvases = await page.$$eval("canvas", (all) => all.map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let inked = 0;
    for (let at = 3; at < data.length; at += 4) inked += data[at] > 0;
    return inked;
  }));
  assert.ok(canvases.length >= 6 && canvases.every((inked) => inked > 500), `ink of time series: ${canvases}`);
  const drawings = await page.$$eval("main svg", (all) => all.map((svg) => [svg.getAttribute("aria-label"), svg.querySelectorAll("path,rect,circle").length]));
  assert.ok(drawings.length >= 8 && drawings.every(([label, marks]) => label && marks > 0), JSON.stringify(drawings));

  // A cursor over one time series shows values in all of them.
  const first = page.locator("#time .u-over").first();
  await first.scrollIntoViewIfNeeded();
  const box = await first.boundingBox();
  const y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width * 0.5, y);
  const values = await page.$$eval("#time .uplot", (all) => all.map((plot) => plot.querySelector(".u-legend .u-value").textContent));
  assert.ok(values[0] !== "--" && values.every((value) => value === values[0]), `cursors: ${values}`);

  // Dragging zooms all of them; the button goes back.
  const range = () => page.$$eval("#time .uplot", (all) => all.length);
  const count = await range();
  const ink = () => page.evaluate(() => [...document.querySelectorAll("#time canvas")].map((canvas) => canvas.toDataURL()));
  const before = await ink();
  await page.mouse.move(box.x + box.width * 0.3, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, y, { steps: 5 });
  await page.mouse.up();
  await page.waitForTimeout(100);
  const zoomed = await ink();
  assert.ok(zoomed.every((image, n) => image !== before[n]), "every chart of the time series zooms");
  await page.getByRole("button", { name: "Whole run" }).click();
  await page.waitForTimeout(100);
  assert.equal(await range(), count);

  // The keyboard reaches the contents, and the theme changes.
  await page.getByRole("button", { name: "Light / dark" }).press("Enter");
  await page.waitForTimeout(100);
  const scheme = await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
  assert.notEqual(scheme, colorScheme);
  await page.getByRole("button", { name: "Light / dark" }).press("Enter");
  await page.mouse.move(0, 0);
  await page.waitForTimeout(100);
  if (screenshots) await page.screenshot({ path: `${screenshots}/report-${width}-${colorScheme}.png`, fullPage: true });
  assert.deepEqual(problems, []);
  await page.close();
  console.log(`${width} px, ${colorScheme}: ${canvases.length} time series, ${drawings.length} drawings`);
}
await browser.close();
