//! What it costs that GPUs which share a layer add up their parts of it.

use crate::profile::{Curve, ProfileError, read_table};

const FILE: &str = "all_reduce.csv";

/// What it costs to sum an activation over the GPUs that share a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum AllReduce {
    /// A ring, by latency and bandwidth of a link.
    Ring(Ring),
    /// Measured times.
    Table(AllReduceTable),
}

/// A ring: each of 2 (n − 1) steps sends an n-th of the bytes to the next GPU, so time = 2 (n − 1) · (latency +
/// bytes / n / bandwidth), the bandwidth in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ring {
    /// GPUs that share a layer.
    pub gpus: u32,
    /// Time of a step without data, in µs.
    pub latency_us: f64,
    /// GB/s (10⁹ bytes) in one direction.
    pub bandwidth_gb_per_s: f64,
}

/// Links by name: time of a step in µs, GB/s that collectives get in one direction, and where that is from.
///
/// Bandwidths of `NVLink` and Infinity Fabric are 0.8 of what the vendor states a GPU in one direction.
const LINKS: [(&str, f64, f64, &str); 7] = [
    (
        "pcie",
        20.0,
        16.0,
        "no measurement: what LLMServingSim's configurations have for GPUs that exchange through host memory",
    ),
    ("pcie5", 20.0, 25.0, "no measurement: latency as `pcie`, 0.4 of PCIe 5.0 x16 (63 GB/s a direction)"),
    (
        "nvlink3",
        4.0,
        240.0,
        "0.8 of 300 GB/s a direction (NVIDIA A100 data sheet: 600 GB/s both ways); latency assumed",
    ),
    (
        "nvlink4",
        4.0,
        360.0,
        "0.8 of 450 GB/s a direction (NVIDIA H100 data sheet: 900 GB/s both ways); latency assumed",
    ),
    (
        "nvlink5",
        4.0,
        720.0,
        "0.8 of 900 GB/s a direction (NVIDIA HGX B200 data sheet: 1.8 TB/s both ways); latency assumed",
    ),
    (
        "infinity-fabric",
        6.0,
        358.0,
        "0.8 of 448 GB/s a direction (AMD MI300X data sheet: 896 GB/s both ways); latency assumed",
    ),
    (
        "infinity-fabric4",
        6.0,
        430.0,
        "0.8 of 537.6 GB/s a direction (AMD MI355X data sheet: 1,075.2 GB/s both ways); latency assumed",
    ),
];

impl Ring {
    /// Over a link of that name.
    pub fn over(link: &str, gpus: u32) -> Option<Self> {
        let (_, latency_us, bandwidth_gb_per_s, _) = *LINKS.iter().find(|(name, ..)| *name == link)?;
        Some(Self { gpus, latency_us, bandwidth_gb_per_s })
    }

    /// The links that are known by name.
    pub fn links() -> impl Iterator<Item = &'static str> {
        LINKS.iter().map(|(name, ..)| *name)
    }

    /// Where the numbers of a link are from.
    pub fn source(link: &str) -> Option<&'static str> {
        LINKS.iter().find(|(name, ..)| *name == link).map(|(.., source)| *source)
    }

    /// The time of one all-reduce of so many bytes on each GPU, in µs.
    pub fn time_us(&self, bytes: f64) -> f64 {
        if self.gpus < 2 {
            return 0.0;
        }
        let n = f64::from(self.gpus);
        2.0 * (n - 1.0) * (self.latency_us + bytes / n / (self.bandwidth_gb_per_s * 1e3))
    }
}

/// Times of all-reduces by bytes, linear in between, constant below the first point and beyond the last one at the
/// bandwidth of the last two.
#[derive(Debug, Clone, PartialEq)]
pub struct AllReduceTable {
    curve: Curve,
    last: (f64, f64),
    us_per_byte: f64,
}

impl AllReduceTable {
    /// Reads a table `bytes,time_us`, or `gpus,bytes,time_us` for several numbers of GPUs, whose rows for `gpus` are
    /// taken.
    pub fn read(text: &str, gpus: u32) -> Result<Self, ProfileError> {
        let has_gpus = text.lines().next().unwrap_or_default().split(',').any(|name| name.trim() == "gpus");
        let columns: &[&'static str] =
            if has_gpus { &["bytes", "time_us", "gpus"] } else { &["bytes", "time_us"] };
        let mut curve = Curve::default();
        let mut points = Vec::new();
        for row in read_table(FILE, text, false, columns)?.rows {
            if row.values.get(2).is_some_and(|&of| (of - f64::from(gpus)).abs() > 0.5) {
                continue;
            }
            curve.add(FILE, &row)?;
            points.push((row.values[0], row.values[1]));
        }
        let [.., before, last] = points[..] else {
            return Err(ProfileError::Points {
                file: FILE,
                problem: format!("fewer than two sizes were measured with {gpus} GPUs"),
            });
        };
        let us_per_byte = ((last.1 - before.1) / (last.0 - before.0)).max(0.0);
        Ok(Self { curve, last, us_per_byte })
    }

    fn time_us(&self, bytes: f64) -> f64 {
        self.curve.at(bytes) + (bytes - self.last.0).max(0.0) * self.us_per_byte
    }
}

impl AllReduce {
    /// The time of one all-reduce of so many bytes on each GPU, in µs.
    pub fn time_us(&self, bytes: f64) -> f64 {
        match self {
            Self::Ring(ring) => ring.time_us(bytes),
            Self::Table(table) => table.time_us(bytes),
        }
    }

    /// The most bytes for which it holds.
    pub(crate) fn most_bytes(&self) -> f64 {
        match self {
            Self::Ring(_) => f64::INFINITY,
            Self::Table(table) => table.last.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_all_reduce_is_two_rounds_of_the_ring() {
        let ring = |gpus| Ring { gpus, latency_us: 10.0, bandwidth_gb_per_s: 10.0 };
        assert!(ring(1).time_us(1e6).abs() < 1e-12);
        assert!((ring(2).time_us(1e6) - 120.0).abs() < 1e-9);
        assert!((ring(4).time_us(1e6) - 210.0).abs() < 1e-9);
    }

    #[test]
    fn measured_all_reduces_are_interpolated() {
        let text = "gpus,bytes,time_us\n2,1000,10\n2,2000,12\n2,4000,20\n4,1000,30\n4,2000,40\n";
        let table = |gpus| AllReduceTable::read(text, gpus);
        let two = table(2).unwrap();
        for (bytes, us) in [(10.0, 10.0), (1500.0, 11.0), (4000.0, 20.0), (6000.0, 28.0)] {
            assert!((two.time_us(bytes) - us).abs() < 1e-9, "{bytes}");
        }
        assert!((table(4).unwrap().time_us(2000.0) - 40.0).abs() < 1e-9);
        assert_eq!(
            table(8).unwrap_err().to_string(),
            "all_reduce.csv: fewer than two sizes were measured with 8 GPUs"
        );
        let backwards = AllReduceTable::read("bytes,time_us\n2,1\n1,1\n", 2).unwrap_err();
        assert!(matches!(backwards, ProfileError::Order { .. }), "{backwards}");
    }

    #[test]
    fn every_link_says_where_its_numbers_are_from() {
        assert!(Ring::links().all(|link| Ring::source(link).is_some_and(|source| !source.is_empty())));
        assert_eq!(Ring::over("token-ring", 2), None);
    }
}
