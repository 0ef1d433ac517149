//! What it costs that GPUs which share a layer add up their parts of it.

use crate::profile::{Curve, ProfileError, read_table};

const FILE: &str = "all_reduce.csv";

/// What it costs to sum an activation over the GPUs that share a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum AllReduce {
    /// The quickest of what engines have, by the link.
    Quickest(Quickest),
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

/// The quickest of three ways over a link:
///
/// - one shot: each GPU reads what all others have, constant + (n − 1) · bytes / bandwidth;
/// - two shots: each sums an n-th and reads the sums of the others, constant + 2 (n − 1) / n · bytes / bandwidth;
/// - a ring (NCCL, RCCL): constant + 2 (n − 1) · (step + bytes / n / bandwidth).
///
/// The first two read the memory of other GPUs and exist for a few GPUs only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quickest {
    link: &'static Link,
    gpus: u32,
}

/// What is known of a link.
#[derive(Debug, PartialEq)]
struct Link {
    name: &'static str,
    /// Most GPUs that read each other's memory in an all-reduce; 0 for none.
    most_readers: u32,
    /// One shot: µs, µs more for each GPU, GB/s.
    one_shot: (f64, f64, f64),
    /// Two shots: µs, GB/s.
    two_shots: (f64, f64),
    /// Ring: µs, µs a step, GB/s.
    ring: (f64, f64, f64),
    /// Other GPUs that each has a link of its own to, over which its bandwidth is spread; 0 where a switch connects all.
    peers: u32,
    source: &'static str,
}

const LINKS: [Link; 8] = [
    Link {
        name: "pcie",
        most_readers: 0,
        one_shot: (0.0, 0.0, 1.0),
        two_shots: (0.0, 1.0),
        ring: (0.0, 20.0, 16.0),
        peers: 0,
        source: "no measurement: what LLMServingSim's configurations have for GPUs that exchange through host memory",
    },
    Link {
        name: "pcie5",
        most_readers: 2,
        one_shot: (4.1, 0.1, 41.0),
        two_shots: (f64::INFINITY, 41.0),
        ring: (3.5, 1.4, 30.0),
        peers: 0,
        source: "fitted to all-reduces of vLLM 0.24 and NCCL 2.29 on 2 to 8 RTX PRO 6000 Server that read each other's \
                 memory over PCIe 5.0 x16",
    },
    Link {
        name: "nvlink3",
        most_readers: 8,
        one_shot: (4.8, 0.14, 175.0),
        two_shots: (12.0, 190.0),
        ring: (10.6, 1.0, 160.0),
        peers: 0,
        source: "fitted to all-reduces of vLLM 0.14 and NCCL 2.27 on 2 to 8 A100 SXM",
    },
    Link {
        name: "nvlink4",
        most_readers: 8,
        one_shot: (4.3, 0.07, 265.0),
        two_shots: (8.6, 320.0),
        ring: (5.4, 0.92, 285.0),
        peers: 0,
        source: "fitted to all-reduces of vLLM 0.24 and NCCL 2.29 on 2 to 8 H100 SXM and H200",
    },
    Link {
        name: "nvlink5",
        most_readers: 8,
        one_shot: (6.9, 0.04, 200.0),
        two_shots: (23.0, 610.0),
        ring: (8.7, 1.32, 470.0),
        peers: 0,
        source: "fitted to all-reduces of vLLM 0.24 and NCCL 2.29 on 2 to 8 B200 and B300, 2 to 4 GB300, 2 to 16 GB200",
    },
    Link {
        name: "infinity-fabric",
        most_readers: 8,
        one_shot: (6.0, 0.1, 290.0),
        two_shots: (12.0, 290.0),
        ring: (12.0, 2.0, 290.0),
        peers: 7,
        source: "no measurement: constants assumed, 0.65 of 448 GB/s a direction over 7 links (AMD MI300X data sheet)",
    },
    Link {
        name: "infinity-fabric4",
        most_readers: 8,
        one_shot: (6.0, 0.1, 350.0),
        two_shots: (12.0, 350.0),
        ring: (12.0, 2.0, 350.0),
        peers: 7,
        source: "no measurement: constants assumed, 0.65 of 537.6 GB/s a direction over 7 links (AMD MI355X data sheet)",
    },
    Link {
        name: "infiniband",
        most_readers: 0,
        one_shot: (0.0, 0.0, 1.0),
        two_shots: (0.0, 1.0),
        ring: (20.0, 5.0, 40.0),
        peers: 0,
        source: "no measurement: a port of 400 Gbit/s for each GPU, 0.8 of 50 GB/s; constants assumed",
    },
];

impl Link {
    fn by_name(name: &str) -> Option<&'static Self> {
        LINKS.iter().find(|link| link.name == name)
    }

    /// The share of its bandwidth that so many GPUs have between them.
    fn share(&self, gpus: u32) -> f64 {
        if self.peers == 0 { 1.0 } else { f64::from((gpus - 1).min(self.peers)) / f64::from(self.peers) }
    }
}

impl Quickest {
    /// Over a link of that name.
    pub fn over(link: &str, gpus: u32) -> Option<Self> {
        Some(Self { link: Link::by_name(link)?, gpus })
    }

    /// The time of one all-reduce of so many bytes on each GPU, in µs.
    pub fn time_us(&self, bytes: f64) -> f64 {
        if self.gpus < 2 {
            return 0.0;
        }
        let (n, share) = (f64::from(self.gpus), self.link.share(self.gpus));
        // 10⁹ bytes a second are 10³ a µs.
        let us = |bytes: f64, gb_per_s: f64| bytes / (gb_per_s * share * 1e3);
        let (start, step, gb_per_s) = self.link.ring;
        let ring = start + 2.0 * (n - 1.0) * (step + us(bytes / n, gb_per_s));
        if self.gpus > self.link.most_readers {
            return ring;
        }
        let (start, for_each, gb_per_s) = self.link.one_shot;
        let one = start + for_each * n + us((n - 1.0) * bytes, gb_per_s);
        let (start, gb_per_s) = self.link.two_shots;
        ring.min(one).min(start + us(2.0 * (n - 1.0) / n * bytes, gb_per_s))
    }
}

impl Ring {
    /// Over a link of that name.
    pub fn over(link: &str, gpus: u32) -> Option<Self> {
        let link = Link::by_name(link)?;
        let (start, step, gb_per_s) = link.ring;
        let steps = 2.0 * (f64::from(gpus.max(2)) - 1.0);
        let bandwidth_gb_per_s = gb_per_s * link.share(gpus.max(2));
        Some(Self { gpus, latency_us: step + start / steps, bandwidth_gb_per_s })
    }

    /// GB/s at which a GPU reads the memory of another one over a link, if it can.
    pub fn read_gb_per_s(link: &str) -> Option<f64> {
        let link = LINKS.iter().find(|known| known.name == link)?;
        (link.most_readers > 1).then_some(link.one_shot.2)
    }

    /// The links that are known by name.
    pub fn links() -> impl Iterator<Item = &'static str> {
        LINKS.iter().map(|link| link.name)
    }

    /// Where the numbers of a link are from.
    pub fn source(link: &str) -> Option<&'static str> {
        Link::by_name(link).map(|link| link.source)
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
    /// Over a link of that name, without measured times.
    pub fn over(link: &str, gpus: u32) -> Option<Self> {
        Quickest::over(link, gpus).map(Self::Quickest)
    }

    /// The time of one all-reduce of so many bytes on each GPU, in µs.
    pub fn time_us(&self, bytes: f64) -> f64 {
        match self {
            Self::Quickest(quickest) => quickest.time_us(bytes),
            Self::Ring(ring) => ring.time_us(bytes),
            Self::Table(table) => table.time_us(bytes),
        }
    }

    /// The most bytes for which it holds.
    pub(crate) fn most_bytes(&self) -> f64 {
        match self {
            Self::Quickest(_) | Self::Ring(_) => f64::INFINITY,
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

    /// Times that were measured in graphs, in µs: link, GPUs, bytes. vLLM 0.24 on H100 SXM and B200, 0.14 on A100 SXM, NCCL
    /// 2.23 on 16 GB200; from the operator tables of aisimulate 0.13.0.dev202610270000000085, whose sizes are numbers of 2
    /// bytes.
    const MEASURED: [(&str, u32, f64, f64); 20] = [
        ("nvlink4", 2, 16_384.0, 4.5),
        ("nvlink4", 4, 16_384.0, 4.8),
        ("nvlink4", 8, 16_384.0, 5.3),
        ("nvlink4", 2, 2_097_152.0, 12.4),
        ("nvlink4", 4, 1_048_576.0, 12.8),
        ("nvlink4", 8, 1_048_576.0, 15.0),
        ("nvlink4", 8, 4_194_304.0, 30.8),
        ("nvlink4", 4, 33_554_432.0, 191.2),
        ("nvlink5", 2, 16_384.0, 7.1),
        ("nvlink5", 4, 16_384.0, 7.4),
        ("nvlink5", 8, 16_384.0, 8.1),
        ("nvlink5", 4, 4_194_304.0, 30.0),
        ("nvlink5", 8, 16_777_216.0, 63.2),
        ("nvlink5", 8, 134_217_728.0, 442.3),
        ("nvlink5", 16, 16_384.0, 50.6),
        ("nvlink3", 2, 16_384.0, 5.3),
        ("nvlink3", 8, 65_536.0, 8.4),
        ("nvlink3", 4, 4_194_304.0, 41.5),
        ("nvlink3", 8, 134_217_728.0, 1160.9),
        ("pcie5", 2, 1_048_576.0, 30.1),
    ];

    #[test]
    fn an_all_reduce_takes_what_was_measured() {
        for (link, gpus, bytes, us) in MEASURED {
            let found = Quickest::over(link, gpus).unwrap().time_us(bytes);
            assert!((found / us - 1.0).abs() < 0.2, "{link} {gpus} {bytes}: {found} µs, not {us}");
        }
    }

    #[test]
    fn an_all_reduce_of_more_takes_longer() {
        for link in Ring::links() {
            for gpus in [2, 4, 8, 16, 72] {
                let quickest = Quickest::over(link, gpus).unwrap();
                let mut before = 0.0;
                for power in 8..32 {
                    let now = quickest.time_us(f64::from(1_u32 << power));
                    assert!(now > before && now.is_finite(), "{link} {gpus} {power}: {now} after {before}");
                    before = now;
                }
            }
            assert!(Quickest::over(link, 1).unwrap().time_us(1e6).abs() < 1e-12, "{link}");
        }
    }

    #[test]
    fn gpus_that_exchange_through_host_memory_have_a_ring() {
        let ring = Ring::over("pcie", 4).unwrap();
        assert_eq!(ring, Ring { gpus: 4, latency_us: 20.0, bandwidth_gb_per_s: 16.0 });
        let quickest = Quickest::over("pcie", 4).unwrap();
        for bytes in [1e3, 1e5, 1e8] {
            assert!((quickest.time_us(bytes) / ring.time_us(bytes) - 1.0).abs() < 1e-12, "{bytes}");
        }
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
