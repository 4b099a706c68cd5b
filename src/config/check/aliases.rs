//! Checks the names that stand for other models.

use super::Checker;
use crate::config::checked::{ModelAlias, Pool, PoolId, TargetModel};
use crate::config::raw;

impl Checker<'_> {
    pub(super) fn aliases(
        &mut self,
        raw: Option<Vec<Option<raw::Model>>>,
        pools: &[Option<Pool>],
    ) -> Option<Vec<ModelAlias>> {
        let mut aliases: Vec<ModelAlias> = Vec::new();
        let mut complete = true;
        for (path, raw) in self.elements("models", raw) {
            match self.alias(&path, raw, pools) {
                Some(alias) if aliases.iter().any(|other| other.name == alias.name) => {
                    self.error(&format!("{path}.modelName"), format!("{:?} is defined twice", alias.name));
                }
                Some(alias) => aliases.push(alias),
                None => complete = false,
            }
        }
        complete.then_some(aliases)
    }

    fn alias(&mut self, path: &str, raw: raw::Model, pools: &[Option<Pool>]) -> Option<ModelAlias> {
        let name = self.model_name(&format!("{path}.modelName"), raw.model_name);
        if let Some(name) = &name
            && let Some(pool) = pools.iter().flatten().find(|pool| serves(pool, name))
        {
            let message = format!("{name:?} is a model of pool {:?} already", pool.name);
            self.error(&format!("{path}.modelName"), message);
        }
        let Some(pool_name) = raw.pool else {
            self.error(&format!("{path}.pool"), "is required");
            return None;
        };
        let known = pools.iter().enumerate().find_map(|(index, pool)| {
            pool.as_ref().filter(|pool| pool.name == pool_name).map(|pool| (PoolId(index), pool))
        });
        let Some((id, pool)) = known else {
            // A pool that could not be checked may be the one that is meant.
            if pools.iter().all(Option::is_some) {
                self.error(&format!("{path}.pool"), format!("there is no pool {pool_name:?}"));
            }
            return None;
        };
        let targets = self.targets(&format!("{path}.targetModels"), raw.target_models, pool);
        Some(ModelAlias { name: name?, pool: id, targets: targets? })
    }

    fn targets(
        &mut self,
        path: &str,
        raw: Option<Vec<Option<raw::TargetModel>>>,
        pool: &Pool,
    ) -> Option<Vec<TargetModel>> {
        if raw.is_none() {
            return Some(vec![TargetModel { name: pool.base_model.clone(), weight: 1 }]);
        }
        let raw = self.elements(path, raw);
        let weighted = raw.iter().filter(|(_, target)| target.weight.is_some()).count();
        if weighted != 0 && weighted != raw.len() {
            self.error(path, "some targets have a weight and some have none: give all of them one, or none");
        }
        let mut targets = Vec::new();
        for (path, target) in raw {
            let weight = self.integer(&format!("{path}.weight"), target.weight, 1, 0..=1_000_000);
            match self.model_name(&format!("{path}.name"), target.name) {
                Some(name) if !serves(pool, &name) => {
                    let message = format!("{name:?} is neither the base model nor an adapter of pool {:?}", pool.name);
                    self.error(&format!("{path}.name"), message);
                }
                Some(name) => targets.push(TargetModel { name, weight: u32::try_from(weight).unwrap_or(0) }),
                None => {}
            }
        }
        if targets.iter().all(|target| target.weight == 0) {
            self.error(path, "no target has a weight above 0");
            return None;
        }
        Some(targets)
    }
}

fn serves(pool: &Pool, model: &str) -> bool {
    pool.base_model == model || pool.adapters.iter().any(|adapter| adapter == model)
}
