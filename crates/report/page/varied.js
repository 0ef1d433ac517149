// The page of runs that differ in settings that were varied.

/// The table of the command.
function results() {
  const at = section("results", "Figures", "Those of the table of the command; N/A is a figure without a sample.");
  const mark = (text) => (/^[✓✗]+$/.test(text) ? node("span", { class: text.includes("✗") ? "bad" : "good" }, text) : text);
  at.append(table(["Run", ...data.head], data.rows.map((row, n) => [numbered(n), ...row.map(mark)]), "Figures of all runs"));
  const found = several.list.flatMap((run, n) => run.findings.map((text) => node("li", {}, node("b", {}, numbered(n)), `: ${text}`)));
  if (found.length) at.append(node("h3", {}, "What stands out"), node("ul", {}, ...found));
}

whatDiffers();
results();
tradeoffOfRuns();
overSetting();
laidOver(several.list.map((run, n) => ({ ...run, name: numbered(n) })), several.without_curves);
finish(() => {});
