//! Recorded replays of Dynamo: what was replayed, and what 1.6.1 recorded of each request.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use servecast_cluster::record::{RequestRecord, RunRecord};
use servecast_cluster::{LoadMode, PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::{EngineArgs, EngineConfig, LatencySpec};
use servecast_latency::Grid;
use servecast_types::{Time, WorkerId};
use servecast_workload::{Load, SyntheticSpec, Trace, Workload, generate, read_mooncake};

/// Largest difference of a time, in ms.
const TOLERANCE_MS: f64 = 1e-6;

/// An environment variable that names recordings; without it the test is skipped, unless it is required.
pub(crate) fn variable(name: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(name);
    if value.is_none() {
        assert!(std::env::var_os("SERVECAST_REQUIRE_ORACLE").is_none(), "{name} is not set, but required");
        println!("skipped: {name} is not set");
    }
    value
}

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) spec: Value,
}

pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("case.json").exists());
    folders.sort();
    let case = |folder: PathBuf| Case {
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        spec: serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap(),
        folder,
    };
    folders.into_iter().map(case).collect()
}

impl Case {
    fn pools(&self) -> Vec<&Value> {
        let topology = &self.spec["topology"];
        match topology["kind"].as_str().unwrap() {
            "aggregated" => vec![topology],
            _ => vec![&topology["prefill"], &topology["decode"]],
        }
    }

    pub(crate) fn engines(&self) -> impl Iterator<Item = &Value> {
        self.pools().into_iter().map(|pool| &pool["engine"])
    }

    pub(crate) fn is_vllm(&self) -> bool {
        self.engines().all(|engine| matches!(engine["engine_type"].as_str(), None | Some("vllm")))
    }

    /// Whether every pool has one worker, so that there is nothing to route.
    pub(crate) fn has_one_worker_a_pool(&self) -> bool {
        self.pools().iter().all(|pool| pool["workers"] == 1)
    }

    /// Runs the case with every request on the workers that the record names.
    pub(crate) fn run_with_recorded_placement(&self) -> Result<RunRecord, String> {
        let rows = self.recorded_rows()?;
        let workload = self.workload();
        let mut placements: BTreeMap<String, Vec<Vec<WorkerId>>> = BTreeMap::new();
        for row in rows.iter().rev() {
            let history = row["routing_history"].as_array().unwrap();
            let worker = |step: &Value| WorkerId(step["logical_worker_id"].as_u64().unwrap() as u32);
            placements.entry(row_key(row)).or_default().push(history.iter().map(worker).collect());
        }
        let by_turn = placements.keys().any(|key| key.starts_with("turn"));
        let names = self.session_names();
        let mut simulation = self.simulation(workload.clone())?;
        for (number, session) in workload.sessions.iter().enumerate() {
            for (turn, request) in session.turns.iter().enumerate() {
                let size = (request.prompt.tokens(), request.output_tokens);
                let key = key(names.get(number), turn as u32, request.line, size, by_turn);
                let workers = placements.get_mut(&key).and_then(Vec::pop);
                simulation.force_placement(
                    number as u32,
                    turn as u32,
                    workers.ok_or("a request without a record")?,
                );
            }
        }
        simulation.run(&mut ()).map_err(|error| error.to_string())
    }

    /// Compares arrival, first and last token of each request with the record.
    pub(crate) fn compare(&self, run: &RunRecord) -> Result<(), String> {
        let expected = self.recorded()?;
        let by_turn = expected.keys().any(|key| key.starts_with("turn"));
        let names = self.session_names();
        let found = rows(run.requests.iter().map(|record| {
            let size = (record.input_tokens, record.requested_output_tokens);
            let session = names.get(record.session as usize);
            (key(session, record.turn, record.line, size, by_turn), times(record))
        }));
        if expected.keys().ne(found.keys()) {
            return Err(format!("requests {:?}, recorded {:?}", found.keys(), expected.keys()));
        }
        for (key, expected) in &expected {
            for (found, expected) in found[key].iter().zip(expected) {
                let close = found.iter().zip(expected).all(|(found, expected)| match (found, expected) {
                    (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE_MS,
                    (found, expected) => found == expected,
                });
                if !close {
                    return Err(format!(
                        "request {key}: arrival, first and last token {found:?}, recorded {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn session_names(&self) -> Vec<Value> {
        let mut names: Vec<Value> = Vec::new();
        for row in self.trace_lines().unwrap_or_default() {
            let row: Value = serde_json::from_str(&row).unwrap();
            if row["session_id"].is_null() || !names.contains(&row["session_id"]) {
                names.push(row["session_id"].clone());
            }
        }
        names
    }

    fn recorded(&self) -> Result<BTreeMap<String, Vec<Times>>, String> {
        let time = |row: &Value| {
            ["arrival_time_ms", "first_token_ms", "last_token_ms"].map(|field| row[field].as_f64())
        };
        Ok(rows(self.recorded_rows()?.iter().map(|row| (row_key(row), time(row)))))
    }

    /// The record, a row a request.
    pub(crate) fn recorded_rows(&self) -> Result<Vec<Value>, String> {
        let file = fs::File::open(self.folder.join("peer161_requests.jsonl.gz")).map_err(|_| "no record")?;
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    pub(crate) fn run(&self) -> Result<RunRecord, String> {
        self.simulation(self.workload())?.run(&mut ()).map_err(|error| error.to_string())
    }

    fn simulation(&self, workload: Workload) -> Result<Simulation, String> {
        let engines = self.engines().map(|engine| self.engine(engine)).collect::<Result<Vec<_>, String>>()?;
        let pools = self.pools();
        let pool = |number: usize| PoolEngine {
            workers: pools[number]["workers"].as_u64().unwrap() as u32,
            args: &engines[number].0,
            config: &engines[number].1,
        };
        let topology = match engines.len() {
            1 => Topology::aggregated(pool(0)),
            _ => Topology::disaggregated(pool(0), pool(1)),
        };
        let topology = topology.map_err(|error| error.to_string())?;
        let options =
            SimulationOptions { load: self.load_mode(), check: true, ..SimulationOptions::default() };
        Simulation::new(&topology, workload, &options).map_err(|error| error.to_string())
    }

    /// The peer has no null block.
    fn engine(&self, engine: &Value) -> Result<(EngineArgs, EngineConfig), String> {
        let mut settings = engine.clone();
        settings["reserve_null_block"] = json!(false);
        if settings["planner_profile_data"] == "$NPZ_LINEAR" {
            let path = self.folder.join("../npz/linear.npz");
            settings["planner_profile_data"] = json!(path.to_str().unwrap());
        }
        let args = EngineArgs::from_json(settings).map_err(|error| error.to_string())?;
        let grid = match args.latency_spec().map_err(|error| error.to_string())? {
            LatencySpec::Grid(path) => Some(Grid::from_npz(&fs::read(path).unwrap()).unwrap()),
            _ => None,
        };
        let config = args.validate(grid).map_err(|error| error.to_string())?;
        Ok((args, config))
    }

    fn load_mode(&self) -> LoadMode {
        match self.spec["load"]["limit"].as_u64() {
            Some(concurrency) => LoadMode::ClosedLoop { concurrency: concurrency as u32 },
            None => LoadMode::OpenLoop,
        }
    }

    fn workload(&self) -> Workload {
        let load = match self.spec["load"]["speedup"].as_f64() {
            Some(arrival_speedup_ratio) => Load::Open { arrival_speedup_ratio },
            None => Load::Closed,
        };
        let spec = &self.spec["workload"];
        if let Some(lines) = self.trace_lines() {
            let trace: Trace = read_mooncake(BufReader::new(lines.join("\n").as_bytes())).unwrap();
            return trace.workload(spec["trace_block_size"].as_u64().unwrap() as u32, load).unwrap();
        }
        let mut settings = spec.clone();
        settings.as_object_mut().unwrap().remove("kind");
        let synthetic: SyntheticSpec = serde_json::from_value(settings).unwrap();
        Workload::from_rows(&generate(&synthetic).unwrap(), synthetic.trace_block_size, load).unwrap()
    }

    pub(crate) fn has_later_turn_with_only_a_timestamp(&self) -> bool {
        let mut last_seen: BTreeMap<String, f64> = BTreeMap::new();
        self.trace_lines().unwrap_or_default().iter().any(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let (Some(session), Some(time)) = (row["session_id"].as_str(), row["timestamp"].as_f64()) else {
                return false;
            };
            let before = last_seen.insert(session.to_owned(), time);
            before.is_some_and(|before| before < time) && row["delay"].is_null() && row["delay_ms"].is_null()
        })
    }

    fn trace_lines(&self) -> Option<Vec<String>> {
        let spec = &self.spec["workload"];
        let (path, lines) = match spec["kind"].as_str().unwrap() {
            "trace" => (self.folder.join(spec["file"].as_str().unwrap()), usize::MAX),
            "trace_prefix" => {
                let data = variable("SERVECAST_DATA").expect("SERVECAST_DATA belongs to SERVECAST_ORACLE");
                let name = spec["source"].as_str().unwrap().split(':').next_back().unwrap();
                (Path::new(&data).join("traces").join(name), spec["first_lines"].as_u64().unwrap() as usize)
            }
            _ => return None,
        };
        Some(fs::read_to_string(path).unwrap().lines().take(lines).map(str::to_owned).collect())
    }
}

/// Arrival, first and last token in ms.
type Times = [Option<f64>; 3];

fn times(record: &RequestRecord) -> Times {
    [Some(record.arrival), record.first_token, record.last_token].map(|time| time.map(Time::as_ms))
}

/// Whether two transfers that take time begin at one moment on one worker.
pub(crate) fn delayed_transfers_start_together(run: &RunRecord) -> bool {
    let stages = run.requests.iter().flat_map(|request| &request.stages);
    let delayed = stages.filter(|stage| stage.transfer_end > stage.transfer_start);
    let mut starts: Vec<_> = delayed.map(|stage| (stage.worker, stage.transfer_start)).collect();
    starts.sort_unstable();
    starts.windows(2).any(|pair| pair[0] == pair[1])
}

/// What the peer's rows are told apart by: the turn of a session, or the size of the request.
fn row_key(row: &Value) -> String {
    match &row["session_id"] {
        Value::String(session) => format!("turn {} of {session}", row["turn_index"]),
        _ => format!("{}/{}", row["input_length"], row["requested_output_length"]),
    }
}

/// The same of our requests; `by_turn`: whether the peer names sessions, even of requests without one.
fn key(session: Option<&Value>, turn: u32, line: u64, (input, output): (u32, u32), by_turn: bool) -> String {
    match session {
        Some(Value::String(name)) => format!("turn {turn} of {name}"),
        _ if by_turn => format!("turn 0 of request_{line}"),
        _ => format!("{input}/{output}"),
    }
}

/// Rows by key; rows of equal key in order of their times.
fn rows(rows: impl Iterator<Item = (String, Times)>) -> BTreeMap<String, Vec<Times>> {
    let mut sorted: BTreeMap<String, Vec<Times>> = BTreeMap::new();
    rows.for_each(|(key, times)| sorted.entry(key).or_default().push(times));
    for times in sorted.values_mut() {
        times.sort_by(|a, b| a.partial_cmp(b).unwrap());
    }
    sorted
}
