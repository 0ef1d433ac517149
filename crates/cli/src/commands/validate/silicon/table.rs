//! A table of measured runs: a row a run, with what ran, under which load, and mean TTFT and TPOT.

use std::path::Path;

use serde::Serialize;
use servecast_engine::EngineType;

use crate::error::Failure;
use crate::files;

/// Columns that a table must have.
const NEEDED: [&str; 9] = ["model", "gpu", "engine", "tp", "isl", "osl", "concurrency", "ttft_ms", "tpot_ms"];
/// Columns that it may have.
const KNOWN: [&str; 15] = [
    "id",
    "engine_version",
    "dtype",
    "kv_dtype",
    "ep",
    "attention_dp",
    "max_num_batched_tokens",
    "max_num_seqs",
    "chunked_prefill",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "scheduler_recv_interval",
    "gpu_memory_utilization",
    "client",
    "maybe_speculative",
];
/// What a cell says that says nothing.
const NOTHING: [&str; 2] = ["", "nan"];
/// The client whose load is known.
const KNOWN_CLIENT: &str = "inferencex";
/// Most requests under way, and most tokens of a request.
const MOST: u32 = 1 << 20;

/// A measured run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    /// Line of the table, from 1; the first is the header.
    pub(super) line: u64,
    pub(super) id: String,
    pub(super) model: String,
    pub(super) gpu: String,
    pub(super) engine: EngineType,
    pub(super) engine_version: Option<String>,
    pub(super) dtype: Option<String>,
    pub(super) kv_dtype: Option<String>,
    /// GPUs of the engine.
    pub(super) tp: u32,
    /// GPUs that the experts are shared out over; 1 if each has a part of every expert.
    pub(super) ep: u32,
    /// Data-parallel ranks of the attention, among which the GPUs are shared out.
    pub(super) attention_dp: u32,
    /// Nominal lengths.
    pub(super) isl: u32,
    pub(super) osl: u32,
    pub(super) concurrency: u32,
    pub(super) max_num_batched_tokens: Option<u32>,
    pub(super) max_num_seqs: Option<u32>,
    pub(super) chunked_prefill: Option<bool>,
    pub(super) chunked_prefill_size: Option<u32>,
    pub(super) max_prefill_tokens: Option<u32>,
    pub(super) scheduler_recv_interval: Option<u32>,
    pub(super) gpu_memory_utilization: Option<f64>,
    pub(super) client: Option<String>,
    pub(super) maybe_speculative: bool,
    pub(super) ttft_ms: f64,
    pub(super) tpot_ms: f64,
    /// Of what ran and under which load, by which a sample is chosen.
    pub(super) hash: u64,
    /// Why it cannot be right.
    pub(super) implausible: Option<String>,
}

/// A TPOT that is below this share of that of the same deployment under a lighter load cannot be right.
const LEAST_SHARE_OF_TPOT: f64 = 0.5;

impl Measured {
    /// Whether its error counts: the client is known (or the table names none), nothing drafted tokens, and it can be
    /// right.
    pub(super) fn is_judged(&self) -> bool {
        self.why_not_judged().is_none()
    }

    /// Why its error does not count, unless it does: the first reason that holds.
    pub(super) fn why_not_judged(&self) -> Option<NotJudged> {
        if self.client.as_deref().is_some_and(|client| client != KNOWN_CLIENT) {
            Some(NotJudged::OtherClient)
        } else if self.maybe_speculative {
            Some(NotJudged::MaybeSpeculative)
        } else {
            self.implausible.as_ref().map(|_| NotJudged::Implausible)
        }
    }

    /// Whether both ran the same on the same, whatever the load and the release.
    fn is_deployed_as(&self, other: &Self) -> bool {
        (self.engine, self.tp, self.ep, self.attention_dp, self.isl, self.osl)
            == (other.engine, other.tp, other.ep, other.attention_dp, other.isl, other.osl)
            && (&self.model, &self.gpu, &self.dtype, &self.kv_dtype)
                == (&other.model, &other.gpu, &other.dtype, &other.kv_dtype)
            && self.is_judged() == other.is_judged()
    }

    /// Why the run cannot be right beside the others: more requests under way do not make each of them much faster.
    fn problem(&self, rows: &[Self]) -> Option<String> {
        let lighter =
            rows.iter().filter(|row| row.concurrency < self.concurrency && row.is_deployed_as(self));
        let slowest = lighter.max_by(|one, other| one.tpot_ms.total_cmp(&other.tpot_ms))?;
        let is_wrong = self.tpot_ms < LEAST_SHARE_OF_TPOT * slowest.tpot_ms;
        is_wrong.then(|| {
            format!(
                "a TPOT of {} ms with {} requests under way is less than half of the {} ms with {}",
                self.tpot_ms, self.concurrency, slowest.tpot_ms, slowest.concurrency
            )
        })
    }
}

/// Why the error of a run does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NotJudged {
    /// It was measured by a client whose figures mean something else, perhaps.
    OtherClient,
    /// Tokens may have been drafted, which the row does not describe: it is simulated without.
    MaybeSpeculative,
    /// The measured times cannot be right.
    Implausible,
}

impl NotJudged {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::OtherClient, Self::MaybeSpeculative, Self::Implausible];

    /// What it is called in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OtherClient => "other_client",
            Self::MaybeSpeculative => "maybe_speculative",
            Self::Implausible => "implausible",
        }
    }

    /// What is said of such runs.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::OtherClient => "another client",
            Self::MaybeSpeculative => "perhaps speculative decoding",
            Self::Implausible => "implausible",
        }
    }
}

/// A table, and what of it has no effect.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Vec<Measured>,
    /// Columns that nobody reads.
    pub(super) unused: Vec<String>,
}

/// Reads a table, plain or packed.
pub(super) fn read(path: &Path) -> Result<Table, Failure> {
    let text = files::read_unpacked_text(path)?;
    of_text(&text).map_err(|failure| failure.about(path.display().to_string()))
}

fn of_text(text: &str) -> Result<Table, Failure> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| Failure::input(&error))?.clone();
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|name| !header.iter().any(|column| column == *name)).collect();
    if !missing.is_empty() {
        let columns = [&NEEDED[..], &KNOWN[..]].concat().join(", ");
        return Err(Failure::user(format!("there is no column `{}`", missing.join("`, `")))
            .with_hint(format!("a table of measured runs is a CSV file with the columns {columns}")));
    }
    let is_read = |column: &str| NEEDED.contains(&column) || KNOWN.contains(&column);
    let unused = header.iter().filter(|column| !is_read(column)).map(str::to_owned).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| Failure::input(&error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells = Cells { header: &header, record: &record };
        rows.push(cells.row(line).map_err(|problem| Failure::user(problem).about(format!("line {line}")))?);
    }
    if rows.is_empty() {
        return Err(Failure::user("there are no rows"));
    }
    let problems: Vec<Option<String>> = rows.iter().map(|row: &Measured| row.problem(&rows)).collect();
    for (row, problem) in rows.iter_mut().zip(problems) {
        row.implausible = problem;
    }
    Ok(Table { rows, unused })
}

/// The cells of a row by the names of their columns.
struct Cells<'a> {
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Cells<'_> {
    fn row(&self, line: u64) -> Result<Measured, String> {
        let engine = self.needed("engine")?;
        let known = [EngineType::Vllm, EngineType::Sglang, EngineType::Trtllm];
        let engine = known.into_iter().find(|known| known.name() == engine).ok_or_else(|| {
            format!("`engine` is `{engine}`, but must be {}", known.map(EngineType::name).join(", "))
        })?;
        let row = Measured {
            line,
            id: self.text("id").map_or_else(|| format!("line {line}"), str::to_owned),
            model: self.needed("model")?.to_owned(),
            gpu: self.needed("gpu")?.to_owned(),
            engine,
            engine_version: self.text("engine_version").map(str::to_owned),
            dtype: self.text("dtype").map(str::to_owned),
            kv_dtype: self.text("kv_dtype").map(str::to_owned),
            tp: self.count_needed("tp")?,
            ep: self.count("ep")?.unwrap_or(1),
            attention_dp: self.count("attention_dp")?.unwrap_or(1),
            isl: self.count_needed("isl")?,
            osl: self.count_needed("osl")?,
            concurrency: self.count_needed("concurrency")?,
            max_num_batched_tokens: self.count("max_num_batched_tokens")?,
            max_num_seqs: self.count("max_num_seqs")?,
            chunked_prefill: self.flag("chunked_prefill")?,
            chunked_prefill_size: self.count("chunked_prefill_size")?,
            max_prefill_tokens: self.count("max_prefill_tokens")?,
            scheduler_recv_interval: self.count("scheduler_recv_interval")?,
            gpu_memory_utilization: self.share("gpu_memory_utilization")?,
            client: self.text("client").map(str::to_owned),
            maybe_speculative: self.flag("maybe_speculative")?.unwrap_or(false),
            ttft_ms: self.time("ttft_ms")?,
            tpot_ms: self.time("tpot_ms")?,
            hash: self.hash(),
            implausible: None,
        };
        let (tp, dp) = (row.tp, row.attention_dp);
        if !tp.is_multiple_of(dp) {
            return Err(format!("`attention_dp` is {dp}, but must divide `tp`, {tp}"));
        }
        Ok(row)
    }

    /// The text of a cell, if it says something.
    fn text(&self, name: &str) -> Option<&str> {
        let place = self.header.iter().position(|column| column == name)?;
        self.record.get(place).filter(|text| !NOTHING.contains(text))
    }

    fn needed(&self, name: &str) -> Result<&str, String> {
        self.text(name).ok_or_else(|| format!("`{name}` is empty"))
    }

    fn count(&self, name: &str) -> Result<Option<u32>, String> {
        let count = |text: &str| {
            let count = text.parse::<u32>().ok().filter(|count| (1..=MOST).contains(count));
            count.ok_or_else(|| format!("`{name}` is `{text}`, but must be a whole number from 1 to {MOST}"))
        };
        self.text(name).map(count).transpose()
    }

    fn count_needed(&self, name: &str) -> Result<u32, String> {
        self.needed(name)?;
        Ok(self.count(name)?.unwrap_or_else(|| unreachable!("it is not empty")))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.text(name) {
            None => Ok(None),
            Some("1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(text) => Err(format!("`{name}` is `{text}`, but must be 0 or 1")),
        }
    }

    fn share(&self, name: &str) -> Result<Option<f64>, String> {
        let share = |text: &str| {
            let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
            share.ok_or_else(|| format!("`{name}` is `{text}`, but must be a share above 0 and at most 1"))
        };
        self.text(name).map(share).transpose()
    }

    fn time(&self, name: &str) -> Result<f64, String> {
        let text = self.needed(name)?;
        let time = text.parse::<f64>().ok().filter(|time| time.is_finite() && *time > 0.0);
        time.ok_or_else(|| format!("`{name}` is `{text}`, but must be a time above 0 ms"))
    }

    /// FNV-1a over all cells but those that were measured.
    fn hash(&self) -> u64 {
        let cells = self.header.iter().zip(self.record).filter(|(column, _)| !column.ends_with("_ms"));
        let bytes = cells.flat_map(|(_, cell)| cell.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // The high bits are those that are mixed well.
        hash ^ (hash >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "id,model,gpu,engine,engine_version,tp,isl,osl,concurrency,client,maybe_speculative,\
                          chunked_prefill,ttft_ms,tpot_ms,note";

    fn row(cells: &str) -> Result<Measured, String> {
        let read = of_text(&format!("{HEADER}\n{cells}\n"));
        read.map(|table| table.rows[0].clone()).map_err(|failure| failure.message().to_string())
    }

    #[test]
    fn a_cell_that_says_nothing_is_not_given() {
        let found = row("a,m,H200,vllm,nan,2,1024,128,4,inferencex,0,,10,5.5,x").unwrap();
        assert_eq!((found.engine_version.as_deref(), found.chunked_prefill, found.ep), (None, None, 1));
        assert!(found.is_judged());
        assert_eq!((found.line, found.ttft_ms, found.tpot_ms), (2, 10.0, 5.5));
        assert!(!row("a,m,H200,vllm,nan,2,1024,128,4,inferencex,1,,10,5.5,").unwrap().is_judged());
        assert!(!row("a,m,H200,vllm,nan,2,1024,128,4,other,0,,10,5.5,").unwrap().is_judged());
        let table = of_text(&format!("{HEADER}\na,m,g,vllm,1,2,3,4,5,,0,1,1,1,x\n")).unwrap();
        assert_eq!(table.unused, ["note"]);
    }

    #[test]
    fn a_sample_does_not_depend_on_what_was_measured() {
        let hash =
            |times: &str| row(&format!("a,m,H200,vllm,nan,2,1024,128,4,c,0,1,{times},x")).unwrap().hash;
        assert_eq!(hash("10,5"), hash("11,6"));
        assert_ne!(hash("10,5"), row("b,m,H200,vllm,nan,2,1024,128,4,c,0,1,10,5,x").unwrap().hash);
    }

    #[test]
    fn a_run_that_is_faster_under_more_load_is_not_judged() {
        let row =
            |slots: u32, tpot: f64| format!("x,m,H200,vllm,nan,2,1024,128,{slots},inferencex,0,1,10,{tpot},");
        let text = [HEADER.to_owned(), row(8, 5.0), row(64, 12.0), row(512, 5.9), row(256, 6.0)].join("\n");
        let judged: Vec<bool> = of_text(&text).unwrap().rows.iter().map(Measured::is_judged).collect();
        assert_eq!(judged, [true, true, false, true]);
        let table =
            of_text(&text.replace("H200,vllm,nan,2,1024,128,64", "H200,vllm,nan,4,1024,128,64")).unwrap();
        assert!(table.rows.iter().all(Measured::is_judged), "another deployment says nothing");
    }

    #[test]
    fn a_bad_cell_is_named_with_its_line() {
        let check = |cells: &str, message: &str| assert_eq!(row(cells).unwrap_err(), message);
        check("a,m,g,tgi,,1,2,3,4,,0,1,1,1,", "line 2: `engine` is `tgi`, but must be vllm, sglang, trtllm");
        check(
            "a,m,g,vllm,,0,2,3,4,,0,1,1,1,",
            "line 2: `tp` is `0`, but must be a whole number from 1 to 1048576",
        );
        check("a,m,g,vllm,,1,2,,4,,0,1,1,1,", "line 2: `osl` is empty");
        check("a,m,g,vllm,,1,2,3,4,,0,1,-1,1,", "line 2: `ttft_ms` is `-1`, but must be a time above 0 ms");
        check(
            "a,m,g,vllm,,1,2,3,4,,maybe,1,1,1,",
            "line 2: `maybe_speculative` is `maybe`, but must be 0 or 1",
        );
        let missing = of_text("model,gpu\na,b\n").unwrap_err();
        assert!(
            missing.message().to_string().starts_with("there is no column `engine`, `tp`, `isl`"),
            "{missing:?}"
        );
        assert_eq!(of_text(&format!("{HEADER}\n")).unwrap_err().message().to_string(), "there are no rows");
    }
}
