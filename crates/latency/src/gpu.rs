//! What GPUs can do, by the data sheets of their vendors.

use std::borrow::Cow;

use serde::Deserialize;

/// What a GPU can do.
///
/// FLOP/s are those of dense matrices (vendors state those of 2:4 sparse ones as well, twice as many) with sums in
/// 32 bits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSheet {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Memory that the driver reports, in MiB.
    pub memory_mib: f64,
    /// Bandwidth of the memory, in GB/s (10⁹ bytes).
    pub memory_gb_per_s: f64,
    /// 10¹² operations a second on bf16 matrices.
    pub bf16_tflops: f64,
    /// 10¹² operations a second on fp8 matrices; absent if the GPU has none, and multiplies as in bf16.
    #[serde(default)]
    pub fp8_tflops: Option<f64>,
    /// What it is connected to others by, one of [`Ring::links`](crate::Ring::links).
    pub link: Cow<'static, str>,
    /// Where the numbers are from.
    #[serde(default)]
    pub source: Cow<'static, str>,
}

/// Name, memory in MiB, GB/s, bf16 and fp8 TFLOP/s (0 for none), link, source. The memory is what `nvidia-smi` and
/// `rocm-smi` report, a few percent less than data sheets round to.
type Row = (&'static str, f64, f64, f64, f64, &'static str, &'static str);

const GPUS: [Row; 13] = [
    ("A100-40GB", 40_960.0, 1555.0, 312.0, 0.0, "nvlink3", "NVIDIA A100 data sheet (SXM4 40 GB)"),
    ("A100-80GB", 81_920.0, 2039.0, 312.0, 0.0, "nvlink3", "NVIDIA A100 data sheet (SXM4 80 GB)"),
    ("H100-SXM", 81_559.0, 3350.0, 989.4, 1978.9, "nvlink4", "NVIDIA H100 data sheet (SXM5)"),
    ("H100-PCIe", 81_559.0, 2000.0, 756.0, 1513.0, "pcie5", "NVIDIA H100 data sheet (PCIe)"),
    ("H200", 143_771.0, 4800.0, 989.4, 1978.9, "nvlink4", "NVIDIA H200 data sheet (SXM)"),
    ("B200", 183_359.0, 7700.0, 2250.0, 4500.0, "nvlink5", "NVIDIA HGX B200 data sheet, a GPU of it"),
    ("L4", 23_034.0, 300.0, 121.0, 242.5, "pcie", "NVIDIA L4 data sheet"),
    ("L40S", 46_068.0, 864.0, 362.0, 733.0, "pcie", "NVIDIA L40S data sheet"),
    ("A10", 23_028.0, 600.0, 125.0, 0.0, "pcie", "NVIDIA A10 data sheet"),
    (
        "RTX-4090",
        24_564.0,
        1008.0,
        165.2,
        330.3,
        "pcie",
        "NVIDIA Ada GPU architecture white paper, appendix A",
    ),
    (
        "RTX-PRO-6000",
        97_887.0,
        1792.0,
        503.8,
        1007.6,
        "pcie",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet (an eighth and a quarter of its 4,000 sparse fp4 TOPS)",
    ),
    (
        "RTX-PRO-6000-Server",
        97_887.0,
        1597.0,
        503.8,
        1007.6,
        "pcie",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet",
    ),
    ("MI300X", 196_592.0, 5300.0, 1307.4, 2614.9, "infinity-fabric", "AMD Instinct MI300X data sheet"),
];

impl GpuSheet {
    /// The GPU of that name; capital letters, spaces and hyphens do not matter.
    pub fn by_name(name: &str) -> Option<Self> {
        let plain = |name: &str| {
            let letters = name.chars().filter(char::is_ascii_alphanumeric);
            letters.map(|letter| letter.to_ascii_lowercase()).collect::<String>()
        };
        let wanted = plain(name);
        let row = GPUS.iter().find(|row| plain(row.0) == wanted)?;
        let &(name, memory_mib, memory_gb_per_s, bf16_tflops, fp8, link, source) = row;
        Some(Self {
            name: name.into(),
            memory_mib,
            memory_gb_per_s,
            bf16_tflops,
            fp8_tflops: (fp8 > 0.0).then_some(fp8),
            link: link.into(),
            source: source.into(),
        })
    }

    /// The names of all GPUs that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        GPUS.iter().map(|row| row.0)
    }

    /// The first of its numbers that cannot be, and what would be right.
    pub fn problem(&self) -> Option<String> {
        let numbers = [
            ("memory_mib", self.memory_mib),
            ("memory_gb_per_s", self.memory_gb_per_s),
            ("bf16_tflops", self.bf16_tflops),
            ("fp8_tflops", self.fp8_tflops.unwrap_or(1.0)),
        ];
        let wrong = numbers.into_iter().find(|(_, number)| !(number.is_finite() && *number > 0.0));
        if let Some((key, number)) = wrong {
            return Some(format!("`{key}` is {number}, but must be a number above 0"));
        }
        let links = crate::Ring::links().collect::<Vec<_>>();
        let is_link = links.contains(&&*self.link);
        (!is_link).then(|| format!("`link` is `{}`, but must be one of {}", self.link, links.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_is_found_and_sound() {
        for name in GpuSheet::names() {
            let sheet = GpuSheet::by_name(&name.to_lowercase().replace('-', " ")).unwrap();
            assert_eq!((&*sheet.name, sheet.problem()), (name, None));
            assert!(!sheet.source.is_empty(), "{name}");
            // Two operations a byte is far from any GPU; so is more than a thousand.
            let balance = sheet.bf16_tflops * 1e3 / sheet.memory_gb_per_s;
            assert!((100.0..500.0).contains(&balance), "{name}: {balance}");
        }
        assert_eq!(GpuSheet::by_name("TPU"), None);
    }
}
