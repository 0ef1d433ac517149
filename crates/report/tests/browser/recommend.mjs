// What the page of a recommendation has to do.
import assert from "node:assert/strict";

const title = (page) => page.locator(".settings h3").textContent();
const rows = (page) => page.$$eval("#deployments tbody tr", (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
const drawn = (page) => page.$$eval("#tradeoff svg", ([svg]) => [svg.querySelectorAll("circle.dot").length, svg.querySelectorAll("path[stroke='var(--dim)']").length]);
/// The deployments of the load that is shown, and the settings of one of them as the page has them.
const points = (page) => page.evaluate(() => load.points);

export async function checkRecommendation(page) {
  await checkPoints(page);
  await checkKeys(page);
  await checkAxes(page);
  await checkTable(page);
  await checkLoads(page);
}

/// Every deployment is there; pointing at one reads it, a click shows the settings that repeat it.
async function checkPoints(page) {
  const all = await points(page), ran = all.filter((point) => !point.lost);
  assert.ok(ran.length > 2 && all.length > ran.length, `${all.length} points, ${ran.length} of them ran`);
  assert.deepEqual(await drawn(page), [ran.length, all.length - ran.length]);
  assert.match(await title(page), /^#1 /);
  const at = await page.evaluate(() => {
    const dot = document.querySelectorAll("#tradeoff circle.dot")[0], box = dot.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2 + scrollY];
  });
  await page.locator("#tradeoff svg").first().scrollIntoViewIfNeeded();
  const y = at[1] - await page.evaluate(() => scrollY);
  await page.mouse.move(at[0], y);
  const read = await page.locator("#tradeoff output").textContent();
  await page.mouse.click(at[0], y);
  const chosen = await page.evaluate(() => picked);
  assert.ok(read.includes(`${chosen.name}: `), `${read} is not of ${chosen.name}`);
  assert.equal(await title(page), `${chosen.rank ? `#${chosen.rank} ` : ""}${chosen.name}`);
  const text = await page.getByLabel("deployment.toml").textContent();
  for (const [key, value] of Object.entries(chosen.settings)) assert.ok(text.includes(`${key} = ${value}\n`), `${key} is not in ${text}`);
  const keys = text.trim().split("\n").map((line) => line.split(" = ")[0]);
  assert.equal(new Set(keys).size, keys.length, `a key is there twice: ${keys}`);
  assert.ok(keys.includes("slo"), `${keys}`);
  await page.mouse.move(0, 0);
}

async function checkKeys(page) {
  const chart = page.locator("#tradeoff .chart");
  await chart.focus();
  await chart.press("Home");
  await chart.press("Enter");
  const leftmost = await title(page), least = Math.min(...(await points(page)).map((point) => point.gpus));
  assert.equal((await page.evaluate(() => picked)).gpus, least, "the first has the fewest GPUs");
  await chart.press("ArrowRight");
  assert.equal(await title(page), leftmost, "a key alone only reads");
  await chart.press("Enter");
  assert.notEqual(await title(page), leftmost);
  await chart.blur();
}

/// Another target and another axis are drawn anew, once.
async function checkAxes(page) {
  const label = () => page.locator("#tradeoff svg").getAttribute("aria-label");
  const first = await label();
  await page.getByRole("combobox", { name: "Target" }).selectOption("1");
  assert.notEqual(await label(), first);
  await page.getByRole("combobox", { name: "Target" }).selectOption("0");
  await page.getByRole("combobox", { name: "against" }).selectOption("gpus");
  assert.match(await label(), /^GPUs against /);
  await page.getByRole("combobox", { name: "against" }).selectOption("per_hour");
  assert.equal(await label(), first);
}

async function checkTable(page) {
  const gpus = page.getByRole("button", { name: "GPUs", exact: true });
  const column = async () => (await rows(page)).map((row) => +row[2]);
  const isSorted = (values, sign) => values.every((value, n) => !n || sign * (value - values[n - 1]) >= 0);
  assert.equal((await rows(page)).length, Math.min((await points(page)).length, await page.evaluate(() => MOST_ROWS)));
  await gpus.click();
  assert.ok(isSorted(await column(), 1), `ascending: ${await column()}`);
  await gpus.press("Enter");
  assert.ok(isSorted(await column(), -1), `descending: ${await column()}`);
  assert.equal(await page.locator("#deployments th[aria-sort=descending]").count(), 1);
  await page.getByRole("button", { name: "#", exact: true }).click();
  assert.equal((await rows(page))[0][0], "1", "what has no place comes last");
  await page.getByRole("button", { name: "#", exact: true }).click();
  assert.notEqual((await rows(page))[0][0], "–", "in either order");

  const search = page.getByLabel("Filter");
  await search.fill("least_loaded  cut");
  const found = await rows(page);
  assert.ok(found.length > 0 && found.every((row) => row[1].includes("least_loaded") && row.at(-1) === "cut off"), `${found}`);
  await search.fill("no such deployment");
  assert.equal((await rows(page)).length, 0);
  await search.fill("");
  await page.getByRole("checkbox", { name: "keeps all targets" }).check();
  const kept = (await points(page)).filter((point) => point.met).length;
  assert.ok((await rows(page)).every((row) => row.at(-1) === "keeps all"));
  assert.equal((await rows(page)).length, kept);
  await page.getByRole("checkbox", { name: "keeps all targets" }).uncheck();

  const name = page.locator("#deployments tbody button").nth(2), text = await name.textContent();
  await name.press("Enter");
  assert.ok((await title(page)).endsWith(text));
  assert.ok(await page.evaluate(() => document.activeElement.matches(".settings h3")), "the settings have the focus");
  await page.evaluate(() => document.activeElement.blur());
}

/// Another load has another answer, and goes back.
async function checkLoads(page) {
  const answer = () => page.locator("#answer").textContent();
  const first = await answer(), curves = await page.locator("#load svg").count();
  const overTime = () => page.locator("#time .multiples svg").evaluateAll((charts) => charts.map((chart) => [...chart.querySelectorAll("path")].map((line) => line.getAttribute("d")).join()).join("|"));
  const firstLines = await overTime();
  assert.match(await page.locator("#time").textContent(), /Under the load as it was given/);
  assert.equal(curves, await page.evaluate(() => data.targets.length));
  const loads = page.getByRole("combobox", { name: "Load" });
  await loads.selectOption("1");
  assert.notEqual(await answer(), first);
  assert.notEqual(await overTime(), firstLines, "curves are those of the load that is shown");
  assert.match(await page.locator("#time").textContent(), /Under 1\.5 × the load that was given/);
  const text = await page.getByLabel("deployment.toml").textContent();
  assert.match(text, /arrival_speedup_ratio = /);
  await loads.selectOption("0");
  assert.equal(await answer(), first);
  assert.equal(await overTime(), firstLines);
  assert.equal(await page.locator("#load svg").count(), curves, "nothing is left of the other load");
}
