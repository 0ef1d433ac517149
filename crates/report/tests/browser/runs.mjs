// What pages of several runs have to do.
import assert from "node:assert/strict";

const labels = (page, section) => page.$$eval(`#${section} svg`, (all) => all.map((svg) => svg.getAttribute("aria-label")));

/// What differs comes first; figures are those of the reports, and follow the setting that is chosen.
export async function checkVaried(page) {
  const { varied, differs, list } = await page.evaluate(() => data.runs);
  assert.deepEqual(differs.slice(0, varied.length).map(([path]) => path), varied);
  const text = await page.locator("#differs").textContent();
  for (const run of list) assert.ok(text.includes(run.name), `${run.name} is not in ${text}`);
  const head = await page.locator("#about").textContent();
  for (const part of ["Workload", "hash", "Seed", "servecast"]) assert.ok(head.includes(part), `${part} is not in ${head}`);
  const cells = await page.$$eval("#results tbody tr", (rows) => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent)));
  assert.deepEqual(cells, await page.evaluate(() => data.rows));
  assert.ok(cells.flat().includes("N/A"), "a figure without a sample is shown as such");
  const first = await labels(page, "setting");
  assert.ok(first.length >= 6, `${first.length} figures over a setting`);
  await page.getByRole("combobox", { name: "Over" }).selectOption(varied[1]);
  const other = await labels(page, "setting");
  assert.ok(other.every((label) => label.includes(` over ${varied[1]}: `)), `${other}`);
  await page.getByRole("combobox", { name: "Over" }).selectOption(varied[0]);
  assert.deepEqual(await labels(page, "setting"), first);
}

/// Every run with both figures is a dot; a click, or Enter, shows what is known of it.
export async function checkTradeoff(page) {
  const known = await page.evaluate(() => several.list.filter((run) => figureOf(run, "p99_ttft_ms") != null).length);
  assert.equal(await page.locator("#tradeoff circle.dot").count(), known);
  const title = () => page.locator("#tradeoff .panel h3").textContent();
  const chart = page.locator("#tradeoff .chart");
  await chart.focus();
  await chart.press("End");
  const read = await page.locator("#tradeoff output").textContent();
  await chart.press("Enter");
  assert.ok(read.startsWith(`${await title()}: `), `${read} is not of ${await title()}`);
  const label = async () => (await labels(page, "tradeoff"))[0], first = await label();
  const against = page.getByRole("combobox", { name: "against" });
  await against.selectOption("mean_itl_ms");
  assert.match(await label(), / against ITL avg \(ms\) of /);
  await against.selectOption("p99_ttft_ms");
  assert.equal(await label(), first);
  // No run is left of the line and above it.
  const isBeaten = await page.evaluate(() => {
    const [x, y] = ["p99_ttft_ms", "output_throughput_tok_s"].map((key) => (run) => figureOf(run, key)), whole = several.list.filter((run) => x(run) != null);
    const best = front(whole, x, y, true);
    return whole.filter((run) => !best.some((other) => x(other) <= x(run) && y(other) >= y(run))).length;
  });
  assert.equal(isBeaten, 0);
  await page.evaluate(() => document.activeElement.blur());
}

/// Each chosen run has a line in each chart; those that are taken away have none.
export async function checkCurves(page) {
  const lines = () => page.$$eval("#time svg", (all) => all.map((svg) => svg.querySelectorAll("path").length));
  const boxes = page.locator("#time input[type=checkbox]"), count = await boxes.count();
  assert.ok(count > 1, `${count} runs have curves`);
  const before = await lines();
  assert.ok(before.length >= 7 && before.every((lines) => lines > 1), `lines: ${before}`);
  const drawn = boxes.nth(await boxes.evaluateAll((all) => all.findIndex((box) => box.checked)));
  await drawn.uncheck();
  assert.deepEqual(await lines(), before.map((count) => count - 1));
  await drawn.check();
  assert.deepEqual(await lines(), before);
  await page.evaluate(() => document.activeElement.blur());
}
