//! The page of a run: what it shows of workers is kept while the run goes on, what it says of settings follows from the plan.

use servecast_cluster::Topology;
use servecast_config::error::Failure;
use servecast_engine::{Decodes, Iteration};
use servecast_record::RunRecord;
use servecast_report::{Activity, BusySpan, PageContext, PoolSize, Report, Window, render_page};
use servecast_workload::TraceNotes;

use crate::plan::Plan;
use crate::resolved::resolved;

/// Keeps what the workers of a deployment do.
pub fn watch(topology: &Topology) -> Activity {
    Activity::new(topology.groups().map(|(role, workers, engine)| PoolSize {
        role,
        workers,
        blocks: engine.usable_blocks(),
        ranks: engine.num_ranks(),
        stages: engine.num_stages(),
    }))
}

/// An iteration as [`Activity::add`] takes it.
pub fn span_of(iteration: &Iteration) -> BusySpan {
    BusySpan {
        start: iteration.start,
        end: iteration.end,
        busy: iteration.busy(),
        iterations: 1,
        tokens: iteration.total_tokens(),
        free_blocks: iteration.free_blocks_after_schedule,
        free_blocks_after: iteration.free_blocks,
    }
}

/// The same of iterations in which the same requests got a token each.
pub fn span_of_decodes(decodes: &Decodes) -> BusySpan {
    let (first, after) = (decodes.free_blocks, decodes.free_blocks_after());
    BusySpan {
        start: decodes.start,
        end: decodes.end(),
        busy: decodes.length(),
        iterations: decodes.count(),
        tokens: decodes.count() * decodes.requests,
        free_blocks: u32::midpoint(first, after),
        free_blocks_after: after,
    }
}

/// What [`config_text`] says of a run all of which its settings name.
pub const REPEATED: &str = "to repeat it: servecast replay --config config.toml";

/// A configuration file of the settings of a run, with what there is to say of repeating it.
///
/// # Errors
/// The settings do not fit into one.
pub fn config_text(plan: &Plan, notes: &TraceNotes, repeating: &str) -> Result<String, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let head = format!("# Every setting of a run of servecast {version}; {repeating}\n");
    Ok(head + &resolved(plan, notes)?)
}

/// What a page is made of beside the report.
pub struct PageOf<'a> {
    /// What was run.
    pub plan: &'a Plan,
    /// Its settings, as [`config_text`] writes them.
    pub config: &'a str,
    /// What happened to every request.
    pub record: &'a RunRecord,
    /// What workers did, as [`watch`] kept it.
    pub activity: Option<&'a Activity>,
    /// What figures leave out at the ends of the run.
    pub window: Window,
}

impl PageOf<'_> {
    /// The page, in one file.
    pub fn render(&self, report: &Report) -> String {
        let Self { plan, config, record, activity, window } = *self;
        let context = PageContext {
            title: plan.source.name(),
            config: config.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            block_size: plan.block_size,
            window,
        };
        render_page(record, activity, report, &context)
    }
}
