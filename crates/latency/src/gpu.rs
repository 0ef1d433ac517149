//! What GPUs can do, by the data sheets of their vendors.

use std::borrow::Cow;

use serde::Deserialize;

use crate::model::WeightType;

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

/// A GPU that is known by name.
struct Row {
    name: &'static str,
    /// What `nvidia-smi` and `rocm-smi` report, in MiB: a few percent less than data sheets round to.
    memory_mib: f64,
    gb_per_s: f64,
    /// Dense TFLOP/s in bf16, fp8 and fp4; 0 for none.
    tflops: [f64; 3],
    link: &'static str,
    domain: u32,
    /// Gb/s of the network adapter of each GPU in the systems that its vendor describes: DGX A100 (ConnectX-6), DGX H100,
    /// H200 and B200 and GB200 NVL72 (ConnectX-7), DGX B300 and GB300 NVL72 (ConnectX-8), AMD's platforms of eight
    /// (Pollara or others of 400 Gb/s); 0 where there is no such system.
    network_gbit: f64,
    /// Other names, without what is no letter or figure.
    aliases: &'static [&'static str],
    source: &'static str,
}

const GPUS: [Row; 20] = [
    Row {
        name: "A100-40GB",
        memory_mib: 40_960.0,
        gb_per_s: 1555.0,
        tflops: [312.0, 0.0, 0.0],
        link: "nvlink3",
        domain: 8,
        network_gbit: 200.0,
        aliases: &["a100sxm440gb"],
        source: "NVIDIA A100 data sheet (SXM4 40 GB)",
    },
    Row {
        name: "A100-80GB",
        memory_mib: 81_920.0,
        gb_per_s: 2039.0,
        tflops: [312.0, 0.0, 0.0],
        link: "nvlink3",
        domain: 8,
        network_gbit: 200.0,
        aliases: &["a100", "a100sxm", "a100sxm480gb"],
        source: "NVIDIA A100 data sheet (SXM4 80 GB)",
    },
    Row {
        name: "H100-SXM",
        memory_mib: 81_559.0,
        gb_per_s: 3350.0,
        tflops: [989.4, 1978.9, 0.0],
        link: "nvlink4",
        domain: 8,
        network_gbit: 400.0,
        aliases: &["h100", "h10080gb", "h10080gbhbm3", "h100sxm5"],
        source: "NVIDIA H100 data sheet (SXM5)",
    },
    Row {
        name: "H100-PCIe",
        memory_mib: 81_559.0,
        gb_per_s: 2000.0,
        tflops: [756.0, 1513.0, 0.0],
        link: "pcie5",
        domain: 8,
        network_gbit: 0.0,
        aliases: &[],
        source: "NVIDIA H100 data sheet (PCIe)",
    },
    Row {
        name: "H200",
        memory_mib: 143_771.0,
        gb_per_s: 4800.0,
        tflops: [989.4, 1978.9, 0.0],
        link: "nvlink4",
        domain: 8,
        network_gbit: 400.0,
        aliases: &["h200sxm", "h200141gb"],
        source: "NVIDIA H200 data sheet (SXM)",
    },
    Row {
        name: "H20",
        memory_mib: 97_871.0,
        gb_per_s: 4000.0,
        tflops: [148.0, 296.0, 0.0],
        link: "nvlink4",
        domain: 8,
        network_gbit: 400.0,
        aliases: &["h2096gb"],
        source: "NVIDIA H20 product brief (96 GB HBM3)",
    },
    Row {
        name: "B200",
        memory_mib: 183_359.0,
        gb_per_s: 7700.0,
        tflops: [2250.0, 4500.0, 9000.0],
        link: "nvlink5",
        domain: 8,
        network_gbit: 400.0,
        aliases: &["b200sxm"],
        source: "NVIDIA HGX B200 data sheet, a GPU of it",
    },
    Row {
        name: "B300",
        memory_mib: 275_040.0,
        gb_per_s: 8000.0,
        tflops: [2250.0, 4500.0, 13_500.0],
        link: "nvlink5",
        domain: 8,
        network_gbit: 800.0,
        aliases: &["b300sxm", "b300sxm6", "b300sxm6ac"],
        source: "NVIDIA HGX B300 data sheet, a GPU of it (fp4: 108 PFLOP/s dense of 8)",
    },
    Row {
        name: "GB200",
        memory_mib: 189_471.0,
        gb_per_s: 8000.0,
        tflops: [2500.0, 5000.0, 10_000.0],
        link: "nvlink5",
        domain: 72,
        network_gbit: 400.0,
        aliases: &["gb200nvl72"],
        source: "NVIDIA GB200 NVL72 data sheet, a GPU of it (halves of the sparse figures)",
    },
    Row {
        name: "GB300",
        memory_mib: 284_208.0,
        gb_per_s: 8000.0,
        tflops: [2500.0, 5000.0, 15_000.0],
        link: "nvlink5",
        domain: 72,
        network_gbit: 800.0,
        aliases: &["gb300nvl72"],
        source: "NVIDIA GB300 NVL72 data sheet, a GPU of it (fp4: 1,080 PFLOP/s dense of 72)",
    },
    Row {
        name: "L4",
        memory_mib: 23_034.0,
        gb_per_s: 300.0,
        tflops: [121.0, 242.5, 0.0],
        link: "pcie",
        domain: 8,
        network_gbit: 0.0,
        aliases: &[],
        source: "NVIDIA L4 data sheet",
    },
    Row {
        name: "L40S",
        memory_mib: 46_068.0,
        gb_per_s: 864.0,
        tflops: [362.0, 733.0, 0.0],
        link: "pcie",
        domain: 8,
        network_gbit: 0.0,
        aliases: &[],
        source: "NVIDIA L40S data sheet",
    },
    Row {
        name: "A10",
        memory_mib: 23_028.0,
        gb_per_s: 600.0,
        tflops: [125.0, 0.0, 0.0],
        link: "pcie",
        domain: 8,
        network_gbit: 0.0,
        aliases: &["a10g"],
        source: "NVIDIA A10 data sheet",
    },
    Row {
        name: "RTX-4090",
        memory_mib: 24_564.0,
        gb_per_s: 1008.0,
        tflops: [165.2, 330.3, 0.0],
        link: "pcie",
        domain: 8,
        network_gbit: 0.0,
        aliases: &["geforcertx4090"],
        source: "NVIDIA Ada GPU architecture white paper, appendix A",
    },
    Row {
        name: "RTX-PRO-6000",
        memory_mib: 97_887.0,
        gb_per_s: 1792.0,
        tflops: [503.8, 1007.6, 2015.2],
        link: "pcie",
        domain: 8,
        network_gbit: 0.0,
        aliases: &[
            "rtxpro6000workstation",
            "rtxpro6000blackwell",
            "rtxpro6000blackwellworkstationedition",
            "rtxpro6000workstationedition",
        ],
        source: "NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet (an eighth, a quarter and half of its 4,000 \
                 sparse fp4 TOPS)",
    },
    Row {
        name: "RTX-PRO-6000-Server",
        memory_mib: 97_887.0,
        gb_per_s: 1597.0,
        tflops: [503.8, 1007.6, 2015.2],
        link: "pcie5",
        domain: 8,
        network_gbit: 0.0,
        aliases: &[
            "rtxpro6000blackwellserveredition",
            "rtxpro6000serveredition",
            "rtxpro6000blackwellserver",
        ],
        source: "NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet",
    },
    Row {
        name: "MI300X",
        memory_mib: 196_592.0,
        gb_per_s: 5300.0,
        tflops: [1307.4, 2614.9, 0.0],
        link: "infinity-fabric",
        domain: 8,
        network_gbit: 400.0,
        aliases: &[],
        source: "AMD Instinct MI300X data sheet",
    },
    Row {
        name: "MI325X",
        memory_mib: 262_128.0,
        gb_per_s: 6000.0,
        tflops: [1307.4, 2614.9, 0.0],
        link: "infinity-fabric",
        domain: 8,
        network_gbit: 400.0,
        aliases: &[],
        source: "AMD Instinct MI325X data sheet (memory: its 256 GB less the 16 MiB that MI300X keeps)",
    },
    Row {
        name: "MI350X",
        memory_mib: 294_896.0,
        gb_per_s: 8000.0,
        tflops: [2306.9, 4613.7, 9227.5],
        link: "infinity-fabric4",
        domain: 8,
        network_gbit: 400.0,
        aliases: &[],
        source: "AMD Instinct MI350X data sheet (memory: its 288 GB less the 16 MiB that MI300X keeps)",
    },
    Row {
        name: "MI355X",
        memory_mib: 294_896.0,
        gb_per_s: 8000.0,
        tflops: [2516.6, 5033.2, 10_066.3],
        link: "infinity-fabric4",
        domain: 8,
        network_gbit: 400.0,
        aliases: &[],
        source: "AMD Instinct MI355X data sheet (memory: its 288 GB less the 16 MiB that MI300X keeps)",
    },
];

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
