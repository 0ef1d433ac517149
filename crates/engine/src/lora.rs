//! Settings of what requests bring along beside their prompts: how many LoRA adapters a worker runs and keeps, what it takes to
//! load one, and to compile the grammar of structured output.

use servecast_latency::MOST_HOST_US;
use servecast_types::{Duration, message};

use crate::args::{EngineArgs, EngineType};
use crate::error::ConfigError;

/// Adapters of a worker: vLLM's `LoRAConfig`, and how long a load takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lora {
    /// Most adapters of running requests, which is how many the GPU holds.
    pub(crate) max_loras: u32,
    /// Most adapters in the memory of the host, those on the GPU among them.
    pub(crate) max_cpu_loras: u32,
    /// From the memory of the host to the GPU.
    pub(crate) load: Duration,
    /// To the memory of the host.
    pub(crate) fetch: Duration,
}

impl EngineArgs {
    /// What the settings say of adapters, if there are any.
    pub(crate) fn lora(&self) -> Result<Option<Lora>, ConfigError> {
        let of_adapters = [
            ("max_loras", self.max_loras.is_some()),
            ("max_cpu_loras", self.max_cpu_loras.is_some()),
            ("lora_load_ms", self.lora_load_ms.is_some()),
            ("lora_fetch_ms", self.lora_fetch_ms.is_some()),
        ];
        if let Some((key, _)) = of_adapters.into_iter().find(|(_, given)| *given && !self.enable_lora) {
            let key = servecast_types::Message::key(key);
            return Err(ConfigError::Conflict(message!("{} needs {enable_lora}: switch that on", key)));
        }
        if self.enable_lora && self.engine_type != EngineType::Vllm {
            return Err(ConfigError::Unsupported {
                key: "enable_lora",
                found: "true".to_owned(),
                instead: "only vLLM has adapters: leave it out, or choose `engine_type` vllm",
            });
        }
        let max_loras = self.max_loras.unwrap_or(1);
        let max_cpu_loras = self.max_cpu_loras.unwrap_or(max_loras);
        if max_cpu_loras < max_loras {
            let problem = message!(
                "the host keeps the adapters that are on the GPU, too: expected at least {max_loras}, which is {}",
                max_loras
            );
            return Err(ConfigError::wrong("max_cpu_loras", max_cpu_loras, problem));
        }
        let load = milliseconds("lora_load_ms", self.lora_load_ms)?;
        let fetch = milliseconds("lora_fetch_ms", self.lora_fetch_ms)?;
        Ok(self.enable_lora.then_some(Lora { max_loras, max_cpu_loras, load, fetch }))
    }
}

impl EngineArgs {
    /// How long a grammar is compiled.
    pub(crate) fn grammar_compile(&self) -> Result<Duration, ConfigError> {
        if self.grammar_compile_ms.is_some() && self.engine_type != EngineType::Vllm {
            return Err(ConfigError::Conflict(message!(
                "{grammar_compile_ms} holds settings of vLLM, but {engine_type} is `{}`",
                self.engine_type.name()
            )));
        }
        milliseconds("grammar_compile_ms", self.grammar_compile_ms)
    }
}

/// A time in milliseconds, as the setting `key` has it; absent: none.
pub(crate) fn milliseconds(key: &str, ms: Option<f64>) -> Result<Duration, ConfigError> {
    let ms = ms.unwrap_or(0.0);
    let most = MOST_HOST_US / 1000.0;
    let duration = Duration::from_ms(ms).ok().filter(|_| (0.0..=most).contains(&ms));
    duration.ok_or_else(|| ConfigError::wrong(key, ms, format!("expected milliseconds from 0 to {most:e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn settings_of_adapters_that_cannot_be_are_refused() {
        let milliseconds = "expected milliseconds from 0 to 3.6e6";
        let at_least =
            "the host keeps the adapters that are on the GPU, too: expected at least `max_loras`, which is";
        let table = [
            (json!({"max_loras": 2}), "`max_loras` needs `enable_lora`: switch that on".to_owned()),
            (json!({"max_cpu_loras": 2}), "`max_cpu_loras` needs `enable_lora`: switch that on".to_owned()),
            (json!({"lora_load_ms": 2}), "`lora_load_ms` needs `enable_lora`: switch that on".to_owned()),
            (json!({"lora_fetch_ms": 0}), "`lora_fetch_ms` needs `enable_lora`: switch that on".to_owned()),
            (
                json!({"enable_lora": true, "max_loras": 0}),
                "`max_loras` is 0: expected at least 1".to_owned(),
            ),
            (
                json!({"enable_lora": true, "max_loras": 4, "max_cpu_loras": 3}),
                format!("`max_cpu_loras` is 3: {at_least} 4"),
            ),
            (
                json!({"enable_lora": true, "max_cpu_loras": 0}),
                "`max_cpu_loras` is 0: expected at least 1".to_owned(),
            ),
            (
                json!({"enable_lora": true, "lora_load_ms": -1}),
                format!("`lora_load_ms` is -1: {milliseconds}"),
            ),
            (
                json!({"enable_lora": true, "lora_fetch_ms": 3.7e6}),
                format!("`lora_fetch_ms` is 3700000: {milliseconds}"),
            ),
            (
                json!({"grammar_compile_ms": -2}),
                format!("`grammar_compile_ms` is -2: {milliseconds}"),
            ),
            (
                json!({"grammar_compile_ms": 2, "engine_type": "trtllm"}),
                "`grammar_compile_ms` holds settings of vLLM, but `engine_type` is `trtllm`".to_owned(),
            ),
            (
                json!({"enable_lora": true, "engine_type": "sglang"}),
                "`enable_lora` is true, which is not supported yet: only vLLM has adapters: leave it out, or choose \
                 `engine_type` vllm"
                    .to_owned(),
            ),
        ];
        for (settings, message) in table {
            let error = EngineArgs::from_json(settings).unwrap().validate(None).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let nan = EngineArgs { enable_lora: true, lora_load_ms: Some(f64::NAN), ..EngineArgs::default() };
        let error = nan.validate(None).unwrap_err().to_string();
        assert_eq!(error, format!("`lora_load_ms` is NaN: {milliseconds}"));
    }

    #[test]
    fn the_host_keeps_as_many_adapters_as_run_unless_it_is_told_otherwise() {
        let kept = |settings: Value| {
            let lora = EngineArgs::from_json(settings).unwrap().lora().unwrap();
            lora.map(|lora| (lora.max_loras, lora.max_cpu_loras))
        };
        assert_eq!(kept(json!({})), None);
        assert_eq!(kept(json!({"enable_lora": true})), Some((1, 1)));
        assert_eq!(kept(json!({"enable_lora": true, "max_loras": 3})), Some((3, 3)));
        assert_eq!(kept(json!({"enable_lora": true, "max_cpu_loras": 5})), Some((1, 5)));
    }
}
