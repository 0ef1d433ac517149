//! The modules of a model that draft its next tokens (multi-token prediction).

use super::{Experts, ModelShape, Window};

impl ModelShape {
    /// One of its MTP modules, run by itself: a block like its last one, with attention that keeps keys and values, behind it
    /// the head of the model. What such a module has beside that, the product that joins a token with what the model made of the
    /// tokens before it, is left out.
    ///
    /// # Source
    /// DeepSeek-V3's technical report, 2.2; modules of GLM-4.5 and Qwen3-Next are built alike.
    #[must_use]
    pub fn mtp_module(&self) -> Self {
        let looks_back_in_all = self.window.filter(|window| window.layers == self.attention_layers);
        Self {
            layers: 1,
            attention_layers: 1,
            linear: None,
            feed_forward_layers: 1,
            window: looks_back_in_all.map(|window| Window { layers: 1, after_full: false, ..window }),
            experts: self.experts.map(|experts| Experts { layers: 1, ..experts }),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str) -> ModelShape {
        ModelShape::by_name(name).unwrap().mtp_module()
    }

    /// The published weights of DeepSeek-V3 have 11.5 billion numbers in its MTP module, embedding and head not counted.
    #[test]
    fn a_module_of_deepseek_has_as_many_numbers_as_is_published() {
        let module = module("deepseek-ai/DeepSeek-V3");
        let billions = (module.dense_parameters() + module.all_expert_parameters()) as f64 / 1e9;
        assert!((11.3..11.6).contains(&billions), "{billions}");
        assert!((module.kv_bytes_per_token(1, 2.0) - 576.0 * 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_module_is_one_block_with_attention_of_any_model() {
        for name in ModelShape::names() {
            let (whole, module) = (ModelShape::by_name(name).unwrap(), module(name));
            assert_eq!((module.layers, module.attention_layers, module.linear), (1, 1, None), "{name}");
            assert_eq!(module.experts.is_some(), whole.experts.is_some(), "{name}");
            assert_eq!(module.plain_layers(), u32::from(whole.experts.is_none()), "{name}");
            assert!(module.window.is_none_or(|window| window.layers == 1), "{name}");
        }
    }
}
