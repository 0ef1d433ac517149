//! Sentences about settings, in which the settings are data.
//!
//! A library says `` `num_workers` is 0 `` of a setting that its user knows as a flag, a key of a file or an argument in
//! Python. So an error is no text: [`message!`](crate::message) makes a [`Message`] that knows which of its words are
//! settings, and whoever shows it says what they are called and where they were given. Nobody looks for them in a text.

use std::fmt;

/// A sentence about settings.
///
/// [`fmt::Display`] has it in plain words, with keys in back-ticks and flags as they are typed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    parts: Vec<Part>,
    /// Keys that are mentioned, each with where its value came from.
    origins: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A setting that has a value, by its key.
    Key(String),
    /// A setting that one could give, by its key.
    Flag(String),
}

/// Makes a [`Message`](crate::Message), as [`format!`] makes a string.
///
/// ```
/// use servecast_types::message;
/// let message = message!("{num_workers} is {}, but {--router_mode} {} needs 2", 1_u32, "random");
/// assert_eq!(message.to_string(), "`num_workers` is 1, but --router-mode random needs 2");
/// ```
///
/// `{key}` is a setting that has a value, `{--key}` one that can be given, and `{}` is filled with the next argument,
/// which may be a message itself. Braces that are meant are doubled.
#[macro_export]
macro_rules! message {
    ($template:literal $(, $argument:expr)* $(,)?) => {{
        const ARGUMENTS: &[&str] = &[$(stringify!($argument)),*];
        const { assert!($crate::Message::places($template) == ARGUMENTS.len(), "one argument a place") };
        $crate::Message::filled($template, [$($crate::Message::from($argument)),*])
    }};
}

/// Makes an error of a type of which `Message::from(&error)` says what is wrong.
#[macro_export]
macro_rules! settings_error {
    ($error:ty) => {
        impl ::std::fmt::Display for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::Message::from(self).fmt(f)
            }
        }

        impl ::std::error::Error for $error {}

        impl From<$error> for $crate::Message {
            fn from(error: $error) -> Self {
                Self::from(&error)
            }
        }
    };
}

impl Message {
    /// A setting that has a value.
    pub fn key(key: impl Into<String>) -> Self {
        Self { parts: vec![Part::Key(key.into())], origins: Vec::new() }
    }

    /// A setting that one could give.
    pub fn flag(key: impl Into<String>) -> Self {
        Self { parts: vec![Part::Flag(key.into())], origins: Vec::new() }
    }

    /// A template of [`message!`](crate::message) without arguments, such as one from a table.
    pub fn template(template: &'static str) -> Self {
        Self::filled(template, [])
    }

    /// How many arguments a template takes.
    #[doc(hidden)]
    pub const fn places(template: &str) -> usize {
        let (bytes, mut at, mut places) = (template.as_bytes(), 0, 0);
        while at + 1 < bytes.len() {
            match (bytes[at], bytes[at + 1]) {
                (b'{', b'{') | (b'}', b'}') => at += 1,
                (b'{', b'}') => places += 1,
                _ => {}
            }
            at += 1;
        }
        places
    }

    /// A template with its arguments; see [`message!`](crate::message).
    #[doc(hidden)]
    pub fn filled(template: &'static str, arguments: impl IntoIterator<Item = Self>) -> Self {
        let mut arguments = arguments.into_iter();
        let mut message = Self::default();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            message.push_text(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                message.push_text(brace);
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            match (name, name.strip_prefix("--")) {
                ("", _) => message = message.then(arguments.next().unwrap_or_default()),
                (_, Some(key)) => message.parts.push(Part::Flag(key.to_owned())),
                (key, None) => message.parts.push(Part::Key(key.to_owned())),
            }
            rest = after;
        }
        message.push_text(rest);
        message
    }

    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    /// This, and right behind it something else.
    #[must_use]
    pub fn then(mut self, other: impl Into<Self>) -> Self {
        let Self { parts, origins } = other.into();
        for part in parts {
            match part {
                Part::Text(text) => self.push_text(&text),
                part => self.parts.push(part),
            }
        }
        self.origins.extend(origins);
        self
    }

    /// Messages with `between` between two of them.
    pub fn joined(messages: impl IntoIterator<Item = Self>, between: &str) -> Self {
        let mut messages = messages.into_iter();
        let first = messages.next().unwrap_or_default();
        messages.fold(first, |before, message| before.then(between).then(message))
    }

    /// The same with where those of `given` came from that it mentions: paths of settings, and places.
    ///
    /// A setting within another, such as `engine_args.block_size`, is mentioned by the last part or parts of its path.
    #[must_use]
    pub fn with_origins<'a, O: fmt::Display>(
        mut self,
        given: impl IntoIterator<Item = (&'a str, O)>,
    ) -> Self {
        let is_mentioned = |path: &str| {
            self.keys().any(|key| {
                // An item of a list came from where the list did.
                let key = key.split_once('[').map_or(key, |(list, _)| list);
                path.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })
        };
        let origins = given.into_iter().filter(|(path, _)| is_mentioned(path));
        let origins: Vec<_> = origins.map(|(path, origin)| (path.to_owned(), origin.to_string())).collect();
        self.origins.extend(origins);
        self
    }

    /// The settings with values that it mentions.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| if let Part::Key(key) = part { Some(key.as_str()) } else { None })
    }

    /// The sentence for somebody to whom a setting that can be given has the name that `flag` gives its key.
    pub fn render(&self, flag: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        // Who gave it by a name that is there anyway need not be told so.
        let mut shown = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Key(key) => {
                    text.extend(["`", key.as_str(), "`"]);
                    shown.push(key.clone());
                }
                Part::Flag(key) => {
                    let flag = flag(key);
                    text.push_str(&flag);
                    shown.push(flag);
                }
            }
        }
        let told: Vec<_> = self.origins.iter().filter(|(_, origin)| !shown.contains(origin)).collect();
        match told.as_slice() {
            [] => text,
            [(_, origin)] => text + " (from " + origin + ")",
            several => {
                let origins = several.iter().map(|(path, origin)| format!("`{path}` from {origin}"));
                text + " (" + &origins.collect::<Vec<_>>().join(", ") + ")"
            }
        }
    }
}

/// The flag of a key on a command line.
pub fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(flag))
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        let mut message = Self::default();
        message.push_text(&text);
        message
    }
}

impl From<&Message> for Message {
    fn from(message: &Message) -> Self {
        message.clone()
    }
}

/// What is said as it is written.
macro_rules! plain {
    ($($type:ty),*) => {
        $(impl From<$type> for Message {
            fn from(plain: $type) -> Self {
                plain.to_string().into()
            }
        })*
    };
}

plain!(&str, &String, u32, u64, usize, i64, f64, &serde_json::Value, serde_json::Value);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled() {
        let found = message!("`x`");
        let message = message!("{a.b_c} is {}, {--d_e} {{}} {}", found, Message::key("f").then("."));
        assert_eq!(message.to_string(), "`a.b_c` is `x`, --d-e {} `f`.");
        assert_eq!(message.render(str::to_owned), "`a.b_c` is `x`, d_e {} `f`.");
        assert_eq!(message.keys().collect::<Vec<_>>(), ["a.b_c", "f"]);
        assert_eq!(Message::joined([1_u32, 2, 3].map(Message::from), ", ").to_string(), "1, 2, 3");
        assert_eq!(Message::places("{} {{}} {a} {--b} {}"), 2);
    }

    #[test]
    fn origins_are_those_of_settings_that_are_mentioned() {
        let given = [("size", "a.toml"), ("engine_args.size", "--engine-args"), ("seed", "b.toml")];
        let told = |message: Message| message.with_origins(given).to_string();
        assert_eq!(told(message!("{seed} is 3")), "`seed` is 3 (from b.toml)");
        assert_eq!(told(message!("{seed[1]} is 3")), "`seed[1]` is 3 (from b.toml)");
        assert_eq!(told(message!("{engine_args.size} is 0")), "`engine_args.size` is 0 (from --engine-args)");
        assert_eq!(
            told(message!("{size} is 0")),
            "`size` is 0 (`size` from a.toml, `engine_args.size` from --engine-args)"
        );
    }

    #[test]
    fn what_only_looks_like_a_setting_has_no_origin() {
        let given = [("seed", "b.toml"), ("latency", "c"), ("tp_size", "d.toml")];
        let told = |message: Message| message.with_origins(given).to_string();
        assert_eq!(told(message!("{latency} is {}", "`seed`")), "`latency` is `seed` (from c)");
        assert_eq!(told(message!("{--seed} 3 is another")), "--seed 3 is another");
        assert_eq!(told(message!("{size} is 0, {seed_of} is 1")), "`size` is 0, `seed_of` is 1");
    }

    #[test]
    fn a_name_that_is_shown_is_not_told_again() {
        let message = message!("{seed} needs {--mode} x").with_origins([("seed", "seed")]);
        assert_eq!(message.to_string(), "`seed` needs --mode x");
        let message = message!("{mode} is x: {--mode} y").with_origins([("mode", "--mode")]);
        assert_eq!(message.to_string(), "`mode` is x: --mode y");
        assert_eq!(message.render(str::to_owned), "`mode` is x: mode y (from --mode)");
    }
}
