//! Figures by class of requests.

use std::collections::BTreeMap;

use servecast_record::{RunRecord, TokenGaps};

use crate::part::{Figures, Judges, Percentiles};
use crate::table::{Cells, count, grouped, or_none, share};
use crate::tally::Tally;

/// The figures of each class that a request of the run is of, by its name; `None` if there is none, and of a run without
/// [times of tokens](RunRecord::token_times), whose gaps are not told apart by request.
pub(crate) fn figures_by_class(run: &RunRecord, judges: &Judges<'_>) -> Option<BTreeMap<String, Figures>> {
    let times = run.token_times.as_ref()?;
    let mut classes: BTreeMap<usize, (Tally, TokenGaps)> = BTreeMap::new();
    for (number, request) in run.requests.iter().enumerate() {
        let Some(class) = request.class else { continue };
        let (tally, gaps) = classes
            .entry(class.index())
            .or_insert_with(|| (Tally::of(&RunRecord::default(), judges), TokenGaps::default()));
        tally.add(request);
        let tokens = times.get(number).map_or(&[][..], Vec::as_slice);
        tokens.windows(2).for_each(|pair| gaps.add(pair[1].since(pair[0]), 1));
    }
    let name = |class: usize| run.classes.get(class).map_or_else(|| class.to_string(), ToString::to_string);
    let figures =
        classes.into_iter().map(|(class, (tally, gaps))| (name(class), Figures::of_tally(&tally, &gaps)));
    Some(figures.collect()).filter(|figures: &BTreeMap<_, _>| !figures.is_empty())
}

/// A table with a line a class.
pub(crate) fn class_cells(classes: &BTreeMap<String, Figures>) -> Cells {
    let headers = [
        "Class",
        "Requests",
        "TTFT avg",
        "TTFT p99",
        "TPOT avg",
        "ITL p99",
        "Latency avg",
        "Latency p99",
        "Reuse",
    ];
    let ms = |figures: Option<Percentiles>, of: fn(&Percentiles) -> Option<f64>| {
        // What a class has samples of is null only where it is infinite.
        or_none(figures.map(|figures| of(&figures).map_or_else(|| "inf".to_owned(), |ms| grouped(ms, 2))))
    };
    let row = |(name, of): (&String, &Figures)| {
        vec![
            name.clone(),
            count(of.num_requests),
            ms(of.ttft_ms, |ttft| ttft.mean),
            ms(of.ttft_ms, |ttft| ttft.p99),
            ms(of.tpot_ms, |tpot| tpot.mean),
            ms(of.itl_ms, |itl| itl.p99),
            ms(of.e2e_latency_ms, |e2e| e2e.mean),
            ms(of.e2e_latency_ms, |e2e| e2e.p99),
            share(of.prefix_cache_reused_ratio),
        ]
    };
    Cells { left: 1, headers: headers.map(str::to_owned).to_vec(), rows: classes.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use servecast_types::{ClassId, Time};

    use super::*;
    use crate::{
        PageContext, SummaryOptions, TableOptions, fixture, render_markdown, render_page, render_table,
        summarize,
    };

    /// The fixture with its first request in one class, its second in another, and the last in the first.
    fn run() -> RunRecord {
        let mut run = fixture::run();
        run.classes = vec!["chat".into(), "batch".into()];
        for (number, class) in [(0, 0), (1, 1), (3, 0)] {
            run.requests[number].class = Some(ClassId(class));
        }
        let times = |ms: &[u64]| ms.iter().map(|ms| Time::from_ns(ms * 1_000_000)).collect();
        run.token_times = Some(vec![
            times(&[30, 40, 50]),
            times(&[100, 110, 120, 140, 180]),
            times(&[]),
            times(&[90, 100]),
        ]);
        run
    }

    #[test]
    fn each_class_has_the_figures_of_its_requests() {
        let report = summarize(&run(), &SummaryOptions::default());
        let classes = report.classes.unwrap();
        let [chat, batch] = ["chat", "batch"].map(|name| &classes[name]);
        assert_eq!((chat.num_requests, chat.completed_requests, chat.rejected_requests), (2, 1, 1));
        assert_eq!((batch.num_requests, batch.completed_requests), (1, 1));
        assert_eq!(chat.ttft_ms.unwrap().mean, Some(20.0));
        assert_eq!(batch.ttft_ms.unwrap().mean, Some(80.0));
        assert_eq!((chat.itl_ms.unwrap().max, batch.itl_ms.unwrap().max), (Some(10.0), Some(40.0)));
        assert_eq!(batch.prefix_cache_reused_ratio, Some(1.0 / 3.0));
    }

    #[test]
    fn classes_have_a_table_of_their_own() {
        let text = render_table(&summarize(&run(), &SummaryOptions::default()), TableOptions::default());
        let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("│ {name}"))).unwrap();
        let cells = |name: &str| line(name).split('│').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(cells("batch")[1..5], ["batch", "1", "80.00", "80.00"]);
        assert_eq!(cells("chat")[1..5], ["chat", "2", "20.00", "20.00"]);
    }

    #[test]
    fn markdown_has_a_row_for_each_class() {
        let mut run = run();
        run.classes[1] = "a|b*".into();
        let text = render_markdown(&summarize(&run, &SummaryOptions::default()), &[]);
        let (_, table) = text.split_once("**By class (ms)**\n\n").unwrap();
        let lines: Vec<&str> = table.lines().take(4).collect();
        assert_eq!(lines[1], "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        assert_eq!(
            lines[2..],
            [
                "| a\\|b\\* | 1 | 80.00 | 80.00 | 20.00 | 39.40 | 160.00 | 160.00 | 33.33% |",
                "| chat | 2 | 20.00 | 20.00 | 10.00 | 10.00 | 40.00 | 40.00 | 0.00% |",
            ]
        );
    }

    #[test]
    fn a_page_has_the_figures_of_each_class() {
        let run = run();
        let report = summarize(&run, &SummaryOptions::default());
        let page = render_page(&run, None, &report, &PageContext::default());
        let (_, data) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        let data: serde_json::Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(data["report"]["classes"]["batch"]["ttft_ms"]["p99"], 80.0);
    }

    #[test]
    fn without_classes_there_is_no_breakdown() {
        assert_eq!(summarize(&fixture::run(), &SummaryOptions::default()).classes, None);
    }
}
