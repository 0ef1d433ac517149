//! Reads an objective; what is wrong with one is shown where it stands.

use servecast_types::{Message, message, settings_error, similar};

use super::{LatencyLimit, Metric, Slo, Statistic};

/// Why an objective cannot be read, with the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SloError {
    text: String,
    /// Characters before what is wrong, and how many those are.
    at: usize,
    length: usize,
    problem: Message,
}

settings_error!(SloError);

impl From<&SloError> for Message {
    fn from(error: &SloError) -> Self {
        let SloError { text, at, length, problem } = error;
        // One line, on which a mark stands where it points to.
        let text: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        let mark = " ".repeat(*at) + &"^".repeat((*length).max(1));
        message!("{}\n  {}\n  {}", problem, text, mark)
    }
}

const GRAMMAR: &str = "an objective is `p95 ttft <= 1s` or `goodput >= 99% (ttft <= 2s, tpot <= 50ms)`";
const STATISTICS: &str = "p0 to p100, mean and max";
const UNITS: &str = "us, ms, s or m (minutes)";

/// Names of statistics that people write, and what they are here.
const OTHER_STATISTICS: [(&str, &str); 8] = [
    ("median", "p50 is the median"),
    ("med", "p50 is the median"),
    ("avg", "`mean` is the average"),
    ("average", "`mean` is the average"),
    ("min", "p0 is the minimum"),
    ("minimum", "p0 is the minimum"),
    ("maximum", "write `max`"),
    ("p", "a percentile has a number, as in `p95`"),
];

/// Names of latencies that people write, and what they are here.
const OTHER_METRICS: [(&str, Metric); 12] = [
    ("latency", Metric::E2e),
    ("e2el", Metric::E2e),
    ("e2e_latency", Metric::E2e),
    ("request_latency", Metric::E2e),
    ("end_to_end", Metric::E2e),
    ("tbt", Metric::Itl),
    ("inter_token_latency", Metric::Itl),
    ("time_to_first_token", Metric::Ttft),
    ("time_per_output_token", Metric::Tpot),
    ("ttft_ms", Metric::Ttft),
    ("tpot_ms", Metric::Tpot),
    ("itl_ms", Metric::Itl),
];

pub(super) fn parse(text: &str) -> Result<Slo, SloError> {
    let mut reader = Reader { text, tokens: tokens(text), next: 0 };
    let slo = if reader.peek().is_some_and(|token| token.word() == "goodput") {
        reader.next += 1;
        reader.goodput()?
    } else {
        let statistic = reader.statistic()?;
        Slo::Latency { statistic, limit: reader.limit()? }
    };
    match reader.peek() {
        None => Ok(slo),
        Some(token) => {
            let problem = message!("nothing follows an objective: give each with a {--slo} of its own");
            Err(reader.error(token, problem))
        }
    }
}

/// A word, a number with its unit, or a sign.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    /// Characters before it.
    at: usize,
}

impl Token<'_> {
    fn word(&self) -> String {
        self.text.to_lowercase()
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_sign = |c: char| matches!(c, '<' | '>' | '=' | '≤' | '≥');
    let is_mark = |c: char| matches!(c, '(' | ')' | ',' | '%');
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut at = 0;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() || is_mark(first) {
            first.len_utf8()
        } else if is_sign(first) {
            rest.find(|c| !is_sign(c)).unwrap_or(rest.len())
        } else {
            let ends = |c: char| c.is_whitespace() || is_mark(c) || is_sign(c);
            rest.find(ends).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() {
            tokens.push(Token { text: token, at });
        }
        at += token.chars().count();
        rest = after;
    }
    tokens
}

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self, expected: &str) -> Result<Token<'a>, SloError> {
        let token = self.peek().ok_or_else(|| self.at_end(format!("{expected} is missing: {GRAMMAR}")))?;
        self.next += 1;
        Ok(token)
    }

    fn error(&self, token: Token<'_>, problem: impl Into<Message>) -> SloError {
        SloError {
            text: self.text.to_owned(),
            at: token.at,
            length: token.text.chars().count(),
            problem: problem.into(),
        }
    }

    fn at_end(&self, problem: impl Into<Message>) -> SloError {
        let at = self.text.trim_end().chars().count();
        SloError { text: self.text.to_owned(), at, length: 1, problem: problem.into() }
    }

    fn statistic(&mut self) -> Result<Statistic, SloError> {
        let token = self.take("a statistic such as p95")?;
        let word = token.word();
        match word.as_str() {
            "mean" => return Ok(Statistic::Mean),
            "max" => return Ok(Statistic::Max),
            _ => {}
        }
        let number = word.strip_prefix('p').filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(number) = number {
            let percent = decimal(number).map(|number| number.parse::<f64>().unwrap_or(f64::NAN));
            return match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
                Some(percent) => Ok(Statistic::Percentile(percent)),
                None => Err(self.error(token, "a percentile is p0 to p100, with decimals if need be: p99.9")),
            };
        }
        if let Some((_, meant)) = OTHER_STATISTICS.iter().find(|(name, _)| *name == word) {
            return Err(self.error(token, format!("unknown statistic `{}`: {meant}", token.text)));
        }
        if metric_of(&word).is_some() {
            let problem = format!("the statistic goes first, as in `p95 {}`: {STATISTICS}", token.text);
            return Err(self.error(token, &problem));
        }
        let known = ["mean", "max", "p50", "p95", "p99", "goodput"];
        let problem = match similar(&word, known) {
            Some(name) => format!("unknown statistic `{}`, did you mean `{name}`?", token.text),
            None => format!("unknown statistic `{}`: there are {STATISTICS}", token.text),
        };
        Err(self.error(token, &problem))
    }

    fn metric(&mut self) -> Result<Metric, SloError> {
        let token = self.take("a latency (ttft, tpot, itl or e2e)")?;
        let word = token.word();
        if let Some(metric) = Metric::ALL.into_iter().find(|metric| metric.name() == word) {
            return Ok(metric);
        }
        let meant = metric_of(&word)
            .map(Metric::name)
            .or_else(|| similar(&word, Metric::ALL.map(Metric::name)).filter(|_| word.len() > 2));
        let problem = match meant {
            Some(name) => format!("unknown figure `{}`, did you mean `{name}`?", token.text),
            None => format!("unknown figure `{}`: there are ttft, tpot, itl and e2e", token.text),
        };
        Err(self.error(token, &problem))
    }

    /// A latency and the most that it may be.
    fn limit(&mut self) -> Result<LatencyLimit, SloError> {
        let metric = self.metric()?;
        let sign = self.take("`<=`")?;
        let is_strict = match sign.text {
            "<" => true,
            "<=" | "≤" => false,
            ">" | ">=" | "≥" => {
                return Err(self.error(sign, "a latency has an upper limit: write `<=` or `<`"));
            }
            _ => return Err(self.error(sign, "between a figure and its limit stands `<=` or `<`")),
        };
        Ok(LatencyLimit { metric, is_strict, ms: self.duration()? })
    }

    /// A duration in ms.
    fn duration(&mut self) -> Result<f64, SloError> {
        let token = self.take("a limit such as 500ms")?;
        let split = token.text.find(|c: char| c.is_alphabetic()).unwrap_or(token.text.len());
        let (digits, mut unit) = token.text.split_at(split);
        let Some(digits) = decimal(digits) else {
            return Err(self.error(token, "a limit is a number with a unit, as in 500ms or 1.5s"));
        };
        let mut place = Token { text: unit, at: token.at + digits.chars().count() };
        if unit.is_empty() {
            // The unit may stand apart.
            let Some(next) = self.peek().filter(|next| next.text.starts_with(char::is_alphabetic)) else {
                let place = Token { text: " ", at: token.at + token.text.chars().count() };
                return Err(self.error(place, format!("the unit is missing: {UNITS}")));
            };
            self.next += 1;
            (unit, place) = (next.text, next);
        }
        // As a power of ten of the same digits, so that 1.1s is the number nearest to 1100 ms.
        let (power, factor) = match unit {
            "us" | "µs" | "μs" => (-3, 1.0),
            "ms" => (0, 1.0),
            "s" | "sec" => (3, 1.0),
            "m" | "min" => (3, 60.0),
            _ => return Err(self.error(place, format!("unknown unit `{unit}`: there are {UNITS}"))),
        };
        let ms = format!("{digits}e{power}").parse::<f64>().unwrap_or(f64::NAN) * factor;
        if !(ms.is_finite() && ms > 0.0) {
            return Err(self.error(token, "a limit is finite and above 0"));
        }
        Ok(ms)
    }

    /// What follows the word `goodput`.
    fn goodput(&mut self) -> Result<Slo, SloError> {
        let sign = self.take("`>=`")?;
        let is_strict = match sign.text {
            ">" => true,
            ">=" | "≥" => false,
            _ => return Err(self.error(sign, "goodput has a lower limit: write `>=` or `>`")),
        };
        let token = self.take("a share such as 99%")?;
        let percent = decimal(token.text).and_then(|digits| digits.parse::<f64>().ok());
        let Some(percent) = percent.filter(|percent| (0.0..=100.0).contains(percent)) else {
            return Err(self.error(token, "goodput is a share from 0% to 100%"));
        };
        match self.peek() {
            Some(sign) if sign.text == "%" => self.next += 1,
            _ => {
                let place = Token { text: " ", at: token.at + token.text.chars().count() };
                return Err(self.error(place, "goodput is a share in percent, as in 99%"));
            }
        }
        let open = self.take("`(` and the limits of a request")?;
        if open.text != "(" {
            return Err(self.error(open, format!("the limits of a request stand in brackets: {GRAMMAR}")));
        }
        let mut limits: Vec<LatencyLimit> = Vec::new();
        loop {
            let first = self.peek();
            let limit = self.limit()?;
            if let Some(first) = first {
                self.check_limit(first, limit, &limits)?;
            }
            limits.push(limit);
            let token = self.take("`)`")?;
            match token.text {
                "," => {}
                ")" => break,
                _ => return Err(self.error(token, "limits are separated by commas, and end with `)`")),
            }
        }
        Ok(Slo::Goodput { share: percent / 100.0, is_strict, limits })
    }

    /// Refuses what judges no request, and what is given twice.
    fn check_limit(
        &self,
        token: Token<'_>,
        limit: LatencyLimit,
        others: &[LatencyLimit],
    ) -> Result<(), SloError> {
        if limit.metric == Metric::Itl {
            let problem = "itl pools the gaps of all requests and judges none of them: `tpot` is per request";
            return Err(self.error(token, problem));
        }
        if others.iter().any(|other| other.metric == limit.metric) {
            return Err(self.error(token, format!("{} is limited twice", limit.metric.name())));
        }
        Ok(())
    }
}

fn metric_of(word: &str) -> Option<Metric> {
    let own = Metric::ALL.into_iter().find(|metric| metric.name() == word);
    own.or_else(|| OTHER_METRICS.iter().find(|(name, _)| *name == word).map(|(_, metric)| *metric))
}

/// The text if it is a plain decimal number: digits, perhaps with a point among them.
fn decimal(text: &str) -> Option<&str> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.matches('.').count() <= 1;
    is_number.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, canonical: &str) {
        let slo: Slo = text.parse().unwrap();
        assert_eq!(slo.to_string(), canonical, "{text}");
        assert_eq!(canonical.parse::<Slo>().unwrap(), slo, "{canonical}");
    }

    #[test]
    fn objectives_read_as_people_write_them() {
        for (text, canonical) in [
            ("p95 ttft <= 1s", "p95 ttft <= 1s"),
            ("  P99.9   TTFT<250ms ", "p99.9 ttft < 250ms"),
            ("mean itl ≤ 40 ms", "mean itl <= 40ms"),
            ("max e2e <= 1.5m", "max e2e <= 90s"),
            ("p0 tpot < 800us", "p0 tpot < 800us"),
            ("p100 tpot < 0.8ms", "p100 tpot < 800us"),
            ("p50 ttft <= 1100ms", "p50 ttft <= 1.1s"),
            ("goodput>=99%(ttft<=2s,tpot<=50ms)", "goodput >= 99% (ttft <= 2s, tpot <= 50ms)"),
            ("goodput > 99.95 % ( e2e < 1m )", "goodput > 99.95% (e2e < 60s)"),
            ("goodput >= 7% (ttft <= 2s)", "goodput >= 7% (ttft <= 2s)"),
        ] {
            reads(text, canonical);
        }
    }

    #[test]
    fn limits_are_the_numbers_that_were_written() {
        for (text, ms) in
            [("1.1s", 1100.0), ("0.3s", 300.0), ("0.0011s", 1.1), ("1.1us", 0.0011), ("2m", 120_000.0)]
        {
            let Slo::Latency { limit, .. } = format!("p95 ttft <= {text}").parse().unwrap() else { panic!() };
            assert!(limit.ms == ms, "{text} is {} ms", limit.ms);
        }
    }

    #[test]
    fn a_mistake_is_shown_where_it_stands() {
        for (text, expected) in [
            ("p95 ttfs <= 1s", "unknown figure `ttfs`, did you mean `ttft`?\n  p95 ttfs <= 1s\n      ^^^^"),
            (
                "median ttft <= 1s",
                "unknown statistic `median`: p50 is the median\n  median ttft <= 1s\n  ^^^^^^",
            ),
            (
                "ttft p95 <= 1s",
                "the statistic goes first, as in `p95 ttft`: p0 to p100, mean and max\n  ttft p95 <= 1s\n  ^^^^",
            ),
            (
                "p101 ttft <= 1s",
                "a percentile is p0 to p100, with decimals if need be: p99.9\n  p101 ttft <= 1s\n  ^^^^",
            ),
            (
                "p95 ttft >= 1s",
                "a latency has an upper limit: write `<=` or `<`\n  p95 ttft >= 1s\n           ^^",
            ),
            (
                "p95 ttft <= 1000",
                "the unit is missing: us, ms, s or m (minutes)\n  p95 ttft <= 1000\n                  ^",
            ),
            (
                "p95 ttft <= 1h",
                "unknown unit `h`: there are us, ms, s or m (minutes)\n  p95 ttft <= 1h\n               ^",
            ),
            ("p95 ttft <= 0ms", "a limit is finite and above 0\n  p95 ttft <= 0ms\n              ^^^"),
            (
                "p95 ttft",
                "`<=` is missing: an objective is `p95 ttft <= 1s` or `goodput >= 99% (ttft <= 2s, tpot <= \
                 50ms)`\n  p95 ttft\n          ^",
            ),
            (
                "p95 ttft <= 1s p95 itl <= 40ms",
                "nothing follows an objective: give each with a --slo of its own\n  p95 ttft <= 1s p95 itl <= \
                 40ms\n                 ^^^",
            ),
            (
                "goodput >= 0.99 (ttft <= 2s)",
                "goodput is a share in percent, as in 99%\n  goodput >= 0.99 (ttft <= 2s)\n                 ^",
            ),
            (
                "goodput >= 99% (itl <= 50ms)",
                "itl pools the gaps of all requests and judges none of them: `tpot` is per request\n  goodput >= \
                 99% (itl <= 50ms)\n                  ^^^",
            ),
            (
                "goodput <= 99% (ttft <= 2s)",
                "goodput has a lower limit: write `>=` or `>`\n  goodput <= 99% (ttft <= 2s)\n          ^^",
            ),
            (
                "goodput >= 99% (ttft <= 2s, ttft <= 3s)",
                "ttft is limited twice\n  goodput >= 99% (ttft <= 2s, ttft <= 3s)\n                              ^^^^",
            ),
        ] {
            let error = text.parse::<Slo>().unwrap_err().to_string();
            // The caret lines are easier to check by where they point.
            let point = |text: &str| text.lines().last().map(|line| line.find('^'));
            let (head, expected_head) = (error.lines().next(), expected.lines().next());
            assert_eq!((head, point(&error)), (expected_head, point(expected)), "{text}: {error}");
        }
    }

    #[test]
    fn no_text_is_a_panic() {
        for text in [
            "",
            " ",
            "(",
            "%",
            "goodput",
            "goodput >= 99% (",
            "p95",
            "p1e5 ttft <= 1s",
            "p95 ttft <= .s",
            "é≤µ",
        ] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
    }
}
