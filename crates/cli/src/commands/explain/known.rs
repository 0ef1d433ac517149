//! `servecast explain models` and `servecast explain gpus`: what is known by name.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};
use servecast_engine::EngineType;
use servecast_latency::{Attention, ErrorBar, GpuSheet, LinearKind, ModelShape, Ring, WeightType};
use servecast_ops::{Constants, Pack};

use super::capacity::engine;

use crate::config::Format;
use crate::error::Failure;
use crate::files;
use crate::latency::{OpsSettings, gpu_sheet, model_shape};

/// List the models whose shape is known, or show that of one
///
/// A name of a tuning or of a repository with quantised weights has the shape of its model: `nvidia/Llama-3.3-70B-Instruct-FP4`.
/// Which operators have measured tables, and how far off times are, is told for weights as they are published.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelsArgs {
    /// Model by its name on the Hugging Face hub, or its config.json; all without it
    #[arg(value_name = "NAME|FILE")]
    model: Option<String>,
    /// GPU whose tables are looked at, by name or by a file that describes it
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "H100-SXM")]
    gpu: String,
    /// Engine whose tables are looked at
    #[arg(long, value_name = "ENGINE", default_value = "vllm", value_parser = engine)]
    engine: EngineType,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

/// List the GPUs whose data sheet is known, or show that of one
#[derive(Debug, Clone, clap::Args)]
pub(super) struct GpusArgs {
    /// GPU by name, or a file that describes it; all without it
    #[arg(value_name = "NAME|FILE.toml")]
    gpu: Option<String>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

/// What else is known of a model or GPU beside its shape or sheet: text, and what JSON has.
#[derive(Debug, Default)]
struct Coverage {
    /// Which operators have measured tables.
    operator_tables: Option<(String, Value)>,
    /// How far off times are.
    error: Option<(String, Value)>,
}

/// What models are looked at on.
struct Place<'a> {
    gpu: &'a GpuSheet,
    name: &'a str,
    engine: EngineType,
    pack: Option<Pack>,
}

impl Place<'_> {
    /// What tables cover a model on as many of the GPUs as share it, 8 at most, and how far off times are.
    fn coverage(&self, model: &str, shape: &ModelShape) -> Coverage {
        let can_be =
            |gpus: &u32| shape.check_shared_by(*gpus).is_ok() && self.gpu.check_domain(*gpus).is_ok();
        let gpus = [8, 4, 2].into_iter().find(can_be).unwrap_or(1);
        let options = format!("model={model},gpu={},tp={gpus},engine={}", self.name, self.engine.name());
        let composed =
            OpsSettings::of(&options).and_then(|settings| settings.compose_from(self.pack.as_ref()));
        let on = format!("{gpus} {}", self.gpu.name);
        let composition = match composed {
            Ok(composition) => composition,
            Err(failure) => {
                let problem = failure.message().to_string();
                let told = (format!("not on {on}: {problem}"), json!({"on": on, "problem": problem}));
                return Coverage { operator_tables: Some(told), error: None };
            }
        };
        let of_kind = |is_estimate: bool| {
            composition.origins().iter().filter(move |origin| origin.is_estimate == is_estimate)
        };
        let objects = |is_estimate: bool| -> Vec<Value> {
            let origins = of_kind(is_estimate);
            origins.map(|origin| json!({"part": origin.part.name(), "source": origin.source})).collect()
        };
        let estimated: BTreeSet<&str> = of_kind(true).map(|origin| origin.part.name()).collect();
        let text = match (of_kind(false).count(), estimated.is_empty()) {
            (_, true) => "all".to_owned(),
            (0, false) => "none".to_owned(),
            (_, false) => format!("all but {}", estimated.into_iter().collect::<Vec<_>>().join(", ")),
        };
        let tables = json!({"on": on, "measured": objects(false), "estimated": objects(true)});
        let bar = Constants::built_in().error_bar(composition.setup(), composition.measured());
        Coverage { operator_tables: Some((text, tables)), error: Some(error(&bar)) }
    }
}

/// An error in words and as an object.
fn error(bar: &ErrorBar) -> (String, Value) {
    let ErrorBar { tpot_p90, ttft_p90, tpot_mape, ttft_mape, n, basis } = bar;
    let text = match (tpot_p90, ttft_p90) {
        (Some(tpot), Some(ttft)) => {
            format!("TPOT ±{:.0} %, TTFT ±{:.0} % ({basis})", tpot * 100.0, ttft * 100.0)
        }
        _ => basis.clone(),
    };
    let object = json!({
        "tpot_p90": tpot_p90, "ttft_p90": ttft_p90, "tpot_mape": tpot_mape, "ttft_mape": ttft_mape, "n": n, "basis": basis,
    });
    (text, object)
}

/// What tables there are of a GPU, and how far off times on it are.
fn coverage_of_gpu(sheet: &GpuSheet) -> Coverage {
    let Some(Ok(pack)) = Pack::of_gpu(&sheet.name) else { return Coverage::default() };
    let sections = pack.header().sections.iter().filter(|section| section.op == "decode_attention");
    let mut engines: Vec<String> =
        sections.map(|section| format!("{} {}", section.engine, section.version)).collect();
    engines.dedup();
    let tables = engines.join(", ");
    let bar = Constants::built_in().error_of_gpu(sheet);
    Coverage {
        operator_tables: Some((tables.clone(), tables.into())),
        error: Some(error(&bar.unwrap_or_else(|| ErrorBar::unknown("no run on it was compared")))),
    }
}

/// Lists models.
pub(super) fn models(args: &ModelsArgs) -> Result<(), Failure> {
    let shapes = match &args.model {
        Some(name) => vec![(name.as_str(), model_shape(name)?)],
        None => ModelShape::names().filter_map(|name| Some((name, ModelShape::by_name(name)?))).collect(),
    };
    let gpu = gpu_sheet(&args.gpu)?;
    let options = format!("gpu={}", args.gpu);
    let place = Place {
        pack: OpsSettings::of(&options)?.read_pack()?,
        gpu: &gpu,
        name: &args.gpu,
        engine: args.engine,
    };
    let header =
        ["model", "parameters", "active", "weights", "KV of a token", "context", "attention", "experts"];
    let rows = shapes.iter().map(|(name, shape)| {
        let billions = |count: u64| format!("{:.2} B", count as f64 / 1e9);
        let cells = vec![
            (*name).to_owned(),
            billions(shape.parameters()),
            billions(shape.active_parameters()),
            shape.weights(None).name().to_owned(),
            format!("{} B", shape.kv_bytes_per_token(1, 2.0)),
            shape.context.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
            attention(shape),
            experts(shape),
        ];
        (cells, place.coverage(name, shape))
    });
    print(args.format, &header, rows.collect(), || {
        shapes.iter().map(|(name, shape)| model_object(name, shape)).collect()
    })
}

/// Lists GPUs.
pub(super) fn gpus(args: &GpusArgs) -> Result<(), Failure> {
    let sheets: Vec<GpuSheet> = match &args.gpu {
        Some(name) => vec![gpu_sheet(name)?],
        None => GpuSheet::names().filter_map(GpuSheet::by_name).collect(),
    };
    let header = [
        "GPU",
        "memory MiB",
        "GB/s",
        "bf16 TFLOP/s",
        "fp8",
        "fp4",
        "link",
        "GPUs on it",
        "network Gb/s",
        "source",
    ];
    let rows = sheets.iter().map(|sheet| {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string());
        let cells = vec![
            sheet.name.clone().into_owned(),
            sheet.memory_mib.to_string(),
            sheet.memory_gb_per_s.to_string(),
            sheet.bf16_tflops.to_string(),
            figure(sheet.fp8_tflops),
            figure(sheet.fp4_tflops),
            sheet.link.clone().into_owned(),
            sheet.domain.to_string(),
            figure(sheet.network_gbit_per_s),
            sheet.source.clone().into_owned(),
        ];
        (cells, coverage_of_gpu(sheet))
    });
    print(args.format, &header, rows.collect(), || sheets.iter().map(gpu_object).collect())
}

/// Prints rows, or what `objects` makes of them with their coverage.
fn print(
    format: Format,
    header: &[&str],
    rows: Vec<(Vec<String>, Coverage)>,
    objects: impl FnOnce() -> Vec<Value>,
) -> Result<(), Failure> {
    if let Format::Json = format {
        let covered = objects().into_iter().zip(&rows).map(|(mut object, (_, coverage))| {
            let value = |told: &Option<(String, Value)>| told.as_ref().map(|(_, value)| value.clone());
            object["operator_tables"] = json!(value(&coverage.operator_tables));
            object["error"] = json!(value(&coverage.error));
            object
        });
        let text = serde_json::to_string_pretty(&covered.collect::<Vec<_>>()).unwrap_or_default();
        return files::print(&(text + "\n"));
    }
    let mut header: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    let with_tables = rows.iter().any(|(_, coverage)| coverage.operator_tables.is_some());
    let with_errors = rows.iter().any(|(_, coverage)| coverage.error.is_some());
    header.extend(with_tables.then(|| "operator tables".to_owned()));
    header.extend(with_errors.then(|| "error".to_owned()));
    let lines = rows.into_iter().map(|(mut cells, Coverage { operator_tables, error })| {
        let or_none = |told: Option<(String, Value)>| told.map_or_else(|| "-".to_owned(), |(text, _)| text);
        cells.extend(with_tables.then(|| or_none(operator_tables)));
        cells.extend(with_errors.then(|| or_none(error)));
        cells
    });
    files::print(&aligned(&std::iter::once(header).chain(lines).collect::<Vec<_>>()))
}

/// Rows with cells of one width a column.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How a model attends, in words.
fn attention(shape: &ModelShape) -> String {
    let kind = match (shape.attention, shape.sparse) {
        (Attention::Grouped { kv_heads }, _) => format!("{} heads, {kv_heads} KV", shape.heads),
        (Attention::Latent { .. }, None) => format!("{} heads, MLA", shape.heads),
        (Attention::Latent { .. }, Some(_)) => format!("{} heads, MLA with sparse index", shape.heads),
    };
    let mut text = format!("{} × {kind}", shape.attention_layers);
    if let Some(window) = shape.window {
        let _ = write!(text, " ({} within {} tokens)", window.layers, window.tokens);
    }
    if let Some(linear) = shape.linear {
        let name = match linear.kind {
            LinearKind::GatedDelta => "gated delta rule",
            LinearKind::Mamba2 => "Mamba 2",
        };
        let _ = write!(text, ", {} × {name}", linear.layers);
    }
    text
}

/// The experts of a model, in words.
fn experts(shape: &ModelShape) -> String {
    shape.experts.map_or_else(
        || "-".to_owned(),
        |experts| format!("{} × {} of {}", experts.layers, experts.per_token, experts.count),
    )
}

fn model_object(name: &str, shape: &ModelShape) -> Value {
    let stored = shape.stored_as(shape.weights(None));
    let experts = shape.experts.map(|experts| {
        json!({
            "layers": experts.layers,
            "count": experts.count,
            "per_token": experts.per_token,
            "inner_size": experts.inner_size,
            "shared_inner_size": experts.shared_inner_size,
        })
    });
    json!({
        "model": name,
        "parameters": shape.parameters(),
        "active_parameters": shape.active_parameters(),
        "weights": shape.weights(None).name(),
        "attention_weights": stored.attention.name(),
        "layers": shape.layers,
        "attention_layers": shape.attention_layers,
        "linear_layers": shape.linear.map_or(0, |linear| linear.layers),
        "hidden_size": shape.hidden_size,
        "heads": shape.heads,
        "kv_heads": match shape.attention {
            Attention::Grouped { kv_heads } => Some(kv_heads),
            Attention::Latent { .. } => None,
        },
        "head_size": shape.head_size,
        "experts": experts,
        "max_position_embeddings": shape.context,
        "kv_bytes_per_token": shape.kv_bytes_per_token(1, 2.0),
        "state_bytes_per_sequence": shape.state_bytes_per_sequence(1),
    })
}

fn gpu_object(sheet: &GpuSheet) -> Value {
    let weights = WeightType::ALL.iter().filter(|(_, weights)| sheet.check_weights(*weights).is_ok());
    json!({
        "gpu": sheet.name,
        "memory_mib": sheet.memory_mib,
        "memory_gb_per_s": sheet.memory_gb_per_s,
        "bf16_tflops": sheet.bf16_tflops,
        "fp8_tflops": sheet.fp8_tflops,
        "fp4_tflops": sheet.fp4_tflops,
        "dtypes": weights.map(|(name, _)| *name).collect::<Vec<_>>(),
        "link": sheet.link,
        "link_source": Ring::source(&sheet.link),
        "domain": sheet.domain,
        "network_gbit_per_s": sheet.network_gbit_per_s,
        "source": sheet.source,
    })
}
