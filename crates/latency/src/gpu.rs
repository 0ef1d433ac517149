//! What GPUs can do, by the data sheets of their vendors.

use std::borrow::Cow;

use serde::Deserialize;

use self::known::{GPUS, Row};
use crate::model::WeightType;

mod known;

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
    /// 10¹² operations a second on matrices of 4-bit floating point; absent if the GPU has none.
    #[serde(default)]
    pub fp4_tflops: Option<f64>,
    /// Whether those may be of NVFP4.
    #[serde(default)]
    pub nvfp4: bool,
    /// What it is connected to others by, one of [`Ring::links`](crate::Ring::links).
    pub link: Cow<'static, str>,
    /// How many of it are connected by that.
    #[serde(default = "usual_domain")]
    pub domain: u32,
    /// The network of each GPU, in Gb/s, if it has an adapter of its own in the systems of its vendor.
    #[serde(default)]
    pub network_gbit_per_s: Option<f64>,
    /// Where the numbers are from.
    #[serde(default)]
    pub source: Cow<'static, str>,
}

/// GPUs of a server, unless somebody says otherwise.
fn usual_domain() -> u32 {
    8
}

/// Letters and figures of a name, without who makes the GPU.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let letters = letters.map(|letter| letter.to_ascii_lowercase()).collect::<String>();
    let makers = ["nvidia", "amd", "instinct"];
    makers.iter().fold(letters, |name, maker| name.strip_prefix(maker).map_or(name.clone(), str::to_owned))
}

/// A GPU that cannot do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuProblem {
    /// Weights that it cannot multiply.
    #[error(
        "{gpu} has no matrices of NVFP4, which NVIDIA's Blackwell GPUs alone have: fp8, int4 or mxfp4 weights run on it"
    )]
    Weights {
        /// Its name.
        gpu: String,
    },
    /// More GPUs than are connected.
    #[error(
        "{gpus} {gpu} cannot share a layer: {domain} of them are connected by {link}, and beyond those only a network is, which the option `link` of `latency` names"
    )]
    Domain {
        /// Its name.
        gpu: String,
        /// GPUs that were to share a layer.
        gpus: u32,
        /// GPUs that are connected.
        domain: u32,
        /// What connects them.
        link: String,
    },
}

impl GpuSheet {
    /// The GPU of that name, or of the one that a driver calls it; capital letters, spaces and hyphens do not matter.
    pub fn by_name(name: &str) -> Option<Self> {
        let wanted = plain(name);
        let row = GPUS.iter().find(|row| plain(row.name) == wanted || row.aliases.contains(&&*wanted))?;
        let [bf16_tflops, fp8, fp4] = row.tflops;
        let some = |figure: f64| (figure > 0.0).then_some(figure);
        Some(Self {
            name: row.name.into(),
            memory_mib: row.memory_mib,
            memory_gb_per_s: row.gb_per_s,
            bf16_tflops,
            fp8_tflops: some(fp8),
            fp4_tflops: some(fp4),
            nvfp4: fp4 > 0.0 && !row.name.starts_with("MI"),
            link: row.link.into(),
            domain: row.domain,
            network_gbit_per_s: some(row.network_gbit),
            source: row.source.into(),
        })
    }

    /// The names of all GPUs that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        GPUS.iter().map(|row| row.name)
    }

    /// The name of the known GPU that is meant by `name`, if one is near enough to be.
    pub fn suggestion(name: &str) -> Option<&'static str> {
        let wanted = plain(name);
        let near = |row: &Row| strsim::jaro_winkler(&wanted, &plain(row.name));
        let (row, likeness) =
            GPUS.iter().map(|row| (row, near(row))).max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (likeness > 0.75).then_some(row.name)
    }

    /// 10¹² operations a second on matrices whose weights are stored so, without regard to how many are reached.
    pub fn tflops(&self, weights: WeightType) -> f64 {
        match weights {
            WeightType::Fp8 | WeightType::Fp8Block => self.fp8_tflops.unwrap_or(self.bf16_tflops),
            WeightType::Nvfp4 => self.fp4_tflops.unwrap_or(self.bf16_tflops),
            WeightType::Bf16 | WeightType::Int4 | WeightType::Mxfp4 => self.bf16_tflops,
        }
    }

    /// Whether engines run weights that are stored so on it. Where it has no fp8 they are made bf16 on the way; so are
    /// int4 and mxfp4 anywhere.
    ///
    /// # Errors
    /// They do not, with what would run.
    pub fn check_weights(&self, weights: WeightType) -> Result<(), GpuProblem> {
        match weights {
            WeightType::Nvfp4 if !self.nvfp4 => {
                Err(GpuProblem::Weights { gpu: self.name.clone().into_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Whether so many of it are connected by its own link.
    ///
    /// # Errors
    /// They are not.
    pub fn check_domain(&self, gpus: u32) -> Result<(), GpuProblem> {
        if gpus <= self.domain {
            return Ok(());
        }
        Err(GpuProblem::Domain {
            gpu: self.name.clone().into_owned(),
            gpus,
            domain: self.domain,
            link: self.link.clone().into_owned(),
        })
    }

    /// The first of its numbers that cannot be, and what would be right.
    pub fn problem(&self) -> Option<String> {
        let numbers = [
            ("memory_mib", self.memory_mib),
            ("memory_gb_per_s", self.memory_gb_per_s),
            ("bf16_tflops", self.bf16_tflops),
            ("fp8_tflops", self.fp8_tflops.unwrap_or(1.0)),
            ("fp4_tflops", self.fp4_tflops.unwrap_or(1.0)),
            ("domain", f64::from(self.domain)),
            ("network_gbit_per_s", self.network_gbit_per_s.unwrap_or(1.0)),
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
            // Ten operations a byte are far from any GPU, and so are a thousand. An H20 is cut down to 37.
            let balance = sheet.bf16_tflops * 1e3 / sheet.memory_gb_per_s;
            assert!((30.0..500.0).contains(&balance), "{name}: {balance}");
        }
        assert_eq!(GpuSheet::by_name("TPU"), None);
    }

    #[test]
    fn a_gpu_has_the_names_that_drivers_give_it() {
        for (name, of) in [
            ("H100", "H100-SXM"),
            ("NVIDIA H100 80GB HBM3", "H100-SXM"),
            ("h200_sxm", "H200"),
            ("NVIDIA B300 SXM6 AC", "B300"),
            ("NVIDIA GB200", "GB200"),
            ("AMD Instinct MI355X", "MI355X"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-Server"),
            ("a100_sxm", "A100-80GB"),
        ] {
            assert_eq!(GpuSheet::by_name(name).map(|sheet| sheet.name), Some(of.into()), "{name}");
        }
        assert_eq!(GpuSheet::suggestion("H100-SMX"), Some("H100-SXM"));
        assert_eq!(GpuSheet::suggestion("TPU"), None);
    }

    #[test]
    fn what_a_gpu_cannot_do_is_refused_with_why() {
        let sheet = |name| GpuSheet::by_name(name).unwrap();
        for name in ["B200", "B300", "GB200", "GB300", "RTX-PRO-6000", "RTX-PRO-6000-Server"] {
            assert_eq!(sheet(name).check_weights(WeightType::Nvfp4), Ok(()), "{name}");
        }
        for name in ["H100-SXM", "A100-80GB", "MI355X", "L40S"] {
            let error = sheet(name).check_weights(WeightType::Nvfp4).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} has no matrices of NVFP4")), "{error}");
        }
        assert!(GpuSheet::names().all(|name| sheet(name).check_weights(WeightType::Mxfp4).is_ok()));
        assert_eq!(sheet("GB200").check_domain(72), Ok(()));
        let error = sheet("H100-SXM").check_domain(16).unwrap_err().to_string();
        assert!(
            error.starts_with("16 H100-SXM cannot share a layer: 8 of them are connected by nvlink4"),
            "{error}"
        );
    }

    #[test]
    fn fewer_bits_are_multiplied_faster_where_the_gpu_has_them() {
        let rates = |name: &str| {
            let sheet = GpuSheet::by_name(name).unwrap();
            [WeightType::Bf16, WeightType::Fp8Block, WeightType::Nvfp4].map(|weights| sheet.tflops(weights))
        };
        for (name, expected) in [("B200", [2250.0, 4500.0, 9000.0]), ("A100-80GB", [312.0; 3])] {
            let found = rates(name);
            assert!(
                found.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-9),
                "{name}: {found:?}"
            );
        }
    }
}
