// What the page of one run has to do beside its charts over time.
import assert from "node:assert/strict";

const kept = (page) => page.locator("#targets output").textContent();

/// Classes and sessions have the figures of the report.
export async function checkGroups(page) {
  const { classes, sessions } = await page.evaluate(() => data.report);
  const rows = (label) => page.$$eval(`[aria-label="${label}"] tbody tr`, (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
  const shown = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 2 });
  const ofClasses = await rows("Figures by class");
  assert.deepEqual(ofClasses.map(([name]) => name), Object.keys(classes ?? {}));
  for (const [name, requests, , ttft] of ofClasses) assert.deepEqual([requests, ttft], [shown(classes[name].num_requests), shown(classes[name].ttft_ms.mean)]);
  const ofSessions = await rows("Figures of sessions");
  assert.equal(ofSessions.length, sessions ? 3 : 0);
  if (sessions) assert.deepEqual(ofSessions.map((row) => row[1]), [shown(sessions.session_duration_ms.mean / 1e3), shown(sessions.first_turn_ttft_ms.mean), shown(sessions.later_turn_ttft_ms.mean)]);
}

/// Goodput, lines and marks follow targets that are set in the page; the diagnosis does not.
export async function checkTargets(page) {
  const { report } = await page.evaluate(() => ({ report: data.report }));
  const box = (name) => page.getByLabel(`${name} (ms)`, { exact: true });
  const first = await kept(page), old = await box("TTFT").inputValue();
  if (report.sla?.ttft_ms) {
    const share = (report.goodput_completed_requests / report.num_requests) * 100;
    assert.ok(first.startsWith(`${share.toLocaleString("en-US", { maximumFractionDigits: 2 })}% of `), `${first}, not ${share}`);
  } else assert.equal(first, "No target is set.");
  const diagnosis = () => page.$$eval("#diagnosis li", (all) => all.map((one) => one.textContent));
  const found = await diagnosis();
  const lines = () => page.locator("#distributions line[stroke='var(--bad)']").count();
  const half = await page.evaluate(() => data.report.median_ttft_ms);
  await box("TTFT").fill(`${half}`);
  const share = parseFloat(await kept(page));
  assert.ok(Math.abs(share - 50) < 2, `${share} % keep the median`);
  assert.equal(await lines(), 1);
  assert.equal(await page.locator(".marks a.bad").count(), await page.locator(".marks a").count(), "the slowest miss it");
  await box("E2E latency").fill("0.001");
  assert.match(await kept(page), /^0% of /);
  await box("E2E latency").fill("-3");
  assert.ok(Math.abs(parseFloat(await kept(page)) - share) < 1e-9, "what is no limit is none");
  await box("E2E latency").fill("");
  await box("TTFT").fill(old);
  assert.equal(await kept(page), first);
  assert.deepEqual(await diagnosis(), found);
  await page.evaluate(() => document.activeElement.blur());
}

/// The slowest are marked on the time axis, each with a link to its life line, which leads back.
export async function checkSlowest(page) {
  const slowest = await page.evaluate(() => data.slowest.map((request) => request.request));
  const marks = page.locator(".marks a");
  assert.equal(await marks.count(), slowest.length);
  await marks.first().focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.querySelector("tr:target").cells[0].textContent), `${slowest[0]}`);
  const whole = await page.evaluate(() => plots[0].plot.scales.x.max - plots[0].plot.scales.x.min);
  await page.getByRole("button", { name: `Request ${slowest[0]} on the time axis` }).press("Enter");
  const zoomed = await page.evaluate(() => plots.map(({ plot }) => plot.scales.x.max - plot.scales.x.min));
  assert.ok(zoomed.every((length) => length < whole && length === zoomed[0]), `zoomed to ${zoomed} of ${whole}`);
  await page.getByRole("button", { name: "Whole run" }).click();
  await page.evaluate(() => {
    document.activeElement.blur();
    history.replaceState(null, "", location.pathname);
    scrollTo(0, 0);
  });
}
