// Takes pictures of parts of pages for the documentation: `node shots.mjs FOLDER RUN_PAGE COMPARE_PAGE VARIED_PAGE`.
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [folder, run, compare, varied] = process.argv.slice(2);
const MOST_BYTES = 200_000;
const SHOTS = [
  [run, "summary", "light"], [run, "distributions", "light"], [run, "breakdown", "light"], [run, "time", "light"],
  [run, "heat", "light"], [run, "prompts", "light"], [run, "slowest", "light"], [run, "heat", "dark"],
  [compare, "overview", "light"], [compare, "paired", "light"],
  [varied, "tradeoff", "light"], [varied, "setting", "light"], [varied, "time", "light"],
];
const NAMES = { [run]: "page", [compare]: "compare", [varied]: "runs" };
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-background-networking"] });
for (const [file, section, colorScheme] of SHOTS) {
  const page = await browser.newPage({ viewport: { width: 900, height: 900 }, colorScheme });
  await page.goto(pathToFileURL(resolve(file)).href);
  await page.waitForSelector("html[data-ready=true]");
  if (section === "heat" && colorScheme === "light") await page.locator("#heat select").selectOption("kv");
  const at = page.locator(`#${section}`);
  await at.scrollIntoViewIfNeeded();
  const box = await at.boundingBox();
  const { x, y, width, height } = box;
  // A section may be longer than what a page of text has room for.
  const clip = { x, y: y + await page.evaluate(() => scrollY), width, height: Math.min(height, 900) };
  const path = `${folder}/${NAMES[file]}-${section}${colorScheme === "dark" ? "-dark" : ""}.png`;
  await page.screenshot({ path, fullPage: true, clip });
  const { size } = statSync(path);
  if (size > MOST_BYTES) throw new Error(`${path} has ${size} bytes, more than ${MOST_BYTES}`);
  console.log(`${path}: ${size} bytes`);
  await page.close();
}
await browser.close();
