//! Checks the names that stand for other models.

use super::Checker;
use crate::config::checked::{ModelAlias, PoolId, TargetModel};
use crate::config::raw;

impl Checker<'_> {
    pub(super) fn aliases(&mut self, raw: Option<Vec<Option<raw::Model>>>) -> Option<Vec<ModelAlias>> {
        let mut aliases: Vec<ModelAlias> = Vec::new();
        let mut complete = true;
        for (path, raw) in self.elements("models", raw) {
            match self.alias(&path, raw) {
                Some(alias) if aliases.iter().any(|other| other.name == alias.name) => {
                    self.error(&format!("{path}.modelName"), format!("{:?} is defined twice", alias.name));
                }
                Some(alias) => aliases.push(alias),
                None => complete = false,
            }
        }
        complete.then_some(aliases)
    }

    fn alias(&mut self, path: &str, raw: raw::Model) -> Option<ModelAlias> {
        let name = self.model_name(&format!("{path}.modelName"), raw.model_name);
        if let Some(name) = &name
            && let Some(pool) = self.sketches.iter().find(|pool| pool.serves(name))
        {
            let message = format!("{name:?} is a model of pool {:?} already", pool.name.as_deref().unwrap_or(""));
            self.error(&format!("{path}.modelName"), message);
        }
        let Some(pool_name) = raw.pool else {
            self.error(&format!("{path}.pool"), "is required");
            return None;
        };
        let Some(pool) = self.sketches.iter().position(|pool| pool.name.as_ref() == Some(&pool_name)) else {
            self.error(&format!("{path}.pool"), format!("there is no pool {pool_name:?}"));
            return None;
        };
        let targets = self.targets(&format!("{path}.targetModels"), raw.target_models, pool);
        Some(ModelAlias { name: name?, pool: PoolId(pool), targets: targets? })
    }

    fn targets(
        &mut self,
        path: &str,
        raw: Option<Vec<Option<raw::TargetModel>>>,
        pool: usize,
    ) -> Option<Vec<TargetModel>> {
        let Some(raw) = raw else {
            let base_model = self.sketches.get(pool)?.models.first()?.clone();
            return Some(vec![TargetModel { name: base_model, weight: 1 }]);
        };
        if raw.is_empty() {
            self.error(path, "is empty: leave it out for the pool's base model");
            return None;
        }
        let raw = self.elements(path, Some(raw));
        let weighted = raw.iter().filter(|(_, target)| target.weight.is_some()).count();
        if weighted != 0 && weighted != raw.len() {
            self.error(path, "some targets have a weight and some have none: give all of them one, or none");
        } else if weighted != 0 && raw.iter().all(|(_, target)| target.weight == Some(0)) {
            self.error(path, "no target has a weight above 0");
        }
        let mut targets = Vec::new();
        for (path, target) in raw {
            let weight = self.integer(&format!("{path}.weight"), target.weight, 1, 0..=1_000_000);
            let Some(name) = self.model_name(&format!("{path}.name"), target.name) else { continue };
            if self.sketches.get(pool).is_some_and(|pool| pool.serves(&name)) {
                targets.push(TargetModel { name, weight: u32::try_from(weight).unwrap_or(0) });
            } else {
                let message = format!("{name:?} is neither the base model nor an adapter of the pool");
                self.error(&format!("{path}.name"), message);
            }
        }
        Some(targets)
    }
}
