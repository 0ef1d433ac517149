//! What tells one workload from another, whatever it is called and however it was written down.

use xxhash_rust::xxh3::Xxh3;

use crate::{Session, Turn, TurnStart, Workload};

impl Workload {
    /// A hash of what is simulated: sessions in order, and of each turn when it is sent, what it waits for if that is not
    /// the turn before, its prompt, its output, its priority and its adapter. XXH3-64 over little-endian numbers, so the same on any machine.
    ///
    /// Names of sessions, classes, lines of the file and its packing play no part.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&(self.sessions.len() as u64).to_le_bytes());
        for Session { turns, waits, name: _ } in &self.sessions {
            hash.update(&(turns.len() as u64).to_le_bytes());
            turns.iter().for_each(|turn| add(&mut hash, turn));
            if waits.is_some() {
                hash.update(b"waits");
            }
            for of_turn in waits.iter().flatten() {
                hash.update(&(of_turn.len() as u64).to_le_bytes());
                of_turn.iter().for_each(|turn| hash.update(&turn.to_le_bytes()));
            }
        }
        hash.digest()
    }
}

fn add(hash: &mut Xxh3, turn: &Turn) {
    let Turn { line: _, class: _, lora, grammar, start, prompt, output_tokens, priority, stop_after, output } =
        turn;
    let (kind, ns) = match *start {
        TurnStart::At(time) => (0_u64, time.as_ns()),
        TurnStart::AfterPrevious(delay) => (1, delay.as_ns()),
        TurnStart::NotBefore(time) => (2, time.as_ns()),
    };
    let stop_after = stop_after.map_or(u64::MAX, u64::from);
    let priority = i64::from(*priority).cast_unsigned();
    let runs = prompt.runs();
    let numbers = [kind, ns, u64::from(*output_tokens), priority, stop_after, runs.len() as u64];
    for number in numbers {
        hash.update(&number.to_le_bytes());
    }
    if let Some(lora) = lora {
        hash.update(b"lora");
        hash.update(&lora.to_le_bytes());
    }
    if let Some(grammar) = grammar {
        hash.update(b"grammar");
        hash.update(&grammar.to_le_bytes());
    }
    hash.update(&[u8::from(output.is_some())]);
    let output = output.as_ref().map_or(&[][..], |output| output.runs());
    hash.update(&(output.len() as u64).to_le_bytes());
    for run in output.iter().chain(runs) {
        hash.update(&run.start().to_le_bytes());
        hash.update(&run.len().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use crate::{Load, read_mooncake};

    fn fingerprint(text: &str, block_size: u32, ratio: f64) -> u64 {
        let load = Load::Open { arrival_speedup_ratio: ratio };
        read_mooncake(text.as_bytes()).unwrap().workload(block_size, load).unwrap().fingerprint()
    }

    const ROW: &str = r#"{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [7]}"#;

    #[test]
    fn it_is_the_same_on_any_machine() {
        let trace = format!("{ROW}\n{}", ROW.replace("\": 0", "\": 30").replace('7', "8"));
        assert_eq!(format!("{:016x}", fingerprint(&trace, 512, 1.0)), "8b7199105e218fb0");
    }

    #[test]
    fn what_is_simulated_counts_and_nothing_else() {
        let of = |text: &str| fingerprint(text, 512, 1.0);
        let plain = of(ROW);
        let spaced = format!("\n\n{}\r\n", ROW.replace(':', " : ").replace('{', r#"{"other": 1, "#));
        assert_eq!(of(&spaced), plain);
        for (from, to) in [
            (r#""input_length": 5"#, r#""input_length": 6"#),
            (r#""output_length": 2"#, r#""output_length": 3"#),
            ("[7]", "[8]"),
            ("{", r#"{"priority": 1, "#),
        ] {
            assert!(ROW.contains(from) && of(&ROW.replace(from, to)) != plain, "{to}");
        }
        let later = format!("{ROW}\n{}", ROW.replace(": 0,", ": 40,"));
        assert_ne!(fingerprint(&later, 512, 1.0), fingerprint(&later, 512, 2.0), "arrivals");
        assert_ne!(fingerprint(ROW, 512, 1.0), fingerprint(ROW, 16, 1.0), "what an id stands for");
        let turns = later.replace('{', r#"{"session_id": "a", "#);
        assert_ne!(of(&turns), of(&later), "one session or two");
    }
}
