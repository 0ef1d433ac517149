//! Limits that a run must keep beside another one, or a simulation beside what was recorded: `p99_ttft_ms>+5%`.

use std::fmt;
use std::str::FromStr;

use servecast_types::similar;

use crate::part::Figures;
use crate::report::{Report, report_figures};

/// A condition on one figure under which a comparison fails.
///
/// `METRIC OP LIMIT`, where the operator is `>`, `>=`, `<` or `<=` and the limit is a figure (`200`), a change in the
/// unit of the figure (`+20`, `-20`), a change in percent of the baseline (`+5%`, `-5%`) or a percentage without a sign
/// (`5%`), which means a rise beside another run and a distance either way beside what was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct FailIf {
    /// Key of the figure.
    pub metric: String,
    /// How the figure stands to the limit when it fails.
    pub operator: Operator,
    /// What it is held against.
    pub limit: Limit,
}

/// How a figure stands to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The figure itself, in its unit.
    Value(f64),
    /// Its distance from the baseline, in its unit.
    Change(f64),
    /// Its distance from the baseline as a share of the baseline: 0.05 for `+5%`.
    RelativeChange(f64),
    /// A share of the baseline without a sign: 0.05 for `5%`.
    Share(f64),
}

/// Why a condition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no condition: {problem}; write METRIC>LIMIT or METRIC<LIMIT, as in `p99_ttft_ms>+5%`")]
pub struct FailIfError {
    text: String,
    problem: &'static str,
}

/// A condition on a figure that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no figure `{metric}`{}", .similar.as_ref().map_or_else(String::new, |name| format!(", did you mean `{name}`?")))]
pub struct UnknownFigure {
    metric: String,
    similar: Option<String>,
}

impl Operator {
    /// The longer ones first, since the shorter ones are their beginnings.
    const ALL: [(&'static str, Self); 4] =
        [(">=", Self::AtLeast), ("<=", Self::AtMost), (">", Self::Above), ("<", Self::Below)];
}

impl FailIf {
    /// The condition with the figure by its name among `known`: `p50_…` is `median_…`, `…_e2e_ms` is
    /// `…_e2e_latency_ms`, and the other way round.
    ///
    /// # Errors
    /// There is no such figure; the error names the one most like it.
    pub fn on_one_of(mut self, known: &[String]) -> Result<Self, UnknownFigure> {
        let meant = plain_name(&self.metric);
        if let Some(name) = known.iter().find(|name| plain_name(name) == meant) {
            self.metric.clone_from(name);
            return Ok(self);
        }
        let plain: Vec<String> = known.iter().map(|name| plain_name(name)).collect();
        let most_like = similar(&meant, plain.iter().map(String::as_str));
        let position = most_like.and_then(|name| plain.iter().position(|plain| plain == name));
        Err(UnknownFigure { metric: self.metric, similar: position.map(|position| known[position].clone()) })
    }

    /// The condition with the figure by its name in a report; that of a class is `classes.NAME.FIGURE`.
    ///
    /// # Errors
    /// As [`FailIf::on_one_of`].
    pub fn on_report(self) -> Result<Self, UnknownFigure> {
        let Some((class, figure)) = class_and_figure(&self.metric) else {
            return self.on_one_of(&report_figures());
        };
        let metric = |figure: &str| format!("{CLASSES}{class}.{figure}");
        match (Self { metric: figure.to_owned(), ..self.clone() }).on_one_of(&Figures::names()) {
            Ok(found) => Ok(Self { metric: metric(&found.metric), ..self }),
            Err(unknown) => Err(UnknownFigure {
                metric: self.metric.clone(),
                similar: unknown.similar.map(|figure| metric(&figure)),
            }),
        }
    }

    /// Whether a figure breaks the limit beside that of the baseline.
    ///
    /// Any rise above a baseline of 0 is an infinite relative change.
    pub fn is_broken_by(&self, value: f64, baseline: f64) -> bool {
        let (measured, limit) = match self.limit {
            Limit::Value(limit) => (value, limit),
            Limit::Change(limit) => (value - baseline, limit),
            Limit::RelativeChange(limit) | Limit::Share(limit) => (relative_change(value, baseline), limit),
        };
        self.operator.holds(measured, limit)
    }
}

impl Operator {
    /// Whether a figure stands so to a limit.
    pub fn holds(self, figure: f64, limit: f64) -> bool {
        match self {
            Self::Above => figure > limit,
            Self::AtLeast => figure >= limit,
            Self::Below => figure < limit,
            Self::AtMost => figure <= limit,
        }
    }
}

/// How figures of classes begin.
const CLASSES: &str = "classes.";

/// The class and the figure of it that a name means. Names of classes may have dots.
fn class_and_figure(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(CLASSES)?.rsplit_once('.')
}

/// The figure of a class of a report, by its name in a [condition](FailIf::on_report); `None` if it is that of no class.
///
/// # Errors
/// That the report has no such class, and which it has.
pub fn class_figure(report: &Report, name: &str) -> Option<Result<Option<f64>, String>> {
    let (class, figure) = class_and_figure(name)?;
    let figures = report.classes.as_ref().and_then(|classes| classes.get(class));
    Some(figures.map(|figures| figures.named(figure)).ok_or_else(|| {
        let names = report.classes.iter().flat_map(|classes| classes.keys()).map(|name| format!("`{name}`"));
        let names = names.collect::<Vec<_>>().join(", ");
        let has = if names.is_empty() { "it names none".to_owned() } else { format!("it has {names}") };
        format!("the load has no request of class `{class}`: {has}")
    }))
}

/// The name of a figure in the words that all names for it have in common.
fn plain_name(name: &str) -> String {
    let name = name.strip_prefix("median_").map_or_else(|| name.to_owned(), |rest| format!("p50_{rest}"));
    ["_e2e_latency_", "_request_latency_", "_e2el_"].iter().fold(name, |name, e2e| name.replace(e2e, "_e2e_"))
}

/// The distance of a figure from its baseline as a share of the baseline; infinite if only the baseline is 0.
pub fn relative_change(value: f64, baseline: f64) -> f64 {
    let change = value - baseline;
    if change == 0.0 { 0.0 } else { change / baseline.abs() }
}

impl FromStr for FailIf {
    type Err = FailIfError;

    fn from_str(text: &str) -> Result<Self, FailIfError> {
        let refused = |problem| FailIfError { text: text.to_owned(), problem };
        let position = text.find(['<', '>']).ok_or_else(|| refused("it has no `>` and no `<`"))?;
        let (metric, rest) = text.split_at(position);
        let found = Operator::ALL.iter().find(|(sign, _)| rest.starts_with(sign));
        let &(sign, operator) = found.ok_or_else(|| refused("it has no `>` and no `<`"))?;
        let metric = metric.trim();
        if metric.is_empty() {
            return Err(refused("it names no figure"));
        }
        let limit = rest[sign.len()..].trim();
        let is_change = limit.starts_with(['+', '-']);
        let (number, is_percent) =
            limit.strip_suffix('%').map_or((limit, false), |number| (number.trim_end(), true));
        let number = number.parse::<f64>().ok().filter(|number| number.is_finite());
        let number = number.ok_or_else(|| refused("its limit is no number"))?;
        let limit = match (is_percent, is_change) {
            (true, true) => Limit::RelativeChange(number / 100.0),
            (true, false) => Limit::Share(number / 100.0),
            (false, true) => Limit::Change(number),
            (false, false) => Limit::Value(number),
        };
        Ok(Self { metric: metric.to_owned(), operator, limit })
    }
}

impl fmt::Display for FailIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = Operator::ALL.iter().find(|(_, operator)| *operator == self.operator);
        write!(f, "{}{}", self.metric, sign.map_or("", |(sign, _)| sign))?;
        match self.limit {
            Limit::Value(value) => write!(f, "{value}"),
            Limit::Change(change) => write!(f, "{change:+}"),
            Limit::RelativeChange(share) => write!(f, "{:+}%", percent(share)),
            Limit::Share(share) => write!(f, "{}%", percent(share)),
        }
    }
}

/// A share in percent, rounded, since 0.07 · 100 is no whole number.
fn percent(share: f64) -> f64 {
    (share * 1e11).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, broken: &[(f64, f64)], kept: &[(f64, f64)]) {
        let condition: FailIf = text.parse().unwrap();
        let is_broken = |&(value, baseline): &(f64, f64)| condition.is_broken_by(value, baseline);
        assert!(broken.iter().all(is_broken), "{text}: {broken:?}");
        assert!(!kept.iter().any(is_broken), "{text}: {kept:?}");
    }

    #[test]
    fn limits_are_figures_changes_or_shares() {
        check("p99_ttft_ms>+5%", &[(105.1, 100.0), (1.0, 0.0)], &[(105.0, 100.0), (0.0, 0.0), (1.0, 100.0)]);
        check("p99_ttft_ms > 5 %", &[(106.0, 100.0)], &[(104.0, 100.0)]);
        check("x<-5%", &[(94.0, 100.0)], &[(95.1, 100.0), (106.0, 100.0)]);
        check("x>=+5", &[(105.0, 100.0)], &[(104.0, 100.0)]);
        check("x<=200", &[(200.0, 0.0), (1.0, 300.0)], &[(201.0, 300.0)]);
    }

    #[test]
    fn a_condition_reads_as_it_was_written() {
        for text in ["p99_ttft_ms>+5%", "x<-7%", "x>7%", "x>=+5", "x<=200", "x>0.5"] {
            assert_eq!(text.parse::<FailIf>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_figure_has_the_names_that_tools_give_it() {
        let known = ["median_ttft_ms", "mean_e2e_latency_ms", "mean_itl_ms"].map(str::to_owned);
        let on = |text: &str| text.parse::<FailIf>().unwrap().on_one_of(&known);
        for (text, name) in [
            ("mean_itl_ms>1", "mean_itl_ms"),
            ("p50_ttft_ms>1", "median_ttft_ms"),
            ("mean_e2e_ms>1", "mean_e2e_latency_ms"),
            ("mean_request_latency_ms>1", "mean_e2e_latency_ms"),
        ] {
            assert_eq!(on(text).unwrap().metric, name);
        }
        let error = |text| on(text).unwrap_err().to_string();
        assert_eq!(error("mean_itl>1"), "there is no figure `mean_itl`, did you mean `mean_itl_ms`?");
        assert_eq!(error("x>1"), "there is no figure `x`");
    }

    #[test]
    fn a_figure_of_a_class_is_named_by_both() {
        let on = |text: &str| text.parse::<FailIf>().unwrap().on_report();
        for (text, name) in [
            ("classes.chat.p99_ttft_ms>1", "classes.chat.p99_ttft_ms"),
            ("classes.v1.2 fast.p50_e2e_ms>1", "classes.v1.2 fast.median_e2e_latency_ms"),
            ("p50_ttft_ms>1", "median_ttft_ms"),
        ] {
            assert_eq!(on(text).unwrap().metric, name);
        }
        assert_eq!(
            on("classes.chat.p99_tfft_ms>1").unwrap_err().to_string(),
            "there is no figure `classes.chat.p99_tfft_ms`, did you mean `classes.chat.p99_ttft_ms`?"
        );
        assert!(on("classes.chat>1").is_err());
        assert_eq!(Figures::names().len(), 31);
    }

    #[test]
    fn what_is_no_condition_is_refused_with_the_reason() {
        for (text, problem) in [
            ("p99_ttft_ms", "it has no `>` and no `<`"),
            (">5", "it names no figure"),
            ("x>", "its limit is no number"),
            ("x>inf", "its limit is no number"),
            ("x=>5%%", "its limit is no number"),
            ("x>five", "its limit is no number"),
        ] {
            let error = text.parse::<FailIf>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no condition: {problem}")), "{error}");
        }
    }
}
