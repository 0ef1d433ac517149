//! The latency model `roofline`: a model, a GPU, and how far that is from its data sheet.

use servecast_latency::{Efficiency, Roofline, RooflineSetup};
use servecast_types::message;

use super::options::{Deployed, known_models, positive, refused_option, take_all};
use crate::error::Failure;

const WHAT: &str = "roofline";
const OWN_KEYS: &str =
    "part, compute_efficiency, attention_efficiency, memory_efficiency, kernel_us and host_us";

/// What `roofline:OPTIONS` says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RooflineSettings {
    pub deployed: Deployed,
    efficiency: Efficiency,
}

impl RooflineSettings {
    pub(super) fn of(options: &str) -> Result<Self, Failure> {
        let mut settings = Self { deployed: Deployed::default(), efficiency: Efficiency::default() };
        take_all(WHAT, OWN_KEYS, options, |key, value| {
            Ok(settings.deployed.take(key, value)? || settings.take(key, value)?)
        })?;
        Ok(settings)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let share = || {
            let share = positive(value).ok().filter(|share| *share <= 1.0);
            share.ok_or_else(|| "expected a share above 0 and at most 1".to_owned())
        };
        let time = || {
            let time = value.parse::<f64>().ok().filter(|time| time.is_finite() && *time >= 0.0);
            time.ok_or_else(|| "expected µs of at least 0".to_owned())
        };
        let Efficiency { compute, attention, memory, kernel_us, host_us } = &mut self.efficiency;
        match key {
            "part" => self.deployed.take_part(value)?,
            "compute_efficiency" => *compute = share()?,
            "attention_efficiency" => *attention = share()?,
            "memory_efficiency" => *memory = share()?,
            "kernel_us" => *kernel_us = time()?,
            "host_us" => *host_us = time()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn read(&self) -> Result<Roofline, Failure> {
        let missing = |key: &str, hint: String| {
            let message = message!("{latency}: roofline needs `{}`: roofline:model=NAME,gpu=NAME,tp=N", key);
            Failure::user(message).with_hint(hint)
        };
        let name = self.deployed.model.as_ref().ok_or_else(|| missing("model", known_models()))?;
        let model = self.deployed.shape(name)?;
        let gpu = self.deployed.sheet()?.ok_or_else(|| {
            let known = servecast_latency::GpuSheet::names().collect::<Vec<_>>().join(", ");
            missing("gpu", format!("known by name are {known}; gpu=FILE.toml describes another"))
        })?;
        let gpus = self.deployed.gpus.unwrap_or(1);
        let problem = self.deployed.problem(name, &model)?;
        let problem = if problem.is_some() { problem } else { self.deployed.unconnected()? };
        if let Some((key, value, problem)) = problem {
            return Err(refused_option(WHAT, key, &value, problem));
        }
        Ok(Roofline::new(&RooflineSetup {
            weights: model.weights(self.deployed.dtype),
            model,
            model_name: name.clone(),
            gpu,
            tensor_parallel_size: gpus,
            kv_bytes: self.deployed.kv_dtype.unwrap_or_default().bytes(),
            efficiency: self.efficiency,
            all_reduce: self.deployed.all_reduce(gpus)?,
        }))
    }
}
