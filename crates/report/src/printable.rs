//! Text from elsewhere on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with control characters, all but newline and tab, as escapes such as `\u001b`: a name or a value out of a
/// file must not command a terminal. Nor must it change the direction of what is written after it.
///
/// Within a string of JSON an escape is the character that it stands for, so JSON stays what it is.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if commands(c) {
            // Writing to a string cannot fail.
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

/// Whether a terminal may do something else than to show the character.
fn commands(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t') || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_written_out() {
        for (text, expected) in [
            ("plain text\n\tand é ━ 漢", "plain text\n\tand é ━ 漢"),
            ("\x1b[31mred\x1b]0;title\x07", "\\u001b[31mred\\u001b]0;title\\u0007"),
            ("\u{9b}2J\x7f\r\0\x08", "\\u009b2J\\u007f\\u000d\\u0000\\u0008"),
            ("a\u{202e}b\u{2066}", "a\\u202eb\\u2066"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn json_stays_what_it_is() {
        let text = serde_json::to_string("a\u{9b}b\u{7f}\x1b").unwrap();
        assert!(text.contains('\u{9b}'));
        assert_eq!(serde_json::from_str::<String>(&printable(&text)).unwrap(), "a\u{9b}b\u{7f}\x1b");
    }
}
