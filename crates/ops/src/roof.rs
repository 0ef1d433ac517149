//! What an operator takes at least, by the data sheet of the GPU: for operators that no table has, and to carry a table
//! over to another shape.

use servecast_latency::{Efficiency, GpuSheet, ModelShape, WeightType};

/// Bytes of a bf16 number.
pub(crate) const BF16_BYTES: f64 = 2.0;

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stored {
    pub(crate) weights: WeightType,
    /// Bytes of a number, its part of the scales included.
    bytes: f64,
}

impl Stored {
    pub(crate) fn of(model: &ModelShape, weights: WeightType) -> Self {
        Self { weights, bytes: model.bytes_of(weights) }
    }
}

/// A GPU's rates, as far as well-tuned kernels reach them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::struct_field_names, reason = "units belong into names")]
pub(crate) struct Roof {
    bf16_flop_per_us: f64,
    fp8_flop_per_us: f64,
    fp4_flop_per_us: f64,
    attention_flop_per_us: f64,
    pub(crate) bytes_per_us: f64,
    kernel_us: f64,
}

impl Roof {
    pub(crate) fn of(gpu: &GpuSheet) -> Self {
        let Efficiency { compute, attention, memory, kernel_us, .. } = Efficiency::default();
        // 10¹² operations a second are 10⁶ a µs, and 10⁹ bytes a second 10³.
        let bf16 = gpu.bf16_tflops * 1e6;
        let fp8 = gpu.fp8_tflops.map_or(bf16, |tflops| tflops * 1e6);
        let fp4 = gpu.fp4_tflops.map_or(fp8, |tflops| tflops * 1e6);
        Self {
            bf16_flop_per_us: bf16 * compute,
            fp8_flop_per_us: fp8 * compute,
            fp4_flop_per_us: fp4 * compute,
            attention_flop_per_us: bf16 * attention,
            bytes_per_us: gpu.memory_gb_per_s * 1e3 * memory,
            kernel_us,
        }
    }

    fn flop_per_us(&self, weights: WeightType) -> f64 {
        match weights {
            WeightType::Bf16 | WeightType::Int4 | WeightType::Mxfp4 => self.bf16_flop_per_us,
            WeightType::Fp8 | WeightType::Fp8Block => self.fp8_flop_per_us,
            WeightType::Nvfp4 => self.fp4_flop_per_us,
        }
    }

    /// A matrix product of m × k numbers with k × n weights, in µs.
    pub(crate) fn product_us(&self, m: f64, n: f64, k: f64, stored: Stored) -> f64 {
        let read = k * n * stored.bytes + m * (n + k) * BF16_BYTES;
        self.slower(2.0 * m * n * k / self.flop_per_us(stored.weights), read)
    }

    /// Experts: so many numbers of weights for each token, and so many weights in all that some token needs.
    pub(crate) fn experts_us(&self, tokens: f64, per_token: f64, needed: f64, stored: Stored) -> f64 {
        self.slower(2.0 * tokens * per_token / self.flop_per_us(stored.weights), needed * stored.bytes)
    }

    /// Attention: so many operations, and so many bytes of KV.
    pub(crate) fn attention_us(&self, flop: f64, bytes: f64) -> f64 {
        self.slower(flop / self.attention_flop_per_us, bytes)
    }

    fn slower(&self, computing_us: f64, bytes: f64) -> f64 {
        computing_us.max(bytes / self.bytes_per_us) + self.kernel_us
    }
}
