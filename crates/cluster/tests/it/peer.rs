//! Recorded replays of Dynamo: what was replayed, and what 1.6.1 recorded of each request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use servecast_cluster::{
    KvRouterOptions, LoadMode, Observer, PoolEngine, Routed, RouterMode, RouterOptions, Simulation,
    SimulationOptions, Topology,
};
use servecast_engine::{EngineArgs, EngineConfig, LatencySpec};
use servecast_latency::{Grid, LatencyModel};
use servecast_record::{RequestRecord, RunRecord};
use servecast_router::KvRouterConfig;
use servecast_types::{Duration, Time, WorkerId};
use servecast_workload::{Load, SyntheticSpec, Trace, Workload, generate, read_mooncake};

/// Largest difference of a time, in ms.
const TOLERANCE_MS: f64 = 1e-6;

/// What a kind of case has in common, as a sentence and as a predicate.
pub(crate) type Exception = (&'static str, fn(&Case) -> bool);

/// Compares the cases that are `chosen`, in the repository and under `$SERVECAST_ORACLE/peer`: those under an exception
/// have to differ, all others to agree.
pub(crate) fn compare_cases(
    chosen: impl Fn(&Case) -> bool,
    compare: impl Fn(&Case) -> Result<(), String>,
    exceptions: &[Exception],
) {
    let (mut same, mut excepted, mut report) = (0, 0, String::new());
    for case in all_cases().iter().filter(|case| chosen(case)) {
        let exception = exceptions.iter().find(|(_, holds)| holds(case));
        match (compare(case), exception) {
            (Ok(()), None) => same += 1,
            (Err(_), Some(_)) => excepted += 1,
            (Err(difference), None) => _ = writeln!(report, "{}: {difference}", case.name),
            (Ok(()), Some((cause, _))) => {
                _ = writeln!(report, "{}: agrees, so the exception has to go: {cause}", case.name);
            }
        }
    }
    testkit::compared(same + excepted);
    assert!(report.is_empty(), "{same} cases agree, {excepted} are excepted, but:\n{report}");
    assert!(same > 0, "no case was chosen");
}

/// A replay with recorded placement.
pub(crate) struct Shadowed {
    pub(crate) run: RunRecord,
    /// What our router found, in order.
    pub(crate) decisions: Vec<Routed>,
    /// The record of each request, by its line.
    pub(crate) rows: BTreeMap<u64, Value>,
}

/// Keeps the decisions of routers.
#[derive(Default)]
struct Decisions(Vec<Routed>);

impl Observer for Decisions {
    fn routed(&mut self, routed: &Routed) {
        self.0.push(routed.clone());
    }
}

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) spec: Value,
}

/// The cases of the repository, and those under `$SERVECAST_ORACLE/peer`.
pub(crate) fn all_cases() -> Vec<Case> {
    testkit::recordings("peer", &["peer"]).iter().flat_map(|folder| cases(folder)).collect()
}

fn cases(folder: &Path) -> Vec<Case> {
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

    /// Whether KV is handed off between two engines of SGLang.
    pub(crate) fn hands_off_between_sglang(&self) -> bool {
        self.engines().count() == 2 && self.engines().all(|engine| engine["engine_type"] == "sglang")
    }

    /// Whether SGLang puts prompts that hit in front of those that fill a limited prefill batch.
    pub(crate) fn hits_leave_a_rest_of_a_prefill_batch(&self) -> bool {
        self.engines().any(|engine| {
            let own = &engine["sglang"];
            let chunk = own["chunked_prefill_size"].as_u64().unwrap_or(8_192);
            let is_limited = own["max_prefill_tokens"].as_u64().is_some_and(|limit| limit <= chunk);
            own["schedule_policy"] == "lpm" && is_limited
        })
    }

    /// Whether every pool has one worker, so that there is nothing to route.
    pub(crate) fn has_one_worker_a_pool(&self) -> bool {
        self.pools().iter().all(|pool| pool["workers"] == 1)
    }

    /// Runs the case with every request on the workers that the record names, and our router choosing beside it.
    pub(crate) fn run_with_recorded_placement(&self) -> Result<Shadowed, String> {
        let workload = self.workload();
        let names = self.session_names();
        let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for row in self.recorded_rows()?.into_iter().rev() {
            rows.entry(row_key(&row)).or_default().push(row);
        }
        let by_turn = rows.keys().any(|key| key.starts_with("turn"));
        let mut simulation = self.simulation(workload.clone(), &self.shadow_options()?)?;
        let mut by_line = BTreeMap::new();
        for (number, session) in workload.sessions.iter().enumerate() {
            for (turn, request) in session.turns.iter().enumerate() {
                let size = (request.prompt.tokens(), request.output_tokens);
                let key = key(names.get(number), turn as u32, request.line, size, by_turn);
                let row = rows.get_mut(&key).and_then(Vec::pop).ok_or("a request without a record")?;
                let history = row["routing_history"].as_array().unwrap();
                let workers =
                    history.iter().map(|step| WorkerId(step["logical_worker_id"].as_u64().unwrap() as u32));
                simulation.force_placement(number as u32, turn as u32, workers);
                by_line.insert(request.line, row);
            }
        }
        let mut decisions = Decisions::default();
        let run = simulation.run(&mut decisions).map_err(|error| error.to_string())?;
        Ok(Shadowed { run, decisions: decisions.0, rows: by_line })
    }

    /// What 1.1.1 wrote down of its routing decisions, in order.
    pub(crate) fn recorded_scores(&self) -> Option<Vec<Value>> {
        let file = fs::File::open(self.folder.join("routing.jsonl.gz")).ok()?;
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Our decisions at the first moment of the case, if it has arrivals of its own, with the given workers forced.
    pub(crate) fn decisions_of_first_moment(
        &self,
        chosen: impl Iterator<Item = WorkerId>,
    ) -> Option<Vec<Routed>> {
        self.trace_lines()?;
        let workload = self.workload();
        let order = workload.arrival_order();
        // 1.1.1 has a queue unless told otherwise.
        let config = KvRouterConfig::from_json(&self.spec["router"]["config"]).unwrap();
        let mut options = self.shadow_options().unwrap();
        options.router.kv.settings = config.validate().unwrap();
        let mut simulation = self.simulation(workload, &options).ok()?;
        for (session, worker) in order.into_iter().zip(chosen) {
            simulation.force_placement(session as u32, 0, [worker]);
        }
        let mut decisions = Decisions::default();
        simulation.run(&mut decisions).ok()?;
        Some(decisions.0.into_iter().filter(|routed| routed.at == Time::ZERO).collect())
    }

    /// Whether rows of different requests cannot be told apart.
    pub(crate) fn has_equal_requests(&self) -> bool {
        let rows = self.recorded_rows().unwrap_or_default();
        let mut keys: Vec<String> =
            rows.iter().map(|row| format!("{} at {}", row_key(row), row["arrival_time_ms"])).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// The case's router, with what 1.6.1 does by default: no queue, and output blocks without effect.
    fn shadow_options(&self) -> Result<SimulationOptions, String> {
        let mut config = self.spec["router"]["config"].clone();
        if config["router_queue_threshold"].is_null() {
            config["router_queue_threshold"] = Value::Null;
        }
        config["router_track_output_blocks"] = json!(false);
        let config = KvRouterConfig::from_json(&config).map_err(|error| error.to_string())?;
        let settings = config.validate().map_err(|error| error.to_string())?;
        let kv = KvRouterOptions { settings, event_delay: Duration::ZERO };
        let router = RouterOptions { mode: RouterMode::KvRouter, kv, ..RouterOptions::default() };
        Ok(SimulationOptions { router, record_routing: true, ..self.options() })
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
        self.simulation(self.workload(), &self.options())?.run(&mut ()).map_err(|error| error.to_string())
    }

    fn options(&self) -> SimulationOptions {
        SimulationOptions { load: self.load_mode(), check: true, ..SimulationOptions::default() }
    }

    fn simulation(&self, workload: Workload, options: &SimulationOptions) -> Result<Simulation, String> {
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
        Simulation::new(&topology, workload, options).map_err(|error| error.to_string())
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
            LatencySpec::Grid(path) => {
                Some(Arc::new(Grid::from_npz(&fs::read(path).unwrap()).unwrap()) as Arc<dyn LatencyModel>)
            }
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
                let data =
                    testkit::outside(testkit::DATA).expect("SERVECAST_DATA belongs to SERVECAST_ORACLE");
                let name = spec["source"].as_str().unwrap().split(':').next_back().unwrap();
                (data.join("traces").join(name), spec["first_lines"].as_u64().unwrap() as usize)
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
