//! Columns of rows, by hand.

use super::*;

#[derive(Serialize)]
struct Row {
    number: u32,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u32>,
    reason: Option<&'static str>,
    seen_ms: Option<f64>,
    first: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<bool>,
    tokens: Vec<(u32, Option<f64>)>,
    sent: Vec<u32>,
    stages: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    worker: u32,
    wait_ms: Option<f64>,
}

#[derive(Serialize)]
struct Other {
    number: &'static str,
}

fn row(number: u32) -> Row {
    Row {
        number,
        share: 0.5,
        rank: None,
        reason: None,
        seen_ms: None,
        first: None,
        measured: None,
        tokens: Vec::new(),
        sent: Vec::new(),
        stages: Vec::new(),
    }
}

fn table(rows: &[Row]) -> Columns {
    let mut table = Columns::default();
    for row in rows {
        table.push(row);
    }
    assert_eq!(table.rows(), rows.len());
    assert!(table.columns.iter().all(|column| column.values.len() == rows.len()));
    table
}

fn shown(table: &Columns) -> Vec<String> {
    table.columns().map(|column| format!("{} {:?}", column.name, column.values)).collect()
}

#[test]
fn a_value_of_a_row_is_at_its_place() {
    let full = Row {
        share: 1.0,
        rank: Some(3),
        reason: Some("late"),
        seen_ms: Some(2.5),
        first: Some(Part { worker: 7, wait_ms: None }),
        measured: Some(true),
        tokens: vec![(1, None), (2, Some(0.5))],
        sent: vec![8, 9],
        stages: vec![Part { worker: 0, wait_ms: Some(4.0) }, Part { worker: 1, wait_ms: None }],
        ..row(1)
    };
    let mut table = table(&[row(0), full, row(2)]);
    let stages = table.take_lists("stages", "row");
    assert_eq!(shown(&stages), ["row Whole([1, 1])", "worker Whole([0, 1])", "wait_ms Numbers([4.0, NaN])"]);
    assert_eq!(
        shown(&table),
        [
            "number Whole([0, 1, 2])",
            "share Numbers([0.5, 1.0, 0.5])",
            "reason Names([-1, 0, -1], Names { list: [\"late\"], places: {\"late\": 0} })",
            "seen_ms Numbers([NaN, 2.5, NaN])",
            "tokens Lists(Lists { ends: [0, 2, 2], width: Some(2), values: Numbers([1.0, NaN, 2.0, 0.5]) })",
            "sent Lists(Lists { ends: [0, 2, 2], width: None, values: Whole([8, 9]) })",
            "rank Numbers([NaN, 3.0, NaN])",
            "measured Numbers([NaN, 1.0, NaN])",
            "worker Numbers([NaN, 7.0, NaN])",
            "wait_ms Numbers([NaN, NaN, NaN])",
        ]
    );
}

#[test]
fn what_all_rows_have_keeps_its_kind() {
    let measured = |number| Row { measured: Some(number > 0), rank: Some(number), ..row(number) };
    let table = table(&[measured(0), measured(1)]);
    let kind = |name| &table.columns().find(|column| column.name == name).unwrap().values;
    assert_eq!(kind("measured"), &Values::Flags(vec![0, 1]));
    assert_eq!(kind("rank"), &Values::Whole(vec![0, 1]));
    assert_eq!(kind("reason"), &Values::Missing(2));
}

#[test]
fn lists_that_are_not_there_are_no_rows() {
    assert_eq!(table(&[row(0)]).take_lists("nothing", "row"), Columns::default());
    assert_eq!(table(&[row(0), row(1)]).take_lists("stages", "row").rows(), 0);
}

#[test]
#[should_panic(expected = "rows are numbers")]
fn values_of_two_kinds_are_no_column() {
    let mut table = Columns::default();
    table.push(&row(0));
    table.push(&Other { number: "one" });
}
