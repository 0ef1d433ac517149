//! The latency model `linear`.

use crate::{Batch, LatencyModel, PassTime};

/// `base_us + per_token_us · scheduled tokens + per_seq_us · scheduled requests`, all in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// Cost of any iteration.
    pub base_us: f64,
    /// Cost of each scheduled token.
    pub per_token_us: f64,
    /// Cost of each scheduled request.
    pub per_seq_us: f64,
}

impl LatencyModel for Linear {
    fn pass(&self, batch: &Batch) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        let us =
            self.base_us + self.per_token_us * batch.tokens as f64 + self.per_seq_us * batch.requests as f64;
        PassTime::whole(batch, us / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iteration_costs_base_tokens_and_requests() {
        let model = Linear { base_us: 1000.0, per_token_us: 10.0, per_seq_us: 5.0 };
        let mut batch = Batch::new(0);
        assert_eq!(model.pass(&batch), PassTime::default());
        batch.add_tokens(0, 100);
        batch.add_tokens(40, 41);
        assert_eq!(model.pass(&batch), PassTime { prompt_ms: 0.0, decode_ms: 2.02 });
        batch.add_prompt(0, 100);
        assert_eq!(model.pass(&batch), PassTime { prompt_ms: 2.02, decode_ms: 0.0 });
    }
}
