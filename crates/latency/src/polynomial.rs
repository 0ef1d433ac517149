//! The latency model `polynomial`.

use crate::{Batch, LatencyModel, PassTime};

/// The default model of Dynamo's mocker: a polynomial in new prompt tokens plus one in KV utilisation.
///
/// With t new prompt tokens and u = min(1, Σ context of decoding requests / KV capacity):
///
/// - prompt: 4.209989e-7 t² + 1.518344e-2 t + 16.50142 ms, if there are any prompt tokens;
/// - decode: max(1, −25.74 u² + 54.01 u + 5.74) ms, if any request decodes.
///
/// The terms are summed in this order, since other orders differ in the last digit and with it by nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polynomial;

impl LatencyModel for Polynomial {
    fn pass(&self, batch: &Batch) -> PassTime {
        let prompt_ms = match batch.prompt.requests {
            0 => 0.0,
            _ => prompt_ms(batch.prompt.tokens_by_truncated_means()),
        };
        let decode_ms = match batch.decode.requests {
            0 => 0.0,
            _ => decode_ms(batch.decode.context_tokens, batch.kv_capacity_tokens),
        };
        PassTime { prompt_ms, decode_ms }
    }
}

fn prompt_ms(tokens: u64) -> f64 {
    let t = tokens as f64;
    (4.209989e-07 * (t * t) + 1.518344e-02 * t + 1.650142e+01).max(0.0)
}

fn decode_ms(context_tokens: u64, capacity_tokens: u64) -> f64 {
    let u =
        if capacity_tokens == 0 { 1.0 } else { (context_tokens as f64 / capacity_tokens as f64).min(1.0) };
    (-25.74 * (u * u) + 54.01 * u + 5.74).max(1.0)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the worked numbers hold to the last bit")]
mod tests {
    use super::*;
    use crate::{Latency, Speedup};

    #[test]
    fn prompts_cost_what_the_worked_numbers_say() {
        for (tokens, ms) in [
            (100, 18.023973988999998),
            (14, 16.7140706757844),
            (8192, 169.1369184042496),
            (2000, 48.552295599999994),
            (0, 16.50142),
        ] {
            assert_eq!(prompt_ms(tokens), ms, "{tokens} tokens");
        }
    }

    #[test]
    fn decode_steps_cost_what_the_worked_numbers_say() {
        assert_eq!(decode_ms(64, 1_048_576), 5.74329641290009);
        assert_eq!(decode_ms(1, 4), 17.63375);
        assert_eq!(decode_ms(0, 0), decode_ms(1, 1), "no capacity counts as full");
        assert_eq!(decode_ms(5, 4), decode_ms(4, 4), "utilisation is at most 1");
    }

    fn iteration_ns(batch: &Batch) -> u64 {
        Latency::new(Polynomial, Speedup::default()).iteration(batch).unwrap().as_ns()
    }

    #[test]
    fn a_request_pays_for_its_prompt_then_for_its_context() {
        let mut first = Batch::new(1_048_576);
        first.add_prompt(0, 128);
        assert_eq!(iteration_ns(&first), 18_451_798);
        let mut second = Batch::new(1_048_576);
        second.add_decode(129);
        assert_eq!(iteration_ns(&second), 5_746_644);
    }

    #[test]
    fn a_mixed_iteration_is_the_sum_of_both_parts() {
        let mut batch = Batch::new(3072);
        batch.add_prompt(0, 512);
        batch.add_decode(2301);
        batch.add_decode(609);
        assert_eq!(iteration_ns(&batch), 58_190_705);
    }
}
