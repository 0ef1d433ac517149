//! Which latency model the settings of an engine ask for.

use servecast_latency::Linear;
use servecast_types::message;

use crate::{ConfigError, EngineArgs};

/// Where iteration times come from, before files are read.
#[derive(Debug, Clone, PartialEq)]
pub enum LatencySpec {
    /// [`Polynomial`](servecast_latency::Polynomial).
    Polynomial,
    /// [`Linear`].
    Linear(Linear),
    /// [`Grid`](servecast_latency::Grid), from the named file or folder.
    Grid(String),
    /// [`Profile`](servecast_latency::Profile), of the named folder; what follows the first comma are its options.
    Profile(String),
    /// [`Roofline`](servecast_latency::Roofline), by its options.
    Roofline(String),
    /// Composed from measured operators, by its options.
    Ops(String),
    /// One that the program around the simulation brings along, by its name there.
    Callable(String),
    /// [`Step`](servecast_latency::Step), from the named file.
    Step(String),
}

impl LatencySpec {
    /// What a file or folder that it names is called in messages, if it names one.
    pub(crate) fn source(&self) -> Option<String> {
        match self {
            Self::Polynomial | Self::Linear(_) => None,
            Self::Grid(path) => Some(format!("grid:{path}")),
            Self::Profile(path) => Some(format!("profile:{path}")),
            Self::Roofline(options) => Some(format!("roofline:{options}")),
            Self::Ops(options) => Some(format!("ops:{options}")),
            Self::Callable(name) => Some(format!("callable:{name}")),
            Self::Step(path) => Some(format!("step:{path}")),
        }
    }
}

impl EngineArgs {
    /// Which latency model is asked for.
    pub fn latency_spec(&self) -> Result<LatencySpec, ConfigError> {
        let (key, text) = match (&self.latency, &self.planner_profile_data) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Conflict(message!(
                    "{latency} and {planner_profile_data} both name a latency model: give one of them"
                )));
            }
            (None, None) if self.says_what_is_served() => {
                return Ok(LatencySpec::Ops(self.options_of_served(true)));
            }
            (None, None) => return Ok(LatencySpec::Polynomial),
            (Some(text), None) if text == "auto" => {
                return Ok(LatencySpec::Ops(self.options_of_served(true)));
            }
            (None, Some(path)) => return Ok(LatencySpec::Grid(path.clone())),
            (Some(text), None) => ("latency", text),
        };
        let wrong = |problem: &str| Err(ConfigError::wrong(key, format!("`{text}`"), problem));
        match text.split_once(':') {
            None if text == "polynomial" => Ok(LatencySpec::Polynomial),
            Some(("grid", path)) if !path.is_empty() => Ok(LatencySpec::Grid(path.to_owned())),
            Some(("profile", path)) if !path.is_empty() => Ok(LatencySpec::Profile(path.to_owned())),
            Some(("callable", name)) if !name.is_empty() => Ok(LatencySpec::Callable(name.to_owned())),
            Some(("roofline", options)) => Ok(LatencySpec::Roofline(self.options_of_served(false) + options)),
            Some(("ops", options)) => Ok(LatencySpec::Ops(self.options_of_served(true) + options)),
            Some(("step", path)) if !path.is_empty() => Ok(LatencySpec::Step(path.to_owned())),
            Some(("linear", terms)) => {
                let terms: Result<Vec<f64>, _> = terms.split(',').map(|term| term.trim().parse()).collect();
                match terms.as_deref() {
                    Ok(&[base_us, per_token_us, per_seq_us])
                        if terms.iter().flatten().all(|term| term.is_finite() && *term >= 0.0) =>
                    {
                        Ok(LatencySpec::Linear(Linear { base_us, per_token_us, per_seq_us }))
                    }
                    _ => {
                        wrong("expected linear:BASE_US,PER_TOKEN_US,PER_SEQ_US, three numbers of at least 0")
                    }
                }
            }
            _ => wrong(
                "expected auto, polynomial, linear:BASE_US,PER_TOKEN_US,PER_SEQ_US, grid:FILE, profile:DIR, \
                 step:FILE.toml, roofline:OPTIONS or ops:OPTIONS",
            ),
        }
    }

    /// Whether anything is said of the model, its GPUs, or how it runs on them.
    pub fn says_what_is_served(&self) -> bool {
        let Self { model, gpu, dtype, kv_cache_dtype, .. } = self;
        let sizes = [self.tensor_parallel_size, self.data_parallel_size, self.expert_parallel_size];
        [model, gpu, dtype, kv_cache_dtype].into_iter().any(Option::is_some)
            || sizes.iter().any(Option::is_some)
    }

    /// What is served and on what, as options of a latency model, each with a comma behind it; `with_engine`: with what
    /// only measured operators of an engine ask for.
    fn options_of_served(&self, with_engine: bool) -> String {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let served = [
            ("model", self.model.clone()),
            ("gpu", self.gpu.clone()),
            ("tp", number(self.tensor_parallel_size)),
            ("dtype", self.dtype.clone()),
            ("kv_dtype", self.kv_cache_dtype.clone()),
        ];
        let of_engine = [
            ("dp", number(self.data_parallel_size)),
            ("ep", number(self.expert_parallel_size)),
            ("engine", Some(self.engine_type.name().to_owned())),
            ("engine_version", self.engine_version.clone()),
            ("attention", self.attention_backend.clone()),
        ];
        let of_engine = of_engine.into_iter().chain(self.graph_options()).filter(|_| with_engine);
        let given = served.into_iter().chain(of_engine).filter_map(|(key, value)| Some((key, value?)));
        given.flat_map(|(key, value)| [key.to_owned(), "=".to_owned(), value, ",".to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn refused(settings: Value, message: &str) {
        let error = EngineArgs::from_json(settings).and_then(|args| args.validate(None)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn a_latency_model_is_named_with_its_terms() {
        let linear = "expected linear:BASE_US,PER_TOKEN_US,PER_SEQ_US, three numbers of at least 0";
        for latency in
            ["linear:", "linear:1,2", "linear:1,2,3,4", "linear:1,-2,3", "linear:1,x,3", "linear:1,2,inf"]
        {
            refused(json!({"latency": latency}), &format!("`latency` is `{latency}`: {linear}"));
        }
        let any = "expected auto, polynomial, linear:BASE_US,PER_TOKEN_US,PER_SEQ_US, grid:FILE, profile:DIR, \
                   step:FILE.toml, roofline:OPTIONS or ops:OPTIONS";
        for latency in ["", "quadratic", "grid:", "callable:", "step:", "polynomial:3"] {
            refused(json!({"latency": latency}), &format!("`latency` is `{latency}`: {any}"));
        }
        refused(json!({"latency": "grid:h100.npz"}), "`latency` is `grid:h100.npz`: the file was not read");
        let spec = |settings: Value| EngineArgs::from_json(settings).unwrap().latency_spec().unwrap();
        let linear = Linear { base_us: 1000.0, per_token_us: 0.5, per_seq_us: 5.0 };
        assert_eq!(spec(json!({"latency": "linear:1000, 0.5, 5"})), LatencySpec::Linear(linear));
        assert_eq!(
            spec(json!({"planner_profile_data": "h100.npz"})),
            LatencySpec::Grid("h100.npz".to_owned())
        );
        let folder = LatencySpec::Grid("profiles/h100".to_owned());
        assert_eq!(spec(json!({"planner_profile_data": "profiles/h100"})), folder);
        let profile = LatencySpec::Profile("real/profile,link=pcie".to_owned());
        assert_eq!(spec(json!({"latency": "profile:real/profile,link=pcie"})), profile);
        let roofline = LatencySpec::Roofline("model=a/b,gpu=L4".to_owned());
        assert_eq!(spec(json!({"latency": "roofline:model=a/b,gpu=L4"})), roofline);
        assert_eq!(spec(json!({"latency": "callable:mine"})), LatencySpec::Callable("mine".to_owned()));
        assert_eq!(spec(json!({})), LatencySpec::Polynomial);
        let served =
            json!({"model": "a/b", "gpu": "H200", "tensor_parallel_size": 2, "engine_type": "sglang"});
        let ops = LatencySpec::Ops("model=a/b,gpu=H200,tp=2,engine=sglang,".to_owned());
        assert_eq!(spec(served), ops);
        let ops = LatencySpec::Ops("engine=vllm,".to_owned());
        assert_eq!(spec(json!({"latency": "auto"})), ops, "what is missing is said where it is read");
        let ops = LatencySpec::Ops("gpu=H200,engine=vllm,model=a/b".to_owned());
        assert_eq!(spec(json!({"latency": "ops:model=a/b", "gpu": "H200"})), ops);
    }
}
