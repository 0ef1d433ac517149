//! How `FlashInfer`'s decode kernel shares sequences of uneven lengths out over a GPU.
//!
//! A thread block reads the keys and values of one head of one sequence, or of a piece of it, and each multiprocessor has
//! two of them: there is room for as many sequences as that makes blocks for all heads. Fewer are cut into pieces of one
//! length, the shortest with which all pieces have room. More are not cut, and the longest is read by its blocks alone when
//! all others are done. Measured sequences are of one length; of uneven ones, what the longest piece has beyond that is
//! added.

use servecast_latency::GpuSheet;

/// Thread blocks on a multiprocessor.
const BLOCKS: f64 = 2.0;
/// Tokens of all sequences at which the time of a token is taken: most batches were measured up to there.
const TOKENS: f64 = 131_072.0;

/// Multiprocessors, as the driver counts them, of GPUs for which the kernel was measured beside others.
fn multiprocessors(gpu: &str) -> Option<f64> {
    match gpu {
        "B200" | "B300" => Some(148.0),
        "GB200" | "GB300" => Some(152.0),
        _ => None,
    }
}

/// How the kernel shares sequences out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Split {
    /// Pieces that are read at a time.
    slots: f64,
    /// µs of a token of a piece, in all layers.
    us_per_token: f64,
}

impl Split {
    /// From the times of sequences of one length, by how many they are and how long. `None` if the GPU is not known.
    pub(super) fn of(gpu: &GpuSheet, kv_heads: u32, us: impl Fn(f64, f64) -> Option<f64>) -> Option<Self> {
        let slots = (BLOCKS * multiprocessors(&gpu.name)? / f64::from(kv_heads)).floor();
        // As many sequences as have room without being cut. Numbers between powers of two were not measured.
        let uncut = libm::exp2(libm::floor(libm::log2(slots)));
        let context = TOKENS / uncut;
        let us_per_token = (us(uncut, context)? - us(uncut, context / 2.0)?) / (context / 2.0);
        (us_per_token > 0.0).then_some(Self { slots, us_per_token })
    }

    pub(super) fn of_layers(self, layers: f64) -> Self {
        Self { us_per_token: self.us_per_token * layers, ..self }
    }

    /// What `requests` sequences with `context` tokens in all take beyond as many of one length, in µs.
    #[inline]
    pub(crate) fn uneven_us(&self, requests: f64, context: f64, longest: f64) -> f64 {
        let mean = context / requests;
        if longest <= mean || requests < 1.0 {
            return 0.0;
        }
        let beyond = if requests >= self.slots {
            longest - mean * requests / self.slots
        } else {
            let even = mean / libm::floor(self.slots / requests);
            // The length of pieces if sequences were of exponentially distributed lengths, as far as they are uneven.
            let cut = mean * libm::log(self.slots / (self.slots - requests));
            (longest.min(cut) - even) * (longest / mean - 1.0).min(1.0)
        };
        beyond.max(0.0) * self.us_per_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split() -> Split {
        // Blocks that read a token in 20 ns, one wave after the other.
        let b200 = GpuSheet::by_name("B200").unwrap();
        Split::of(&b200, 8, |n, context| Some(10.0 + (n / 37.0).ceil() * context * 0.02)).unwrap()
    }

    #[test]
    fn sequences_of_one_length_take_what_was_measured() {
        for requests in [1.0, 16.0, 32.0, 37.0, 64.0, 300.0] {
            assert!(split().uneven_us(requests, requests * 1000.0, 1000.0).abs() < 1e-9, "{requests}");
        }
    }

    #[test]
    fn the_longest_goes_on_when_all_others_are_done() {
        // 64 of 1,000 tokens keep 37 slots busy for 1,730 tokens of each.
        let us = split().uneven_us(64.0, 64_000.0, 20_000.0);
        assert!((us - (20_000.0 - 64_000.0 / 37.0) * 0.02).abs() < 1e-6, "{us}");
        // Of so many, work is left for all slots until then.
        assert!(split().uneven_us(2048.0, 2_048_000.0, 20_000.0).abs() < 1e-9);
    }

    #[test]
    fn few_sequences_are_cut_and_no_longer_than_the_longest() {
        let few = split().uneven_us(4.0, 40_000.0, 30_000.0);
        assert!(few < 1_000.0 * 0.02, "{few}");
        let many = split().uneven_us(36.0, 36_000.0, 3_000.0);
        assert!((many - 2_000.0 * 0.02).abs() < 1e-6, "{many}");
    }
}
