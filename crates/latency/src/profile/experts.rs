//! Times of the experts of a block: tokens × experts that some token goes to.

use std::collections::BTreeSet;

use super::ProfileError;
use super::table::{Curve, Row, read};

const FILE: &str = "moe.csv";

/// Measured times: a curve by activated experts for each number of tokens.
///
/// Between numbers of tokens, both curves are looked up at the activated experts and the result is linear in between. A
/// curve is constant beyond its ends: few tokens cannot go to many experts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExpertTimes {
    tokens: Vec<f64>,
    curves: Vec<Curve>,
    /// GPUs that share the experts, if it was measured on one that has all of them: each has its part of the experts, and
    /// with them of what goes to some expert.
    shared_by: f64,
}

impl ExpertTimes {
    /// Reads the rows that were measured with experts shared out over `gpus`; a table without a column `ep` is of one. Where
    /// there are none, those of one GPU stand for them.
    pub(super) fn read(text: &str, gpus: u32) -> Result<Self, ProfileError> {
        let has_ep = text.lines().next().unwrap_or_default().split(',').any(|name| name.trim() == "ep");
        let columns: &[&'static str] = if has_ep {
            &["tokens", "activated_experts", "time_us", "ep"]
        } else {
            &["tokens", "activated_experts", "time_us"]
        };
        let all = read(FILE, text, false, columns)?.rows;
        let ep = |row: &Row| row.values.get(3).map_or(1, |&ep| ep as u32);
        let measured: BTreeSet<u32> = all.iter().map(ep).collect();
        let of = if measured.contains(&gpus) { gpus } else { 1 };
        let of_gpus = all.into_iter().filter(|row| ep(row) == of);
        let mut rows: Vec<(f64, Row)> = of_gpus
            .map(|Row { line, layer, values }| {
                let layer = if layer.is_empty() { "moe".to_owned() } else { layer };
                (values[0], Row { line, layer, values: vec![values[1], values[2]] })
            })
            .collect();
        if rows.is_empty() {
            let sizes = measured.into_iter().map(|ep| ep.to_string()).collect::<Vec<_>>().join(", ");
            let problem = format!(
                "experts were measured with expert_parallel_size {sizes}, not {gpus}: measure them with that, or with 1"
            );
            return Err(ProfileError::Points { file: FILE, problem });
        }
        rows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.values[0].total_cmp(&b.1.values[0])));
        let (mut tokens, mut curves) = (Vec::new(), Vec::new());
        for same in rows.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
            let mut curve = Curve::default();
            for (_, row) in same {
                curve.add(FILE, row)?;
            }
            tokens.push(same[0].0);
            curves.push(curve);
        }
        Ok(Self { tokens, curves, shared_by: f64::from(if of == gpus { 1 } else { gpus }) })
    }

    /// The most tokens that were measured.
    pub(super) fn most_tokens(&self) -> f64 {
        self.measured_tokens() * self.shared_by
    }

    fn measured_tokens(&self) -> f64 {
        self.tokens[self.tokens.len() - 1]
    }

    /// µs in a block of so many tokens, of which some go to `activated` experts of a GPU; beyond the measured tokens in
    /// proportion to them.
    pub(super) fn us(&self, tokens: f64, activated: f64) -> f64 {
        let tokens = tokens / self.shared_by;
        let next = self.tokens.partition_point(|&point| point < tokens);
        let Some(&after) = self.tokens.get(next) else {
            return self.curves[next - 1].at(activated) * tokens / self.measured_tokens();
        };
        let at_after = self.curves[next].at(activated);
        let Some(previous) = next.checked_sub(1) else { return at_after };
        let before = self.tokens[previous];
        let at_before = self.curves[previous].at(activated);
        at_before + (at_after - at_before) * (tokens - before) / (after - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "ep,tokens,activated_experts,time_us\n1,1,2,10\n1,4,2,12\n1,4,8,30\n2,1,1,7\n2,4,1,7\n";

    #[test]
    fn times_lie_between_those_measured() {
        let times = ExpertTimes::read(TABLE, 1).unwrap();
        for (tokens, activated, us) in [
            (1.0, 2.0, 10.0),
            (4.0, 8.0, 30.0),
            (4.0, 5.0, 21.0),
            (2.0, 2.0, 10.0 + 2.0 / 3.0),
            (8.0, 8.0, 60.0),
        ] {
            assert!((times.us(tokens, activated) - us).abs() < 1e-9, "{tokens} {activated}");
        }
        let shared = ExpertTimes::read(TABLE, 2).unwrap();
        assert!((shared.us(2.0, 1.0) - 7.0).abs() < 1e-9);
        // Each of four GPUs does what one does for a fourth of the tokens.
        let derived = ExpertTimes::read(TABLE, 4).unwrap();
        assert!((derived.us(16.0, 5.0) - 21.0).abs() < 1e-9);
        assert!((derived.most_tokens() - 16.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_is_refused() {
        assert_eq!(
            ExpertTimes::read("ep,tokens,activated_experts,time_us\n2,1,2,10\n", 4).unwrap_err().to_string(),
            "moe.csv: experts were measured with expert_parallel_size 2, not 4: measure them with that, or with 1"
        );
        let twice = ExpertTimes::read("tokens,activated_experts,time_us\n1,2,3\n1,2,4\n", 1).unwrap_err();
        assert!(matches!(twice, ProfileError::Order { .. }), "{twice}");
    }
}
